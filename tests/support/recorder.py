# SPDX-License-Identifier: Apache-2.0
"""Creates RTTs of given values. The kernel program counts the RTTs, and the OpenTelemetry SDK exports them from this
process.

The list shows the pitfalls of OpenTelemetry SDK 1.45 and the tests for them. Each pitfall was reproduced before
`otel/install.py` was written:

 1  a provider without data never calls its exporter        test_our_metrics_are_exported_if_the_provider_has_no_data
 2  an exception in a collect callback ends the thread      test_a_reader_survives_a_failed_reading
 3  a provider ignores readers that were added later        test_the_readers_shutdown_exports_the_last_interval
 4  a provider clears these readers before their shutdown   the same: we shut the reader down and remove no reader
 5  Prometheus' reader fails on exponential histograms      test_prometheus_scrapes_the_same_counts
 6  exporters reject numpy's numbers                         test_points_hold_plain_numbers_only
 7  unknown minima and maxima must be None                   test_unknown_extremes_are_not_exported
 8  OTLP exporters split requests badly, or not at all      test_requests_are_split_by_weight, test_export_scale.py
 9  an oversize request is retried, then dropped            the same: no request comes near the limit
10  exporters ignore the timeout of an export               test_an_export_keeps_its_deadline
11  exporters ignore partial success                        test_rejected_points_are_counted_and_logged_once
12  a dead collector delays the shutdown                    otel/test_export_shutdown.py
13  after an unclear failure, delta counts may double       the exporter cannot know; cumulative, the default, is
                                                            not affected: test_a_failed_export_is_repeated
14  the first export after an outage may fail               otel/test_export_outage.py
15  otlp-json-file requires versions that break otlp        no package depends on it; `pip check` in CI would report it
"""

import dataclasses
import struct
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk.metrics.export import AggregationTemporality
from prometheus_client.parser import text_string_to_metric_families
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.otlp_sink import Point, Sink
from otel_epping.otel import metric_table, semconv
from tests.support.prog_test_run import EGRESS, INGRESS, MS, START_NS, Bench

PACKETS = metric_table.SUBNET_PACKETS.name
# There are few subnets, because the preparation of their memory takes time.
CONFIG = EppingConfig(packet_clock=True, sample_interval_ns=0, max_age_ns=64_000_000_000, max_subnets=8_000)
# The offsets of the timestamps in a segment of Flow.frame(). The timestamps follow Ethernet, IPv4, TCP, two NOPs, and
# the kind and the length of the timestamp option.
TSVAL, TSECR = 58, 62
# The offsets of the addresses and of the ICMP type in an echo request.
SOURCE, ICMP_TYPE = 26, 34
SDK_RTT = "sdk.rtt"


@pytest.fixture
def shared(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    """A program that several tests share. The result of a test must not depend on the counts of earlier tests."""
    return bench_of(CONFIG)


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


class Conversation:
    """A flow that creates RTTs of given values in a fast loop. Each RTT needs two segments, which are changed in
    place."""

    def __init__(self, bench: Bench) -> None:
        flow = bench.flow().begun()
        self.subnet = str(flow.addresses[1]).rsplit(".", 1)[0] + ".0/24"
        self._sender, self._answerer = bench.feeders[EGRESS], bench.feeders[INGRESS]
        self._segment = flow.frame(0, "PA", 1000, 0, b"data")
        self._answer = flow.frame(1, "A", 1, 1000, b"")
        self._tsval = 1000
        self._now_ns = START_NS + MS

    def record(self, rtts_ns: list[int]) -> None:
        self._sender.set(self._segment)
        self._answerer.set(self._answer)
        for rtt_ns in rtts_ns:
            self._tsval += 1
            struct.pack_into("!I", self._sender.data, TSVAL, self._tsval)
            struct.pack_into("!I", self._answerer.data, TSECR, self._tsval)
            self._sender.run(self._now_ns)
            self._answerer.run(self._now_ns + rtt_ns)
            self._now_ns += rtt_ns + MS


def ping_each_other(bench: Bench, pairs: int) -> None:
    """Measure an RTT for each subnet of `pairs` pairs of new subnets. In each pair, both subnets ping each other."""
    frame = bytearray(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP() / ICMP() / b"data"))
    for number in range(pairs):
        inside, outside = (bytes([network, *divmod(number, 256), 1]) for network in (20, 21))
        outgoing, incoming = (EGRESS, inside + outside), (INGRESS, outside + inside)
        for asking, answering in ((outgoing, incoming), (incoming, outgoing)):
            for icmp_type, (entry, addresses), at_ns in ((8, asking, START_NS), (0, answering, START_NS + MS)):
                frame[SOURCE : SOURCE + 8], frame[ICMP_TYPE] = addresses, icmp_type
                bench.feeders[entry].set(bytes(frame))
                bench.feeders[entry].run(at_ns)


def exporter(sink: Sink, temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE) -> OTLPMetricExporter:
    preferred: dict[type, AggregationTemporality] = {
        sdk_metrics.Histogram: temporality,
        sdk_metrics.Counter: temporality,
    }
    return OTLPMetricExporter(sink.grpc_endpoint, insecure=True, preferred_temporality=preferred, timeout=5)


def total(found: list[Point]) -> int:
    return sum(int(point.point.as_int) for point in found)


def of_subnet(sink: Sink, subnet: str) -> list[Point]:
    """Return the histograms of a subnet."""
    return [point for point in sink.points(metric_table.RTT.name) if point.attributes[semconv.SUBNET] == subnet]


def packets_fed(bench: Bench) -> int:
    """Return how many packets the program has processed, according to its own counters."""
    counters = bench.counters()
    return sum(count[0] for name, count in counters.items() if name.startswith(("received", "transmitted")))


def scrape(port: int) -> dict[str, Any]:
    """Return the metric families by name, parsed by Prometheus' own parser."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return {family.name: family for family in text_string_to_metric_families(response.read().decode())}


def scalars(value: Any) -> Iterator[Any]:
    """Yield every leaf of a tree of dataclasses, mappings and sequences."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from scalars(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from scalars(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from scalars(inner)
    else:
        yield value
