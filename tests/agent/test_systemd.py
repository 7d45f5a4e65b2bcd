# SPDX-License-Identifier: Apache-2.0
"""Tests the notifications to systemd over a real datagram socket; test_systemd_service.py runs systemd itself."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from otel_epping.agent.health import Health
from otel_epping.agent.systemd import Notifier, Watchdog
from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.process.signals import Stop
from tests.support.command import Agent
from tests.support.patience import PATIENCE_S
from tests.support.prog_test_run import Bench
from tests.support.recorder import CONFIG, exporter


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, public: Path) -> str:
    """An address of either kind."""
    return str(public / "notify") if request.param == "path" else f"@otel-epping-test-{os.getpid()}"


@pytest.fixture
def ear(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The receiving end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(address.replace("@", "\0", 1))
        ear.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield ear


def heard(ear: socket.socket) -> dict[str, str]:
    """Return the next message as names and values."""
    return dict(line.split("=", 1) for line in ear.recv(4096).decode().split("\n"))


def test_what_each_call_says(ear: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("watching lo")
    assert heard(ear) == {"READY": "1", "STATUS": "watching lo"}
    notifier.report("fine", alive=True)
    assert heard(ear) == {"STATUS": "fine"}, "nobody asked for a watchdog"
    before_us = time.monotonic_ns() // 1000
    with notifier.reloading("watching eth0"):
        message = heard(ear)
        assert message["RELOADING"] == "1"
        assert before_us <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert heard(ear) == {"READY": "1", "STATUS": "watching eth0"}
    notifier.stopping("bye")
    assert heard(ear) == {"STOPPING": "1", "STATUS": "bye"}


def test_a_reload_that_fails_ends_all_the_same(ear: socket.socket) -> None:
    with suppress(RuntimeError), Notifier().reloading("as before"):
        assert "RELOADING" in heard(ear)
        raise RuntimeError
    assert heard(ear) == {"READY": "1", "STATUS": "as before"}


def test_the_watchdog_is_fed_in_half_of_its_time_and_only_alive(
    ear: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert notifier.interval_s == 1.5
    notifier.report("fine", alive=True)
    assert heard(ear) == {"STATUS": "fine", "WATCHDOG": "1"}
    notifier.report("the reader hangs", alive=False)
    assert heard(ear) == {"STATUS": "the reader hangs"}


@pytest.mark.parametrize("settings", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}])
def test_a_watchdog_that_is_not_on_us(
    ear: socket.socket, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    for name, value in ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())} | settings).items():
        monkeypatch.setenv(name, value)
    notifier = Notifier()
    assert notifier.interval_s == 10
    notifier.report("fine", alive=True)
    assert heard(ear) == {"STATUS": "fine"}


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the variable there is nothing to do. Without the socket nothing can be sent, and the agent goes on."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert Notifier().interval_s is None
    Notifier().ready("x")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().ready("x")


def test_a_systemd_that_does_not_read_holds_nobody_up(ear: socket.socket) -> None:
    notifier = Notifier()
    ear.setblocking(False)
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        filler.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        with suppress(BlockingIOError):
            while True:
                filler.send(b"X=1")
        notifier.report("fine", alive=True)
    assert time.monotonic() - began < 2


def test_a_dead_reader_is_logged_once_and_stops_the_watchdog(
    ear: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    bench_of: Callable[[EppingConfig], Bench],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    collector = bench_of(CONFIG).collector
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = Stop("")
    try:
        with Sink() as sink:
            reader = ProducerExporter(exporter(sink), collector)
            health = Health()
            health.start(collector.attachments, [reader], 1, lambda: ())
            reader.producer.read_at_s = time.monotonic() - 1000
            main = threading.Timer(0.5, stop.set)
            main.start()
            watchdog = Watchdog(Notifier(), health)
            while not stop.wait(watchdog.wait_s()):
                watchdog.report()
            main.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "WATCHDOG" not in heard(ear)
    assert "WATCHDOG" not in heard(ear)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("not alive: counts were read 1000 s ago; the interval is 1 s")


# Abstract sockets belong to a network namespace, and the agent is in another.
@pytest.mark.parametrize("address", ["path"], indirect=True)
def test_an_agents_life(ear: socket.socket, ns: Namespace, start: Callable[..., Agent]) -> None:
    """The agent is ready when it counts, sends its state, and announces its end."""
    with Sink(namespace=ns) as sink:
        Path(os.environ["NOTIFY_SOCKET"]).chmod(0o777)  # as systemd's own is
        running = start(
            *("-i", "lo", "--interval", "100ms"),
            NOTIFY_SOCKET=os.environ["NOTIFY_SOCKET"],
            WATCHDOG_USEC="400000",
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        )
        message = heard(ear)
        assert message["READY"] == "1"
        assert message["STATUS"].startswith("watching lo; ")
        assert [heard(ear).get("WATCHDOG") for _ in range(4)] == ["1"] * 4
        sink.fail_with(503)
        while "exports fail: otlp_proto_grpc" not in (message := heard(ear))["STATUS"]:
            pass
        assert message["WATCHDOG"] == "1", "another start of ours brings no receiver back"
        sink.recover()
        while not heard(ear)["STATUS"].endswith("exports arrive"):
            pass
        running.process.send_signal(signal.SIGTERM)
        while "STOPPING" not in (message := heard(ear)):
            pass
        assert message == {"STOPPING": "1", "STATUS": "exporting the last interval"}
        assert running.process.wait(PATIENCE_S) == 0
