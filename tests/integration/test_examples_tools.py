# SPDX-License-Identifier: Apache-2.0
"""Tests the examples with the tools that read them: the Collector, Helm, and compose-go, the library with which Docker
Compose reads its files.

All three tools are built with Go from pinned versions, and kept in the same cache folder as the binaries of build.sh.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from otel_epping.cli.run import run

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent.parent / "examples"
CHART = EXAMPLES / "helm" / "otel-epping"
CONFIGURATIONS = sorted((EXAMPLES / "collector").glob("*.yaml"))
HELM = "v3.22.0"
COMPOSE = "v2.16.2"
# The time limit of a first build on a slow machine.
_BUILD_S = 1800


@pytest.fixture(scope="module")
def otelcol() -> Path:
    built = subprocess.run([HERE / "build.sh", "otelcol"], check=True, stdout=subprocess.PIPE, text=True)
    return Path(built.stdout.strip())


def installed(name: str, package: str, version: str) -> Path:
    """Returns a command that `go install` builds. Commands are kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    command = cache / "otel-epping" / f"{name}-{version}" / package.rpartition("/")[2]
    if not command.exists():
        path = os.environ["PATH"] + ":/usr/local/go/bin"
        go = ["env", f"PATH={path}", f"GOBIN={command.parent}", "CGO_ENABLED=0", "go", "install"]
        subprocess.run([*go, f"{package}@{version}"], check=True)
    return command


@pytest.fixture(scope="module")
def helm() -> Path:
    return installed("helm", "helm.sh/helm/v3/cmd/helm", HELM)


@pytest.fixture(scope="module")
def compose() -> Path:
    """The command of compose-go, the library with which Docker Compose reads files."""
    return installed("compose", "github.com/compose-spec/compose-go/v2/cmd", COMPOSE)


def template(helm: Path, *values: str) -> subprocess.CompletedProcess[str]:
    # This Helm was built without the Makefile of Helm, so its default version of Kubernetes is very old.
    command = [helm, "template", "try", CHART, "--kube-version", kubernetes_validate.latest_version()]
    return subprocess.run(
        [*command, *(argument for value in values for argument in ("--set", value))], capture_output=True, text=True
    )


@pytest.mark.timeout(_BUILD_S)
@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_the_collector_accepts_the_configuration(otelcol: Path, path: Path) -> None:
    text = path.read_text()
    # The comment at the start of the configuration names each variable, with an example.
    used = set(re.findall(r"\$\{env:(\w+)\}", text))
    documented = dict(
        re.findall(r"(\w+)=(\S+)", "".join(re.findall(r"^#     .*otelcol --config.*$", text, re.MULTILINE)))
    )
    assert used == set(documented)
    environment = {**os.environ, **documented}
    validated = subprocess.run(
        [otelcol, "validate", "--config", path], env=environment, capture_output=True, text=True, timeout=60
    )
    assert validated.returncode == 0, validated.stderr
    assert f"--config {path.name}" in text


@pytest.mark.timeout(_BUILD_S)
@pytest.mark.parametrize(
    "values",
    [
        (),
        (
            "interfaces={eth0,eth1}",
            "lan={br0}",
            "secret=headers",
            "networks=names",
            "settings.OTEL_EPPING_MAX_SUBNETS=1000",
        ),
        ("interfaces=null", "lan={br0}", "imagePullSecrets[0].name=key", "nodeSelector.kind=edge"),
    ],
    ids=["defaults", "all", "lan"],
)
def test_kubernetes_accepts_the_manifest_of_the_chart(helm: Path, values: tuple[str, ...]) -> None:
    made = template(helm, *values)
    assert made.returncode == 0, made.stderr
    (document,) = yaml.safe_load_all(made.stdout)
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    (container,) = document["spec"]["template"]["spec"]["containers"]
    name, *arguments = (argument.replace("$(HOST_IP)", "192.0.2.1") for argument in container["args"])
    assert name == "run"
    assert run.make_context("run", arguments).params["health_port"] == container["ports"][0]["containerPort"]


@pytest.mark.timeout(_BUILD_S)
def test_the_chart_equals_the_manifest(helm: Path) -> None:
    """With its default values, the chart creates the same pods as examples/kubernetes. Only the names differ."""

    def pod(documents: list[dict[str, Any]]) -> dict[str, Any]:
        (document,) = (each for each in documents if each["kind"] == "DaemonSet")
        spec: dict[str, Any] = document["spec"]["template"]["spec"]
        for container in spec["containers"]:
            container["args"] = ["-i" if each == "--interface" else each for each in container["args"]]
            container.pop("imagePullPolicy", None)
        return spec

    made = template(helm)
    manifest = (EXAMPLES / "kubernetes" / "daemonset.yaml").read_text()
    assert pod(list(yaml.safe_load_all(made.stdout))) == pod(list(yaml.safe_load_all(manifest)))


@pytest.mark.timeout(_BUILD_S)
@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("interfaces=null", "lan"),
        ("endpoint=collector:4317", "/endpoint"),
        ("health.port=0", "/health/port"),
        ("imag.tag=1", "imag"),
        ("settings.PATH=x", "PATH"),
    ],
)
def test_the_chart_refuses_invalid_values(helm: Path, value: str, named: str) -> None:
    made = template(helm, value)
    assert made.returncode != 0
    assert "specifications of the schema" in made.stderr
    assert named in made.stderr


@pytest.mark.timeout(_BUILD_S)
def test_helm_lint_finds_no_fault(helm: Path) -> None:
    subprocess.run([helm, "lint", "--strict", CHART], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.timeout(_BUILD_S)
def test_compose_accepts_the_sidecar(compose: Path) -> None:
    def read(*how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([compose, *how, EXAMPLES / "sidecar" / "compose.yaml"], capture_output=True, text=True)

    # The command of compose-go (v2.16) does not look up variables in the environment. So the test can only check that
    # the command reports the variable OTEL_EXPORTER_OTLP_ENDPOINT as missing.
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is missing a value: where a Collector listens" in read().stderr
    taken = read("--no-interpolation", "--format", "json")
    assert taken.returncode == 0, taken.stderr
    agent = json.loads(taken.stdout)["services"]["otel-epping"]
    assert agent["network_mode"] == "service:app"
    name, *arguments = agent["command"]
    assert name == "run"
    assert run.make_context("run", arguments).params["interface"] == ("auto",)
