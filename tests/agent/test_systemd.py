# SPDX-License-Identifier: Apache-2.0
"""Tests the notifications to systemd over a real datagram socket. systemd itself runs in test_systemd_service.py."""

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
    """An address of a Unix socket: a path or an abstract address."""
    return str(public / "notify") if request.param == "path" else f"@otel-epping-test-{os.getpid()}"


@pytest.fixture
def receiver(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that receives the messages to NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0", 1))
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield receiver


def next_message(receiver: socket.socket) -> dict[str, str]:
    """Return the variables that the next message assigns."""
    return dict(line.split("=", 1) for line in receiver.recv(4096).decode().split("\n"))


def test_each_call_sends_its_variables(receiver: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready("watching lo")
    assert next_message(receiver) == {"READY": "1", "STATUS": "watching lo"}
    notifier.report("fine", alive=True)
    assert next_message(receiver) == {"STATUS": "fine"}, "systemd has no watchdog for this service"
    before_us = time.monotonic_ns() // 1000
    notifier.reloading()
    message = next_message(receiver)
    assert message["RELOADING"] == "1"
    assert before_us <= int(message["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    notifier.stopping("bye")
    assert next_message(receiver) == {"STOPPING": "1", "STATUS": "bye"}


def test_watchdog_messages_are_sent_at_half_the_timeout_while_alive(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert notifier.interval_s == 1.5
    notifier.report("fine", alive=True)
    assert next_message(receiver) == {"STATUS": "fine", "WATCHDOG": "1"}
    notifier.report("the reader hangs", alive=False)
    assert next_message(receiver) == {"STATUS": "the reader hangs"}


@pytest.mark.parametrize("settings", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}])
def test_a_watchdog_of_another_process_or_without_a_valid_timeout_is_ignored(
    receiver: socket.socket, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    for name, value in ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())} | settings).items():
        monkeypatch.setenv(name, value)
    notifier = Notifier()
    assert notifier.interval_s == 10
    notifier.report("fine", alive=True)
    assert next_message(receiver) == {"STATUS": "fine"}


def test_without_a_receiver_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without NOTIFY_SOCKET, the notifier does nothing.

    If the socket does not exist, the notifier drops the message.
    """
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert Notifier().interval_s is None
    Notifier().ready("x")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Notifier().ready("x")


def test_a_systemd_that_does_not_read_delays_nothing(receiver: socket.socket) -> None:
    notifier = Notifier()
    receiver.setblocking(False)
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
    receiver: socket.socket,
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
    assert "WATCHDOG" not in next_message(receiver)
    assert "WATCHDOG" not in next_message(receiver)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("not alive: counts were read 1000 s ago; the interval is 1 s")


# An abstract socket belongs to one network namespace. The agent and this test are in different network namespaces.
@pytest.mark.parametrize("address", ["path"], indirect=True)
def test_messages_of_a_running_agent(receiver: socket.socket, ns: Namespace, start: Callable[..., Agent]) -> None:
    """The agent sends READY when it starts to count packets. The agent then sends its state. Before the agent ends, it
    sends STOPPING."""
    with Sink(namespace=ns) as sink:
        Path(os.environ["NOTIFY_SOCKET"]).chmod(0o777)  # systemd's own socket also has mode 0777
        running = start(
            *("-i", "lo", "--interval", "100ms"),
            NOTIFY_SOCKET=os.environ["NOTIFY_SOCKET"],
            WATCHDOG_USEC="400000",
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        )
        message = next_message(receiver)
        assert message["READY"] == "1"
        assert message["STATUS"].startswith("watching lo; ")
        assert [next_message(receiver).get("WATCHDOG") for _ in range(4)] == ["1"] * 4
        sink.fail_with(503)
        while "exports fail: otlp_proto_grpc" not in (message := next_message(receiver))["STATUS"]:
            pass
        assert message["WATCHDOG"] == "1", "a restart of the agent would not repair the receiver"
        sink.recover()
        while not next_message(receiver)["STATUS"].endswith("exports arrive"):
            pass
        running.process.send_signal(signal.SIGTERM)
        while "STOPPING" not in (message := next_message(receiver)):
            pass
        assert message == {"STOPPING": "1", "STATUS": "exporting the last interval"}
        assert running.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("address", ["path"], indirect=True)
def test_a_reload_ends_when_the_named_networks_are_in_use(
    receiver: socket.socket, ns: Namespace, start: Callable[..., Agent], public: Path
) -> None:
    names = public / "networks.csv"
    names.write_text("cidr,name\n10.1.0.0/28,Miller\n")
    Path(os.environ["NOTIFY_SOCKET"]).chmod(0o777)
    running = start(
        *("-i", "lo", "--networks", str(names)),
        NOTIFY_SOCKET=os.environ["NOTIFY_SOCKET"],
        OTEL_METRICS_EXPORTER="console",
    )
    assert next_message(receiver)["READY"] == "1"
    names.write_text("".join(["cidr,name\n", *(f"10.{a}.{b}.0/28,{a}.{b}\n" for a in range(50) for b in range(256))]))
    running.process.send_signal(signal.SIGHUP)
    while "RELOADING" not in next_message(receiver):
        pass
    while "READY" not in (message := next_message(receiver)):
        pass
    assert message["STATUS"].startswith("watching lo; ")
    assert "12800 named networks with 12800 prefixes (new: 12800, ended: 1)" in running.log.read_text()
    assert running.stop() == 0
