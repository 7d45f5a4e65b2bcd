# SPDX-License-Identifier: Apache-2.0
"""Simulates traffic of many subnets, adds up the exports, and compares traffic and exports.

Crowd     sends packets from and to numbered subnets through the program, and counts the packets
Receiver  receives an exporter's metrics, and checks that every series continues correctly
"""

import ipaddress
import itertools
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import AggregationTemporality, ExponentialHistogramDataPoint, ScopeMetrics
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether

from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.flow_table import forget_flows
from tests.support.prog_test_run import EGRESS, INGRESS, MS, SECOND, START_NS, Bench

PACKETS, IO = metric_table.SUBNET_PACKETS.name, "epping.network.io"
OPENED, CLOSED = "epping.flow.opened.count", "epping.flow.closed.count"
RTTS, RTT_NS = "rtts", "rtt_ns"
CLIENT = "192.0.2.1"
# Offsets in a frame with Ethernet, IPv4, and TCP with two NOPs and timestamps.
SOURCE, DESTINATION, PORTS, FLAGS, TSVAL, TSECR, ECHO_ID = 26, 30, 34, 47, 58, 62, 38


def address_of(subnet: int) -> bytes:
    """Return an address of a numbered subnet. The subnets are /24 networks. These /24 networks are in a few /16
    networks, and these /16 networks are in two /8 networks."""
    return bytes([20 + subnet % 2, subnet % 6, subnet, 9])


def network_of(subnet: int) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network((address_of(subnet), 24), strict=False)


class Bounds(NamedTuple):
    """The idle timeout of a collector, and the limits of the metric producers that use the collector."""

    idle_timeout_ns: int = 0
    limits: Limits = Limits(max_series=None, roll_up=False)

    def apply(self, bench: Bench, *producers: EppingMetricProducer) -> None:
        bench.collector.change_idle_timeout(self.idle_timeout_ns)
        for producer in producers:
            producer.limits = self.limits


def emptied(bench: Bench, idle_timeout_ns: int = 0) -> Bench:
    """Set the idle timeout, and free all slots except the overflow slot."""
    bench.collector._readers.clear()  # a failed test may have left a reader
    crowd, reader, slots = Crowd(bench), bench.collector.reader(), bench.collector.slots
    forget_flows(bench.collector.program.maps)
    slots.idle_ns = SECOND
    for _ in range(4):
        crowd.sleep(2)
        reader.read()
    assert not bench.slots["state"].any()
    bench.collector.change_idle_timeout(idle_timeout_ns)
    slots.retired = 0
    return bench


def counted_before(bench: Bench) -> Counter[str]:
    """Return the earlier counts that a new reader reports: the counts in the maps, and the counts of freed newcomers.
    If the slot of an answered subnet was freed earlier, only older readers know the counts of this slot."""
    folded = bench.collector.slots.folded.view(bench.collector.reader().counters_dtype)["classes"]
    there = [
        int(bench.traffic["classes"][way][field].sum() + folded[way][field].sum())
        for field in ("packets", "bytes")
        for way in ("from", "to")
    ]
    rtts = {RTTS: int(bench.histograms["ended"].sum()), RTT_NS: int(bench.histograms["sum_ns"].sum())}
    return Counter({PACKETS: there[0] + there[1], IO: there[2] + there[3]} | rtts)


