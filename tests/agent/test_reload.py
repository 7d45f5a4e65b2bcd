# SPDX-License-Identifier: Apache-2.0
"""Tests SIGHUP. The agent applies changes that need no restart, and only logs the other changes. No count is lost."""

import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_epping.agent.reload import Reloader
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, semconv
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from tests.support.command import Agent, converse

TURNS = 5


@pytest.fixture
def sink(ns: Namespace) -> Iterator[Sink]:
    with Sink(namespace=ns) as sink:
        yield sink


def test_interfaces_and_log_level_are_reloaded_and_no_count_is_lost(
    ns: Namespace, start: Callable[..., Agent], sink: Sink, public: Path
) -> None:
    path = public / "settings.yaml"
    path.write_text("interface: lo\nsample_interval: 0\n")
    agent = start("--config", str(path), "--max-flows", "1000", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)

    def reload(text: str, words: str) -> None:
        path.write_text(text)
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for(words)

    converse(ns, TURNS)
    reload("interface: [lo, 'up*']\nsample_interval: 0\n", "attached to up1")
    converse(ns, TURNS)
    reload("interface: lo\nscale: 3\nmax_flows: 200\nsample_interval: 0\n", "detached from up1: it is no longer")
    log = agent.log.read_text()
    assert "and take effect after a restart: scale\n" in log  # max_flows is unchanged: a flag overrides the file
    assert log.count("settings reloaded; changes applied: interface\n") == 2
    converse(ns, TURNS)
    reload("interfac: up0\n", "settings are unchanged")
    assert f"{path}:1: there is no setting 'interfac': did you mean interface?" in agent.log.read_text()
    reload("max_age: 1s\n", "settings are unchanged: no interface is selected")
    path.unlink()
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for(f"settings are unchanged: cannot read {path}")
    converse(ns, TURNS)
    again = "interface: lo\nlog_level: warning\nscale: 3\n"
    reload(again, "take effect after a restart: sample_interval, scale")
    assert agent.stop() == 0
    assert "stopping" not in agent.log.read_text()  # this line has the level info, which is not logged now
    packets = [
        point
        for point in sink.points("epping.interface.packet.count")
        if point.attributes[semconv.INTERFACE] == "lo" and point.attributes[semconv.PACKET_KIND] == "tcp"
    ]
    # Each round sends about two segments and two acknowledgements. The agent's own exports add packets on the interface
    # lo.
    assert sum(point.point.as_int for point in packets) >= 4 * TURNS * 2


@pytest.mark.parametrize("field", ["interface", "lan", "mirror"])
def test_a_failed_change_of_interfaces_is_repeated_at_the_next_reload(
    ns: Namespace, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    """The agent reads the same settings twice.

    At the first reading, the process has no free descriptor for a netlink socket.
    """
    before = Settings(interface=("lo",))
    changed: dict[str, Any] = {field: ("up1",)}
    wanted = replace(before, **changed)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ns.entered(), EppingCollector(EppingConfig(max_subnets=64, max_flows=64)) as collector:
        follower = InterfaceMonitor(collector.attachments, before.selection)
        follower.begin()
        reloader = Reloader(before, lambda _: wanted, follower, collector, lambda _: None, names.open_files(before))
        done: list[bool] = []
        gc.collect()  # otherwise the descriptors of earlier tests may be closed while this test has no free descriptor
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            reloader.reload(lambda: done.append(True))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        cause = "cannot watch the new selection of interfaces (Too many open files)"
        assert f"the selection of interfaces is unchanged: {cause}" in caplog.text
        assert collector.attachments.watched == ["lo"]
        reloader.reload(lambda: done.append(True))
        assert len(done) == 2
        assert "up1" in collector.attachments.watched
        follower.close()
    assert caplog.text.count("was loaded without a mirror port") == (field == "mirror")


def test_limits_are_reloaded(ns: Namespace, start: Callable[..., Agent], sink: Sink, public: Path) -> None:
    path = public / "settings.yaml"
    path.write_text("interface: lo\n")
    agent = start("--config", str(path), "--interval", "200ms", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)

    def reload(text: str, words: str) -> None:
        path.write_text(f"interface: lo\n{text}")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for(words)

    reload("metrics: rtts\n", "settings are unchanged: ")
    reload("metrics: all\n", "take effect after a restart: metrics")
    reload(
        "max_series: 9\nidle_timeout: 2h\nroll_up: false\nmin_samples: 2\n",
        "settings reloaded; changes applied: idle_timeout, max_series, roll_up, min_samples",
    )
    converse(ns, TURNS)
    assert agent.stop() == 0
    limits = [point.point.as_int for point in sink.points(agent_metrics.SERIES_LIMIT.name)]
    assert limits[-1] == 9
