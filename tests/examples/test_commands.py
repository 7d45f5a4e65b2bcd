# SPDX-License-Identifier: Apache-2.0
"""Tests that every command, setting and metric named in the files of examples/ exists in the agent."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from otel_epping.cli.run import run
from otel_epping.otel import metric_table, semconv

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
TEXTS = sorted(path for path in EXAMPLES.rglob("*") if path.is_file())
_REFERENCE = re.compile(r"\$\((\w+)\)")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def agents(path: Path) -> Iterator[dict[str, Any]]:
    """Return the containers of a Kubernetes manifest that run the agent."""
    for document in documents(path):
        pod = document["spec"]["template"]["spec"] if "spec" in document else {}
        for container in (*pod.get("initContainers", []), *pod.get("containers", [])):
            if container["image"].startswith("otel-epping:"):
                yield container


def parse(command: list[str]) -> dict[str, Any]:
    """Parse a command line, and return its settings. Raises if the agent would reject the command line."""
    name, *arguments = command
    assert name == "run"
    return run.make_context("run", arguments).params


def test_the_command_of_the_unit_is_valid() -> None:
    unit = (EXAMPLES / "systemd" / "otel-epping@.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    program, *command = shlex.split(line.replace("%I", "eth0"))
    assert program.endswith("/otel-epping")
    assert parse(command)["health_port"] is None


def test_the_command_and_files_of_the_image_exist() -> None:
    text = (EXAMPLES / "docker" / "Dockerfile").read_text()
    (comment,) = re.findall(r"^# .* otel-epping (run .*)$", text, re.MULTILINE)
    parse(shlex.split(comment))
    # Dockerfile.dockerignore excludes all paths, and includes some paths again with "!". Each path that is included
    # again exists.
    ignored = (EXAMPLES / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    for kept in [line[1:] for line in ignored if line.startswith("!")]:
        assert (EXAMPLES.parent / kept).exists(), kept


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_follow_kubernetes_schema(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_commands_of_manifests_are_valid(path: Path) -> None:
    found = list(agents(path))
    assert len(found) == 1
    for container in found:
        declared = [variable["name"] for variable in container["env"]]
        # Kubernetes replaces a reference to a variable only if the variable is declared before the reference.
        for place, variable in enumerate(container["env"]):
            assert set(_REFERENCE.findall(variable.get("value", ""))) <= set(declared[:place]), variable
        for argument in container["args"]:
            assert set(_REFERENCE.findall(argument)) <= set(declared), argument
        parameters = parse([_REFERENCE.sub("192.0.2.1", argument) for argument in container["args"]])
        assert parameters["health_port"] == container["ports"][0]["containerPort"]
        assert parameters["health_address"] == "192.0.2.1", "the kubelet sends its probes to this address"
        probes = {name: probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
        assert probes["livenessProbe"] == probes["startupProbe"] == "/livez"
        assert probes.get("readinessProbe", "/readyz") == "/readyz"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_grant_only_the_required_privileges(path: Path) -> None:
    for container in agents(path):
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]}
        assert context["runAsNonRoot"]
        assert not context.get("privileged")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_names_exist(path: Path) -> None:
    text = path.read_text()
    settings = {f"OTEL_EPPING_{(parameter.name or '').upper()}" for parameter in run.params}
    assert set(re.findall(r"\bOTEL_EPPING_[A-Z0-9_]*[A-Z0-9]", text)) <= settings
    names = {metric.name for metric in metric_table.METRICS} | set(semconv.ATTRIBUTES)
    labels = {name.replace(".", "_") for name in names}  # Prometheus' names, without unit and _total
    for name in re.findall(r"\bepping[._][\w.]*\w", text):
        assert name in names or re.sub("(_seconds|_bytes)?(_total)?$", "", name) in labels, name
