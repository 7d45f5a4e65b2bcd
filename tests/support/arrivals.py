# SPDX-License-Identifier: Apache-2.0
"""Collects the data that a sink received from one agent: the metrics, the points of each series, and totals."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_epping.lab.otlp_sink import Point, Sink
from otel_epping.otel import metric_table, semconv

DELTA, CUMULATIVE = 1, 2
PACKETS = metric_table.SUBNET_PACKETS.name
INTERFACE_PACKETS = "epping.interface.packet.count"
NOT_IP = ("non_ip", "malformed")


@dataclass
class Arrived:
    """All points that arrived from one agent. The points of each metric are in order of arrival."""

    metrics: dict[str, Metric]
    points: dict[str, list[Point]]

    def series(self, name: str) -> dict[tuple[tuple[str, Any], ...], list[Point]]:
        """Return the points of each series of a metric, sorted by time."""
        found: dict[tuple[tuple[str, Any], ...], list[Point]] = {}
        for point in sorted(self.points.get(name, []), key=lambda point: point.point.time_unix_nano):
            found.setdefault(tuple(sorted(point.attributes.items())), []).append(point)
        return found

    def totals(self, name: str, value: Callable[[Any], int] = lambda point: int(point.as_int)) -> Counter[Any]:
        """Return the total of each series: the sum of its delta points, or its last cumulative point."""
        return Counter(
            {
                series: sum(value(point.point) for point in points)
                if points[0].temporality == DELTA
                else value(points[-1].point)
                for series, points in self.series(name).items()
            }
        )

    def packets(self, direction: str) -> int:
        """Return the number of packets from, or to, all subnets. Packets of unanswered subnets are left out."""
        wanted = (semconv.SUBNET_DIRECTION, direction)
        return sum(count for series, count in self.totals(PACKETS).items() if wanted in series)

    @property
    def tcp_packets(self) -> Counter[Any]:
        """The number of TCP packets of each subnet, direction and class."""
        return Counter(
            {s: n for s, n in self.totals(PACKETS).items() if str(dict(s).get(semconv.TRAFFIC_CLASS))[:3] == "tcp"}
        )

    @property
    def unanswered_packets(self) -> int:
        """The number of packets from and to all subnets for which no RTT was measured when the packets passed."""
        return self.totals(PACKETS)[((semconv.UNANSWERED, True),)]

    def interface_packets(self, without: tuple[str, ...] = ()) -> int:
        return sum(
            count
            for series, count in self.totals(INTERFACE_PACKETS).items()
            if dict(series)[semconv.PACKET_KIND] not in without
        )

    @property
    def rtts(self) -> int:
        return sum(self.totals(metric_table.RTT.name, lambda point: int(point.count)).values())


def arrived(sink: Sink, name: str) -> Arrived:
    metrics: dict[str, Metric] = {}
    points: dict[str, list[Point]] = {}
    for resource, metric in sink.metrics():
        if resource.get("service.instance.id") == name:
            metrics[metric.name] = metric
    for metric_name in metrics:
        points[metric_name] = [p for p in sink.points(metric_name) if p.resource["service.instance.id"] == name]
    return Arrived(metrics, points)


def settle(sink: Sink) -> None:
    """Wait until the collector has forwarded all data, that is, until the sink has received no request for 0.6 s."""
    count, since = len(sink.received), time.monotonic()
    while time.monotonic() - since < 0.6:
        time.sleep(0.05)
        if len(sink.received) != count:
            count, since = len(sink.received), time.monotonic()


def check_truth(one: Arrived) -> None:
    """Check that each IP packet is counted once for its source subnet and once for its destination subnet."""
    passed, sent, received = one.interface_packets(without=NOT_IP), one.packets("from"), one.packets("to")
    assert sent + received + one.unanswered_packets == 2 * passed > 0
    assert max(sent, received) <= passed


def check_same_tcp_packets(agents: list[Arrived]) -> None:
    """Check that agents that saw the same packets have exported the same numbers of TCP packets.

    An agent exports the first packets of a subnet, up to the subnet's first RTT, in the aggregate. So in the series of
    subnets, an agent may have fewer packets than another agent. The difference is at most the number of packets in the
    aggregate.
    """
    kind = (semconv.PACKET_KIND, "tcp")
    first, *others = ({s: n for s, n in agent.totals(INTERFACE_PACKETS).items() if kind in s} for agent in agents)
    assert first
    assert all(other == first for other in others)
    for one, other in permutations(agents, 2):
        missing = other.tcp_packets - one.tcp_packets
        assert missing.total() <= one.unanswered_packets
