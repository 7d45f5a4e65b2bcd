# SPDX-License-Identifier: Apache-2.0
"""Tests the settings files of examples/settings: a file is valid and limits the series, and an agent starts with it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from otel_epping.lab.namespaces import Namespace
from otel_epping.otel import agent_metrics, metric_table
from otel_epping.settings import file
from otel_epping.settings.definitions import DEFINITIONS
from otel_epping.settings.model import Settings
from tests.support.command import environment
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT

pytestmark = pytest.mark.parallel

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "examples" / "settings").glob("*.yaml"))


def settings_of(path: Path) -> Settings:
    return Settings(**{field: given.value for field, given in file.read(str(path)).items()})


@pytest.mark.unit
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_valid_and_limits_the_series(path: Path) -> None:
    settings = settings_of(path)
    assert settings.selection.all
    assert settings.limits.max_series
    assert settings.limits.roll_up
    assert settings.idle_timeout_ns
    kept = settings.exported.exported
    assert agent_metrics.MEMORY_USAGE in kept
    assert len(kept[metric_table.RTT]) < len(metric_table.RTT.keys)


@pytest.mark.unit
def test_the_files_are_those_of_the_documentation() -> None:
    assert [path.name for path in FILES] == ["isp-middlebox.yaml", "kubernetes-node.yaml", "server.yaml"]
    readme = (ROOT / "examples" / "README.md").read_text()
    assert all(f"settings/{path.name}" in readme for path in FILES)
    assert all(yaml.safe_load(path.read_text()).keys() <= {each.key for each in DEFINITIONS} for path in FILES)


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with the interfaces that the files name. wan0 has the default route."""
    with Namespace("settings") as namespace:
        for name in ("wan0", "lan0"):
            namespace.ip(f"link add {name} type ifb", f"link set {name} up")
        namespace.ip("address add 192.0.2.1/24 dev wan0", "route add default via 192.0.2.254")
        yield namespace


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_agent_starts_with_the_file(host: Namespace, path: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    variables = environment({"OTEL_METRICS_EXPORTER": "console", "OTEL_EPPING_CONFIG": str(path)})
    with log.open("w") as stderr, out.open("w") as stdout:
        agent = host.popen([*AGENT, "run"], env=variables, stderr=stderr, stdout=stdout)
    try:
        eventually(lambda: "watching" in log.read_text(), PATIENCE_S, "the agent watches its interfaces")
        agent.terminate()
        assert agent.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        agent.kill()
        agent.wait()
    exported = json.loads(out.read_text())["resource_metrics"][0]["scope_metrics"]
    names = {metric["name"] for scope in exported for metric in scope["metrics"]}
    declared = {metric.name for metric in settings_of(path).exported.exported}
    assert agent_metrics.SUBNET_LIMIT.name in names <= declared
