# SPDX-License-Identifier: Apache-2.0
"""Sets the machine's clock back by an hour and then forward again, while agents export.

In one test, the agent's monotonic clock differs from the kernel program's monotonic clock. The difference simulates a
suspension of the machine, during which the kernel's monotonic clock stops and the wall clock continues.
"""

import socket
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from scapy.layers.inet import ICMP

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Point, Sink
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.transport import sender
from tests.support.command import Agent, converse
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT
from tests.support.wall_clock import set_back

HOUR_S = 3600
SECOND = 10**9


def series(sink: Sink) -> Iterator[tuple[str, list[Point]]]:
    """Yield all series of all metrics, including metrics of the SDK.

    The points of a series are in the order of arrival.
    """
    for name in {metric.name for _, metric in sink.metrics()}:
        found: dict[str, list[Point]] = {}
        for point in sink.points(name):
            found.setdefault(str(sorted(point.attributes.items())), []).append(point)
        for points in found.values():
            yield name, points


def check_times(sink: Sink, earliest_ns: int, *, delta: bool) -> int:
    """Check the start times and end times of the points of each series. Return the number of points."""
    count = 0
    for name, points in series(sink):
        times = [(one.point.start_time_unix_nano, one.point.time_unix_nano) for one in points]
        count += len(times)
        assert all(earliest_ns <= end for _, end in times), name
        assert all(before < after for (_, before), (_, after) in pairwise(times)), name
        if points[0].temporality == 0:  # a gauge has no start time
            continue
        assert all(earliest_ns <= start <= end for start, end in times), name
        if delta and points[0].temporality == 1:
            assert all(before <= start for (_, before), (start, _) in pairwise(times)), name
        else:
            assert len({start for start, _ in times}) == 1, name
    return count


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_an_hour_back_and_forward_again(ns: Namespace, start: Callable[..., Agent], temporality: str) -> None:
    with Sink(namespace=ns) as sink:
        began_ns = time.time_ns()
        agent = start(
            *("-i", "lo", "--interval", "50ms", "--sample-interval", "0", "--prefix-v4", "32"),
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality,
        )
        converse(ns)
        sink.wait_for(lambda one: len(one.received) >= 3, PATIENCE_S)
        with set_back(HOUR_S):
            # The wall clock was set back, but the clock of the exported times was not. So the points of new slots have
            # times after the current time of the wall clock.
            with ns.entered(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
                for host in range(1, 20):
                    sender.sendto(bytes(ICMP(id=7, seq=host) / b"data"), (f"127.7.0.{host}", 0))
            seen = len(sink.received)
            sink.wait_for(lambda one: len(one.received) >= seen + 6, PATIENCE_S)
        seen = len(sink.received)
        sink.wait_for(lambda one: len(one.received) >= seen + 3, PATIENCE_S)
        converse(ns)
        assert agent.stop() == 0
        assert check_times(sink, began_ns, delta=temporality == "delta") > 100
        latest_ns = max(one.point.time_unix_nano for one in sink.points(metric_table.RTT.name))
        # if the wall clock is set forward, the exported times follow at once
        assert 0 <= time.time_ns() - latest_ns < 10 * SECOND
        assert "127.7.0.19/32" in {
            one.attributes.get(semconv.SUBNET) for one in sink.points(metric_table.SUBNET_PACKETS.name)
        }
    assert agent.log.read_text().count("the system clock was set back") == 1


def test_an_agent_in_a_time_namespace(ns: Namespace, start: Callable[..., Agent]) -> None:
    """The monotonic clock of the agent is eleven days ahead of the kernel's monotonic clock.

    So the slots of the program seem to be eleven days old.
    """
    ahead = ["unshare", "--time", "--fork", "--kill-child", "--monotonic", "1000000", "--boottime", "1000000", "--"]
    with Sink(namespace=ns) as sink:
        began_ns = time.time_ns()
        start(
            *("-i", "lo", "--interval", "100ms", "--sample-interval", "0"),
            command=[*ahead, *AGENT],
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
        )
        converse(ns)
        sink.wait_for(lambda one: one.points(metric_table.RTT.name), PATIENCE_S)
        assert check_times(sink, began_ns, delta=False) > 20


@pytest.mark.parametrize("made", [GrpcExporter, HttpExporter])
def test_a_step_of_the_wall_clock_does_not_extend_the_timeout(
    made: type[GrpcExporter | HttpExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock may be set back between two tries.

    The official exporters compute the remaining time by the wall clock. Our sender must not wait longer when the wall
    clock is set back.
    """
    clock = count(time.time(), -HOUR_S)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        exporter = made(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.5)
        sending = sender(exporter)
        assert sending
        began = time.monotonic()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: next(clock))
            assert sending.send(Request(b"", 0)).failure
        assert time.monotonic() - began < 5
        exporter.shutdown()
