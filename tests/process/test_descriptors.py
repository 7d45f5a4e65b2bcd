# SPDX-License-Identifier: Apache-2.0
"""Tests low and high limits on file descriptors. Interfaces that exceed the limit are rejected. Nothing else fails."""

import os
import re
import resource
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, semconv
from otel_epping.process import descriptors
from tests.support.command import COMMAND, Agent, converse, environment
from tests.support.lab_agent import crowded, eventually
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, innermost

INTERFACES = 40
REFUSED = re.compile(r"not watched: cannot attach to (v\d+) \(Too many open files\): raise the limit of open files")


@pytest.fixture
def many() -> Iterator[Namespace]:
    """A host that has many interfaces."""
    with crowded("many", INTERFACES) as namespace:
        yield namespace


def limited(soft: int, hard: int) -> list[str]:
    return ["prlimit", f"--nofile={soft}:{hard}", *AGENT]


def counted(sink: Sink, event: str) -> int:
    """Return the number of interface events of the kind `event`, from the agent's own metric of these events."""
    points = sink.points(agent_metrics.INTERFACE_EVENTS.name)
    return max((p.point.as_int for p in points if p.attributes[semconv.INTERFACE_EVENT] == event), default=0)


def test_the_soft_limit_is_raised_to_the_hard_one(many: Namespace, start: Callable[..., Agent]) -> None:
    agent = start("-i", "v*", command=limited(60, 400), namespace=many, OTEL_METRICS_EXPORTER="console")
    limits = Path(f"/proc/{innermost(agent.process.pid)}/limits").read_text()
    assert re.search(r"^Max open files +400 +400 ", limits, re.M)
    assert f"and {INTERFACES - 20} more" in agent.log.read_text()
    assert agent.stop() == 0


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_too_many_interfaces_are_rejected_at_the_start_and_later(
    many: Namespace, start: Callable[..., Agent], hook: str
) -> None:
    """The agent exports over HTTP, and each connection takes a descriptor.

    After an interface is deleted, an interface that was rejected before is attached.
    """
    with Sink(namespace=many) as sink:
        agent = start(
            "-i", "lo", "-i", "v*", "--hook", hook, "--interval", "100ms",
            command=limited(90, 90),
            namespace=many,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint.removesuffix("/v1/metrics"),
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )  # fmt: skip
        rejected = REFUSED.findall(agent.log.read_text())
        assert 0 < len(rejected) < INTERFACES
        eventually(lambda: counted(sink, "refused") == len(rejected), PATIENCE_S, "rejected interfaces are counted")
        assert counted(sink, "attached") == INTERFACES + 1 - len(rejected)
        many.ip("link add late type ifb", "link set late up", "link delete v0")
        agent.wait_for(f"attached to {rejected[0]}")
        converse(many, 3)
        requests = len(sink.received)
        eventually(lambda: len(sink.received) > requests + 3, PATIENCE_S, "exports continue")
        # the rejection of each interface is logged once
        assert len(REFUSED.findall(agent.log.read_text())) == len(rejected)
        assert agent.stop() == 0


def test_descriptor_numbers_above_the_limit_of_select(ns: Namespace, public: Path) -> None:
    """Some supervisors leak descriptors to the agent, so the agent's own descriptors have large numbers.

    Each interface takes two descriptors.
    """
    path = public / "settings.yaml"
    path.write_text("interface: lo\n")
    command = ["sh", "-c", "ulimit -n 3000; " + 'exec "$0" "$@"', *AGENT, "run", "--config", str(path)]
    leaked = [os.dup(0) for _ in range(1100)]
    log = public / "log"
    try:
        for fd in leaked:
            os.set_inheritable(fd, True)
        with log.open("w") as stderr:
            process = ns.popen(
                command, env=environment({"OTEL_METRICS_EXPORTER": "none,console"}), stdout=subprocess.DEVNULL,
                stderr=stderr, close_fds=False,
            )  # fmt: skip
    finally:
        for fd in leaked:
            os.close(fd)
    try:
        agent = Agent(process, log)
        agent.wait_for("watching lo")
        assert len(list(Path(f"/proc/{innermost(agent.process.pid)}/fd").iterdir())) > 1100
        path.write_text("interface: [lo, up1]\n")
        process.send_signal(signal.SIGHUP)
        agent.wait_for("attached to up1")
        assert agent.stop() == 0
    finally:
        process.kill()
        process.wait()


def test_an_agent_survives_a_time_without_descriptors(ns: Namespace, start: Callable[..., Agent], public: Path) -> None:
    """While the process has no free descriptor, interfaces, settings, exports and probes fail.

    When descriptors are free again, interfaces, settings, exports and probes work again.
    """
    path = public / "settings.yaml"
    path.write_text("interface: lo\nhealth_port: 9872\n")
    with Sink(namespace=ns) as sink:
        agent = start(
            "--config", str(path), "--interval", "100ms",
            command=COMMAND,  # the agent runs as the user of this test, so the test may change its limits
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint.removesuffix("/v1/metrics"),
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )  # fmt: skip
        pid = innermost(agent.process.pid)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, before[1]))
        path.write_text("interface: [lo, up1]\nhealth_port: 9872\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("settings are unchanged: cannot read")
        ns.ip("link add brief type ifb", "link set brief up", "link delete brief")
        with ns.entered(), pytest.raises(OSError, match=r".*"):
            urllib.request.urlopen("http://127.0.0.1:9872/readyz", timeout=0.5)
        time.sleep(0.5)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("attached to up1")
        requests = len(sink.received)
        eventually(lambda: len(sink.received) > requests + 3, PATIENCE_S, "exports continue")
        with ns.entered():
            assert urllib.request.urlopen("http://127.0.0.1:9872/livez").status == 200
        assert agent.stop() == 0
    assert "uncaught" not in agent.log.read_text()


def test_the_reserve() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 64 + 2, limit[1]))
        reserve = min(64, (free + 64 + 2) // 4)
        descriptors.require(64 + 2 - reserve, 0)
        with pytest.raises(OSError, match="Too many open files"):
            descriptors.require(64 + 3 - reserve, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
