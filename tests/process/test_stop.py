# SPDX-License-Identifier: Apache-2.0
"""Tests how an agent stops. The agent exports before it detaches. Nothing delays the stop of the agent beyond the
deadline."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from otel_epping.kernel import libbpf
from otel_epping.kernel.netlink import links, traffic_control
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table
from tests.support.command import COMMAND, Agent
from tests.support.lab_agent import crowded
from tests.support.other_programs import HOOKS
from tests.support.patience import PATIENCE_S

INTERFACES = 20


@pytest.fixture
def host() -> Iterator[Namespace]:
    with crowded("stop", INTERFACES) as namespace:
        yield namespace


def programs_on_hooks(host: Namespace) -> int:
    """Return how many programs are on the hooks of the host's interfaces."""
    with host.entered():
        ifindexes = [link.ifindex for link in links.links()]
        filters = [
            each for index in ifindexes for way in ("ingress", "egress") for each in traffic_control.filters(index, way)
        ]
        return len([each for each in filters if each.handle]) + sum(
            libbpf.attached_count(index, hook) for index in ifindexes for hook in HOOKS
        )


def test_the_last_export_comes_before_interfaces_are_detached(host: Namespace, start: Callable[..., Agent]) -> None:
    """The kernel needs at least 10 ms to remove a TCX link. So the removal of several hundred links takes seconds."""
    with Sink(namespace=host) as sink:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        agent = start("-i", "v*", "--interval", "1h", namespace=host, **endpoint)
        assert programs_on_hooks(host) == 2 * INTERFACES
        assert agent.stop() == 0
        attached = [point.point.as_int for point in sink.points(metric_table.INTERFACE_ATTACHED.name)]
    assert attached == [1] * INTERFACES
    assert programs_on_hooks(host) == 0


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_interfaces_are_detached_even_if_the_receiver_hangs(
    host: Namespace, start: Callable[..., Agent], hook: str
) -> None:
    with host.entered():
        receiver = socket.create_server(("127.0.0.1", 0))
    with receiver:  # this server accepts connections, and never responds
        endpoint = f"http://127.0.0.1:{receiver.getsockname()[1]}"
        agent = start(
            "-i", "v*", "--interval", "1h", "--hook", hook,
            namespace=host,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_TIMEOUT="100",
        )  # fmt: skip
        began = time.monotonic()
        assert agent.stop() == 1
        assert time.monotonic() - began < 12
    assert agent.log.read_text().endswith("otel-epping: the last interval was not delivered: no answer within 8 s\n")
    assert programs_on_hooks(host) == 0


def test_a_stop_interrupts_attaching_to_interfaces(host: Namespace, start: Callable[..., Agent]) -> None:
    host.ip(*(part for index in range(200) for part in (f"link add w{index} type ifb", f"link set w{index} up")))
    agent = start("-i", "v*", namespace=host, OTEL_METRICS_EXPORTER="console")
    host.ip(*(f"link set w{index} name v{INTERFACES + index}" for index in range(200)))
    agent.wait_for("attached to v2")
    assert agent.stop() == 0
    assert agent.log.read_text().count("INFO attached to v") < 200


WAITING = """
import os, signal, sys, threading, time
from otel_epping.process.signals import Stop
stop = Stop("at once", 0.3)
stop.at_deadline = sys.argv[1], 5
os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=time.sleep, args=(60,)).start()  # the interpreter would wait for this thread
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize(("words", "written"), [("too late", "otel-epping: too late\n"), ("", "")])
def test_the_deadline_ends_a_waiting_process(words: str, written: str) -> None:
    done = subprocess.run(
        [COMMAND[0], "-c", WAITING, words], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (5, written)
