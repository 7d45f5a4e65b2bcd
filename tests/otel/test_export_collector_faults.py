# SPDX-License-Identifier: Apache-2.0
"""Runs agents with faulty collectors. The collectors are silent, close connections or reject large requests.

The agent ends in time, even without a response. An exporter that hangs does not delay other exporters. After a
collector works again, the deltas show that each packet was exported exactly once.
"""

import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.message import Message
from pathlib import Path

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table
from otel_epping.process.signals import STOP_S
from tests.support.command import Agent, converse
from tests.support.patience import PATIENCE_S
from tests.support.servers import Answer, HttpServer

PACKETS = metric_table.SUBNET_PACKETS.name
RST = struct.pack("ii", 1, 0)  # struct linger, with which close() sends a RST segment
HOURS = 5


@contextmanager
def rude(ns: Namespace, manners: str) -> Iterator[int]:
    """Yield a port that accepts connections.

    With "silent", no connection gets a response. With "cut", each connection is reset in the middle of a request.
    """
    with ns.entered():
        listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):  # the listener was closed, so the test ends
            while True:
                taken.append(listener.accept()[0])
                if manners == "cut":
                    taken[-1].recv(500)
                    taken[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                    taken.pop().close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in taken:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            connection.close()


def total(sink: Sink, name: str = PACKETS) -> int:
    """Return the sum of all points of a metric. The points must be deltas."""
    points = sink.points(name)
    assert {one.temporality for one in points} == {1}
    return sum(one.point.as_int for one in points)


def test_collectors_that_work_again(ns: Namespace, start: Callable[..., Agent]) -> None:
    """The collector fails, and then works again.

    The agent logs each cause of the outage once, and exports each count once.
    """
    with ExitStack() as undo:
        agents, ports = {}, {}
        with ExitStack() as meanwhile:
            for protocol, manners in (("grpc", "silent"), ("http/protobuf", "cut")):
                ports[protocol] = meanwhile.enter_context(rude(ns, manners))
                agents[protocol] = start(
                    *("-i", "lo", "--interval", "100ms"),
                    OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                    OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{ports[protocol]}",
                    OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
                    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
                )
            for agent in agents.values():
                agent.wait_for("export failed")
        sinks = {
            "grpc": undo.enter_context(Sink(grpc_port=ports["grpc"], namespace=ns)),
            "http/protobuf": undo.enter_context(Sink(http_port=ports["http/protobuf"], namespace=ns)),
        }
        for agent in agents.values():
            agent.wait_for("exports succeed again")
        for protocol, agent in agents.items():
            assert agent.stop() == 0
            causes = re.findall("export failed.*", agent.log.read_text())
            assert len(causes) == len(set(causes)), (
                "each cause is logged once: first a silent collector, then a closed port"
            )
            check_truth(sinks[protocol])


def check_truth(sink: Sink) -> None:
    """Check that each packet is counted for its source subnet and for its destination subnet."""
    assert total(sink) == 2 * total(sink, "epping.interface.packet.count") > 0


def wait_for_end(agents: list[Agent], began: float) -> list[float]:
    """Wait until all agents have ended. Return, for each agent, the seconds from `began` to the end."""
    took = []
    for agent in agents:
        agent.process.wait(PATIENCE_S)
        took.append(time.monotonic() - began)
    return took


def test_an_exporter_that_hangs_delays_neither_others_nor_the_end(
    ns: Namespace, start: Callable[..., Agent], tmp_path: Path
) -> None:
    """One agent's collector is silent. The exporter has its default timeout of 10 s.

    Another agent writes to a full pipe.
    """
    with ExitStack() as undo:
        sink = undo.enter_context(Sink(namespace=ns))
        silent = f"http://127.0.0.1:{undo.enter_context(rude(ns, 'silent'))}"
        with_console = start(
            *("-i", "lo", "--interval", "100ms"),
            output=subprocess.PIPE,
            OTEL_METRICS_EXPORTER="console,otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        )
        printed = tmp_path / "printed"
        grpc = start(
            *("-i", "lo", "--interval", "100ms"),
            output=undo.enter_context(printed.open("w")).fileno(),
            OTEL_METRICS_EXPORTER="otlp,console",
            OTEL_EXPORTER_OTLP_ENDPOINT=silent,
        )
        http = start(
            *("-i", "lo", "--interval", "100ms"),
            OTEL_EXPORTER_OTLP_ENDPOINT=silent,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        # The pipe is full after 64 KiB. The exports over OTLP continue.
        sink.wait_for(lambda one: len(one.received) >= 40, PATIENCE_S)
        agents = [with_console, grpc, http]
        for agent in agents:
            agent.process.terminate()
        took = wait_for_end(agents, time.monotonic())
        print(f"\n[measured] seconds from SIGTERM to the end: {[round(one, 1) for one in took]}")
        assert max(took) < STOP_S + 2
        for agent in agents:
            assert agent.process.returncode == 1
            *_, last = agent.log.read_text().splitlines()
            assert last == f"otel-epping: the last interval was not delivered: no answer within {STOP_S:g} s"
            assert "Traceback" not in agent.log.read_text()
        check_truth(sink)
        assert printed.read_text().count("resource_metrics") > 10


@contextmanager
def small(ns: Namespace, most_bytes: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the URL of an HTTP receiver that limits the size of requests, and a list of its response statuses."""
    answers: list[int] = []

    def reply(_: Message, body: bytes) -> Answer:
        answers.append(413 if len(body) > most_bytes else 200)
        return answers[-1], {}, b""

    with ns.entered():
        server = HttpServer(reply)
    with server:
        yield server.url, answers


def test_a_request_that_is_too_large_is_logged_and_exports_continue(ns: Namespace, start: Callable[..., Agent]) -> None:
    with small(ns, 10) as (endpoint, answers):
        agent = start(
            *("-i", "lo", "--interval", "100ms"),
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        agent.wait_for("export failed, counts stay pending")
        time.sleep(0.5)
        assert agent.stop() == 1
    log = agent.log.read_text()
    assert len(answers) > 3
    assert set(answers) == {413}
    assert log.count("export failed") == 1
    assert "413" in log or "Too Large" in log


def rss_kb(agent: Agent) -> int:
    return int(Path(f"/proc/{agent.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])


def test_a_long_outage_takes_no_memory_and_loses_no_counts(ns: Namespace, start: Callable[..., Agent]) -> None:
    """The number of failed exports is that of an outage of five hours with an interval of 60 s.

    The temporality is delta, and the traffic is steady.
    """
    exports = HOURS * 60
    with Sink(namespace=ns) as sink:
        # Status 400 is a final error, so the agent does not send the request again before the next interval.
        sink.fail_with(400)
        agent = start(
            *("-i", "lo", "--interval", "20ms", "--sample-interval", "0"),
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        )
        sizes = []
        for hour in range(1, HOURS + 1):
            converse(ns)
            sink.wait_for(lambda one, hour=hour: one.rejected >= hour * exports / HOURS, PATIENCE_S)  # type: ignore[misc]
            sizes.append((rss_kb(agent), len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))))
        sink.recover()
        agent.wait_for("exports succeed again")
        assert agent.stop() == 0
        print(f"\n[measured] kB and descriptors after each hour: {sizes}")
        assert sizes[-1][0] - sizes[0][0] < 1024
        assert sizes[-1][1] == sizes[0][1]
        points = sink.points(metric_table.RTT.name)
        assert sum(one.point.count for one in points) >= HOURS * 20
        check_truth(sink)
