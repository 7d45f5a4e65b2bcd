# SPDX-License-Identifier: Apache-2.0
"""Signals: Ctrl-C while it compiles, a second one while it stops, and one that comes twice."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from command import COMMAND, Agent, environment

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.sink import Sink


@pytest.mark.parametrize("delay_s", [0.3, 0.6])
def test_ctrl_c_while_it_compiles(ns: Namespace, delay_s: float) -> None:
    """A terminal signals all processes in the foreground: the loader too."""
    command = [*COMMAND, "run", "-i", "lo"]
    settings = environment({"OTEL_METRICS_EXPORTER": "console"})
    process = ns.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert "Traceback" not in stderr
    assert "run it by hand" not in stderr


@pytest.fixture
def black_hole(ns: Namespace) -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with ns.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_second_signal_ends_at_once(start: Callable[..., Agent], black_hole: str) -> None:
    agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=black_hole)
    agent.process.send_signal(signal.SIGTERM)
    agent.wait_for("stopping")
    time.sleep(1.2)
    assert agent.process.poll() is None
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(1) == 128 + signal.SIGINT
    assert agent.log.read_text().splitlines()[-1].startswith("otel-epping: stopped at once")


def test_a_signal_doubled_on_its_way_is_one(ns: Namespace, start: Callable[..., Agent]) -> None:
    """As timeout(1) does: it signals its child, and then the process group that the child is in."""
    with Sink(namespace=ns) as sink:
        agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        agent.process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(10) == 0, agent.log.read_text()
        assert sink.requests