class Crowd:
    """Sends packets of subnets. Counts packets, bytes and RTTs, and adds up the RTTs. Each packet and byte is counted
    twice, because each packet has a source and a destination subnet.

    The timestamps of the packets never decrease. The clock that determines which subnets are idle shows the packets'
    time.
    """

    _days = itertools.count()

    def __init__(self, bench: Bench) -> None:
        self.bench, self.now_ns = bench, START_NS + next(self._days) * 86_400 * SECOND
        self.truth = counted_before(bench)
        self.packets_of: Counter[int] = Counter()
        self._talks: dict[int, int] = {}
        self._port = 1024
        ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 1))]
        self._tcp = bytes(ether / IP(src=CLIENT, dst=CLIENT) / TCP(flags="PA", options=options) / b"data")
        self._echo = bytes(ether / IP(src=CLIENT, dst=CLIENT) / ICMP() / b"data")
        bench.collector.slots.now_ns = lambda: self.now_ns

    def _send(self, entry: str, frame: bytearray, subnet: int) -> None:
        here, there = ipaddress.IPv4Address(CLIENT).packed, address_of(subnet)
        frame[SOURCE : SOURCE + 8] = there + here if entry == INGRESS else here + there
        feeder, rtts, rtt_ns = self.bench.feeders[entry], self._histograms("ended"), self._histograms("sum_ns")
        feeder.set(bytes(frame))
        feeder.run(self.now_ns)
        self.truth += Counter(
            {
                PACKETS: 2,
                IO: 2 * len(frame),
                RTTS: self._histograms("ended") - rtts,
                RTT_NS: self._histograms("sum_ns") - rtt_ns,
            }
        )
        self.packets_of[subnet] += 1

    def _histograms(self, name: str) -> int:
        return int(self.bench.histograms[name].sum())

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND)

    def ping(self, subnet: int, rtt_ns: int) -> None:
        """Send an echo request and its reply. Echo packets belong to no flow, so only the slot cache stores the slots
        of their subnets."""
        before = self.truth.copy()
        self._port += 1
        for entry, kind in ((EGRESS, 8), (INGRESS, 0)):
            frame = bytearray(self._echo)
            frame[34] = kind
            struct.pack_into("!HH", frame, ECHO_ID, self._port % 50_000, self._port // 50_000)
            self._send(entry, frame, subnet)
            self.now_ns += rtt_ns if entry == EGRESS else MS
        assert (self.truth - before)[RTT_NS] == rtt_ns

    def knock(self, subnet: int) -> None:
        """Send a SYN from the subnet. The SYN is never answered. Each SYN belongs to another flow."""
        self._port += 1
        frame = bytearray(self._tcp)
        frame[FLAGS] = 0x02
        struct.pack_into("!HH", frame, PORTS, 1024 + self._port % 60_000, 443)
        self._send(INGRESS, frame, subnet)

    def _segment(self, entry: str, subnet: int, port: int, tsval: int, tsecr: int, flags: int = 0x18) -> None:
        frame = bytearray(self._tcp)
        frame[FLAGS] = flags
        ports = (443, port) if entry == INGRESS else (port, 443)
        struct.pack_into("!HH", frame, PORTS, *ports)
        # The sequence number advances with the timestamp, so each segment continues the previous one.
        here, there = (4 * tsecr, 4 * tsval) if entry == INGRESS else (4 * tsval, 4 * tsecr)
        struct.pack_into("!II", frame, PORTS + 4, *((there, here) if entry == INGRESS else (here, there)))
        struct.pack_into("!II", frame, TSVAL, tsval, tsecr)
        self._send(entry, frame, subnet)

    def talk(self, subnet: int, rtt_ns: int) -> None:
        """Send a segment of the subnet's TCP flow and its reply. The flow table entry stores the slots of the
        subnets."""
        if subnet not in self._talks:
            self._talks[subnet] = 1
            self._segment(EGRESS, subnet, 2000 + subnet, 1, 0)
        tsval = self._talks[subnet] = self._talks[subnet] + 1
        self.now_ns += MS
        self._segment(EGRESS, subnet, 2000 + subnet, tsval, 0)
        self.now_ns += rtt_ns
        self._segment(INGRESS, subnet, 2000 + subnet, 1, tsval, 0x10)


@dataclass
class _Stream:
    """The received points of a series. `ended` is the sum of the last values before each restart of the series."""

    start_ns: int = 0
    time_ns: int = 0
    value: Counter[Any] = field(default_factory=Counter)
    ended: Counter[Any] = field(default_factory=Counter)

    def total(self) -> Counter[Any]:
        return self.value + self.ended


def _value(point: Any, *, is_late: bool) -> Counter[Any]:
    if not isinstance(point, ExponentialHistogramDataPoint):
        return Counter({"value": point.value})
    # Convert the buckets to scale 0, to which all histograms can be reduced.
    value: Counter[Any] = Counter({RTTS: point.count, RTT_NS: round(point.sum * 1e9)})
    for i, count in enumerate(point.positive.bucket_counts):
        value[(point.positive.offset + i) >> point.scale] += count
    assert point.count == sum(point.positive.bucket_counts)
    if semconv.SUBNET in (point.attributes or {}) and not is_late:  # the overflow point may include older RTTs
        mean = point.sum / point.count
        assert point.min * (1 - 1e-9) <= mean <= point.max * (1 + 1e-9)
    return value


class Receiver:
    """Adds up the exported points.

    is_late  true if the producer's reader was created after the first RTT. For earlier RTTs, the reader has no minimum
             and no maximum
    """

    def __init__(self, producer: EppingMetricProducer, *, is_late: bool = False) -> None:
        self.producer, self._is_late = producer, is_late
        self.subnets: set[Any] = set()  # the subnets of the latest export
        self.unanswered = 0  # the number of subnets that have not answered, in the latest export
        self._is_delta = producer.temporality is AggregationTemporality.DELTA
        self._streams: dict[Any, _Stream] = {}

    def export(self, arrives: Any = lambda: True) -> bool:
        """Export. Requests for which `arrives` returns false are lost. Return true if all requests arrived."""
        self.producer.read()
        self.subnets, seen, whole = set(), set[Any](), True
        for batch in self.producer.batches():
            metrics = self.producer.metrics(batch)
            if not arrives():
                whole = False
                continue
            self._take(metrics, seen)
            self.producer.acknowledge(batch)
        return whole

    def _take(self, metrics: ScopeMetrics, seen: set[Any]) -> None:
        for metric in metrics.metrics:
            if metric.name == agent_metrics.SUBNET_UNANSWERED.name:
                points: Any = metric.data.data_points
                self.unanswered = sum(point.value for point in points)
            if not metric.name.startswith("epping.agent"):
                for point in metric.data.data_points:
                    name = metric.name, *sorted((point.attributes or {}).items())
                    assert name not in seen, f"one export has two points of the series {name}"
                    seen.add(name)
                    if metric.name != metric_table.ACTIVE_FLOWS.name:
                        self._hear(self._streams.setdefault(name, _Stream()), point)
                    where = dict(point.attributes or {})
                    if semconv.SUBNET in where:
                        self.subnets.add((where[semconv.SUBNET], where[semconv.SIDE]))

    def _hear(self, stream: _Stream, point: Any) -> None:
        value = _value(point, is_late=self._is_late)
        start_ns, time_ns = point.start_time_unix_nano, point.time_unix_nano
        assert start_ns <= time_ns
        assert min(value.values()) >= 0
        if self._is_delta or start_ns != stream.start_ns:
            assert start_ns >= stream.time_ns, "a point overlaps the previous point"
            stream.ended += stream.value
        else:
            assert time_ns > stream.time_ns
            for key, before in stream.value.items():
                assert value[key] >= before, "the value of a series has decreased"
        stream.start_ns, stream.time_ns, stream.value = start_ns, time_ns, value

    def total(self, name: str, **attributes: str | bool) -> Counter[Any]:
        """Add up the series of a metric. Only series with all the given attributes, such as `subnet`, are included."""
        wanted = {f"epping.{key}": value for key, value in attributes.items()}
        found: Counter[Any] = Counter()
        for (metric, *labels), stream in self._streams.items():
            if metric == name and wanted.items() <= dict(labels).items():
                found += stream.total()
        return found

    def by_subnet(self, name: str) -> Counter[str]:
        """For each subnet, add up the RTTs of all series of a metric."""
        found = Counter[str]()
        for (metric, *labels), stream in self._streams.items():
            if metric == name:
                found[str(dict(labels).get(semconv.SUBNET))] += stream.total()[RTTS]
        return found

    def check(self, truth: Counter[str]) -> None:
        """Check that all counts were exported exactly once."""
        for name in (PACKETS, IO):
            assert self.total(name)["value"] == truth[name], name
        rtts = self.total(metric_table.RTT.name)
        assert rtts[RTTS] == truth[RTTS]
        assert abs(rtts[RTT_NS] - truth[RTT_NS]) <= 1e-9 * truth[RTT_NS] + 1
