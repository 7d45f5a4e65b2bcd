# SPDX-License-Identifier: Apache-2.0
"""Tests the health probes of an agent whose receiver fails and whose interface is removed."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_epping.agent.health import Health, as_text
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel.exporter import ProducerExporter
from tests.support.command import Agent, epping, said
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S
from tests.support.probes import PORT, PROBED, ask
from tests.support.prog_test_run import Bench
from tests.support.recorder import CONFIG, exporter


def listening(ns: Namespace) -> str:
    return ns.run("ss", "-Htln")


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_probes_report_failed_exports_and_no_interface(ns: Namespace, start: Callable[..., Agent], hook: str) -> None:
    with Sink(namespace=ns) as sink:
        ns.ip("link add gone0 type veth peer name gone1", "link set gone0 up", "link set gone1 up")
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}
        agent = start("-i", "gone0", "--interval", "200ms", "--hook", hook, *PROBED, **settings)
        status, checks = ask(ns, "/readyz")
        assert status == 200
        assert checks["attached"]["text"] == "watching gone0"
        assert set(checks) == {"attached", "seen", "read", "exported"}

        sink.fail_with(503)
        eventually(lambda: ask(ns, "/readyz")[0] == 503, PATIENCE_S, "/readyz reports the failed export")
        _, checks = ask(ns, "/readyz")
        assert [name for name, check in checks.items() if not check["ok"]] == ["exported"]
        assert checks["exported"]["text"] == "exports fail: otlp_proto_grpc"
        assert ask(ns, "/livez")[0] == 200, "a restart of the agent would not repair the receiver"
        sink.recover()
        eventually(lambda: ask(ns, "/readyz")[0] == 200, PATIENCE_S, "/readyz reports that exports succeed again")

        ns.ip("link delete gone0")
        status, checks = ask(ns, "/readyz")
        assert (status, checks["attached"]) == (503, {"ok": False, "text": "no interface is watched"})
        assert ask(ns, "/livez")[0] == 200
        assert agent.stop() == 0
        assert str(PORT) not in listening(ns)


def test_a_receiver_that_hangs_makes_the_agent_unready(ns: Namespace, start: Callable[..., Agent]) -> None:
    with ns.entered():
        black_hole = socket.create_server(("127.0.0.1", 0))
    with black_hole:
        endpoint = f"http://127.0.0.1:{black_hole.getsockname()[1]}"
        agent = start("-i", "lo", "--interval", "100ms", *PROBED, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        assert ask(ns, "/readyz")[0] == 200
        eventually(lambda: ask(ns, "/readyz")[0] == 503, PATIENCE_S, "/readyz reports late readings")
        _, checks = ask(ns, "/readyz")
        assert [name for name, check in checks.items() if not check["ok"]] == ["read"]
        assert ask(ns, "/livez")[0] == 200
        agent.process.kill()


def test_alive_but_not_ready_while_the_program_is_loaded(ns: Namespace, start: Callable[..., Agent]) -> None:
    health = Health()
    assert [check.ok for check in health.ready()] == [False]
    assert [check.ok for check in health.live()] == [True]
    assert as_text(health.ready()) == "the kernel program is being loaded"


def test_an_agent_whose_reader_has_died_is_not_alive(bench_of: Callable[..., Bench]) -> None:
    """Sets the time of the last reading to an earlier time.

    If the reader has died, or if an export exceeds its deadline, the last reading is also too old.
    """
    collector = bench_of(CONFIG).collector
    with Sink() as sink:
        readers = [ProducerExporter(exporter(sink), collector) for _ in range(2)]
        health = Health()
        health.start(collector.attachments, readers, 10, lambda: ())
        assert all(check.ok for check in health.live())
        readers[1].producer.read_at_s = time.monotonic() - 22
        assert all(check.ok for check in health.live())
        (late,) = [check for check in health.ready() if check.name == "read"]
        assert (late.ok, late.text) == (False, "counts were read 22 s ago; the interval is 10 s")
        longest_s = 20 + 1 + readers[1].max_export_s  # two intervals, one second, and the longest duration of an export
        readers[1].producer.read_at_s = time.monotonic() - longest_s + 2
        assert all(check.ok for check in health.live())
        readers[1].producer.read_at_s = time.monotonic() - longest_s - 2
        assert not any(check.ok for check in health.live())
        readers[1].producer.read()
        assert all(check.ok for check in health.live())


def test_nothing_listens_by_default(ns: Namespace, start: Callable[..., Agent]) -> None:
    agent = start("-i", "lo", OTEL_METRICS_EXPORTER="console")
    assert listening(ns) == ""
    tasks = Path(f"/proc/{agent.process.pid}/task")
    assert agent.stop() == 0
    assert not tasks.exists()


def test_addresses_on_which_the_agent_listens(ns: Namespace, start: Callable[..., Agent]) -> None:
    settings = {"OTEL_EPPING_HEALTH_PORT": str(PORT), "OTEL_METRICS_EXPORTER": "console"}
    loopback = start("-i", "lo", **settings)
    assert f"127.0.0.1:{PORT}" in listening(ns)
    taken = epping(ns, "run", "-i", "lo", settings=settings)
    assert said(taken) == (
        f"cannot listen on 127.0.0.1 port {PORT} for health probes (Address already in use): "
        "choose another --health-port, or use an address of this host as --health-address"
    )
    assert loopback.stop() == 0
    everywhere = start("-i", "lo", "--health-address", "::", **settings)
    assert ask(ns, "/readyz")[0] == 200, "the address :: accepts IPv4 connections too"
    assert everywhere.stop() == 0


def test_invalid_addresses_are_rejected(ns: Namespace) -> None:
    for address in ("192.0.2.1", "no such host", "::x", "." * 80):
        words = said(epping(ns, "run", "-i", "lo", *PROBED, "--health-address", address))
        assert words.startswith(f"cannot listen on {address} port {PORT} for health probes ("), words
    assert "is not in the range 1<=x<=65535" in said(epping(ns, "run", "-i", "lo", "--health-port", "0"))
