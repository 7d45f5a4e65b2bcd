# SPDX-License-Identifier: Apache-2.0
"""The kernel's counts through the OpenTelemetry SDK, in our own process: equality with the SDK, and the SDK's traps.

The traps of SDK 1.45, by number, each reproduced before a line of `sdk.py` was written:

 1  a provider without data never calls its exporter        test_a_provider_without_data_exports_ours
 2  an exception in a collect callback ends the thread      test_a_reader_outlives_a_reading_that_fails
 3  a provider passes over readers that came later          test_the_readers_shutdown_exports_the_last_interval
 4  ... or clears them before it shuts them down            the same: we shut the reader down, and remove none
 5  Prometheus' reader fails on exponential histograms      test_prometheus_scrapes_the_very_same_counts
 6  numpy's numbers aren't numbers to exporters             test_points_hold_plain_numbers_only
 7  extremes that are unknown must be None                  test_unknown_extremes_are_left_off_the_wire
 8  OTLP exporters split badly, or not at all               test_requests_are_split_by_weight, and test_export.py
 9  an oversize request is retried, then dropped            the same: no request comes near the limit
10  exporters ignore the time they are given                test_an_export_keeps_its_deadline
11  exporters ignore partial success                        ours can't see it either: a limit, documented
12  a dead collector holds a shutdown up                    test_export.py: test_shutdown_with_a_dead_collector...
13  an ambiguous failure counts twice in delta              nobody can know at this end; cumulative, the default, is
                                                            free of it: test_an_export_that_failed_is_repeated
14  the first export after an outage may fail               test_export.py: test_nothing_is_lost_while...
15  otlp-json-file pins versions that break otlp            nothing depends on it; `pip check` in CI would tell
"""

import dataclasses
import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from testrun import EGRESS, INGRESS, MS, START_NS, Bench

from otel_epping import exporter as exporter_module
from otel_epping import histogram, points, producer, telemetry
from otel_epping.exporter import ProducerExporter
from otel_epping.kernel import buckets
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.reader import Reader, Reading
from otel_epping.lab.sink import Point, Sink
from otel_epping.sdk import Pipelines, attach, exporter_classes, install

PACKETS = telemetry.SUBNET_COUNTERS[0].name
# Few subnets: room for them takes time to make ready.
CONFIG = KernelConfig(packet_clock=True, sample_interval_ns=0, max_age_ns=64_000_000_000, max_subnets=8_000)
# Where timestamps are in a segment as Flow.frame() makes it: Ethernet, IPv4, TCP, two NOPs, kind and length.
TSVAL, TSECR = 58, 62
SDK_RTT = "sdk.rtt"


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program of one's own: readers begin with nothing counted."""
    bench = Bench(CONFIG)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    """A program for all who don't mind what others had counted."""
    bench = Bench(CONFIG)
    yield bench
    bench.close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


class Conversation:
    """A flow that makes RTTs to order, fast: two segments each, written in place."""

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


def exporter(sink: Sink, temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE) -> OTLPMetricExporter:
    preferred: dict[type, AggregationTemporality] = {
        sdk_metrics.Histogram: temporality,
        sdk_metrics.Counter: temporality,
    }
    return OTLPMetricExporter(sink.grpc_endpoint, insecure=True, preferred_temporality=preferred, timeout=5)


def total(found: list[Point]) -> int:
    return sum(int(point.point.as_int) for point in found)


def of_subnet(sink: Sink, subnet: str) -> list[Point]:
    """The histograms of a subnet."""
    return [point for point in sink.points(telemetry.RTT.name) if point.attributes[telemetry.SUBNET] == subnet]


def packets_fed(bench: Bench) -> int:
    """How many packets the program has seen, by its own counters."""
    counters = bench.counters()
    return sum(count[0] for name, count in counters.items() if name.startswith(("received", "transmitted")))


# ---- the same RTTs through the SDK and through the kernel


def lowered(point: Any, scale: int) -> tuple[list[int], int]:
    """Counts and offset of a point on the wire, at a lower scale."""
    one = histogram.Buckets(np.array(list(point.positive.bucket_counts), "u8"), point.positive.offset, point.scale)
    one = histogram.trim(*one)
    while one.scale > scale:
        one = histogram.halve(one)
    return one.counts.tolist(), one.offset


def check_equal(ours: ExponentialHistogramDataPoint, sdks: ExponentialHistogramDataPoint) -> None:
    scale = min(ours.scale, sdks.scale)
    assert lowered(ours, scale) == lowered(sdks, scale)
    assert (ours.count, ours.zero_count) == (sdks.count, sdks.zero_count)
    assert ours.sum == pytest.approx(sdks.sum, rel=1e-12)
    assert (ours.min, ours.max) == (sdks.min, sdks.max)
    assert not any(sdks.negative.bucket_counts)
    assert not ours.negative.bucket_counts


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
@pytest.mark.parametrize("widest", ["fits", "is scaled down"])
def test_the_kernel_counts_what_the_sdk_would_have(
    shared: Bench, sink: Sink, temporality: AggregationTemporality, widest: str
) -> None:
    """5000 RTTs, log-uniform, recorded by either and exported over OTLP by the same exporter: equal, twice over."""
    draw = random.Random(5)
    # At scale 4, 160 buckets are ten doublings: 1 ms to 1 s fit, 1 us to 60 s don't.
    low, high = (20.0, 29.9) if widest == "fits" else (10.0, 35.8)
    view = View(
        instrument_name=SDK_RTT,
        aggregation=ExponentialBucketHistogramAggregation(max_size=histogram.MAX_BUCKETS, max_scale=CONFIG.scale),
    )
    reader = PeriodicExportingMetricReader(
        ProducerExporter(exporter(sink, temporality), shared.collector), float("inf")
    )
    provider = MeterProvider(metric_readers=[reader], views=[view], shutdown_on_exit=False)
    recorded = provider.get_meter("test").create_histogram(SDK_RTT, unit="s")
    conversations = [Conversation(shared) for _ in range(5)]
    for _ in range(2):
        for conversation in conversations:
            rtts_ns = [round(2 ** draw.uniform(low, high)) for _ in range(500)]
            conversation.record(rtts_ns)
            for rtt_ns in rtts_ns:
                recorded.record(rtt_ns / 1e9, {telemetry.SUBNET: conversation.subnet})
        sink.clear()
        assert provider.force_flush()
        subnets = {conversation.subnet for conversation in conversations}
        ours, sdks = (
            {point.attributes[telemetry.SUBNET]: point for point in sink.points(name)}
            for name in (telemetry.RTT.name, SDK_RTT)
        )
        ours = {subnet: point for subnet, point in ours.items() if subnet in subnets}
        assert set(ours) == set(sdks) == subnets
        for subnet, point in ours.items():
            assert point.temporality == sdks[subnet].temporality
            if widest == "fits":
                assert point.point.scale == sdks[subnet].point.scale == CONFIG.scale
            else:
                assert point.point.scale < CONFIG.scale
            check_equal(point.point, sdks[subnet].point)
    provider.shutdown()


# ---- install(): an application's provider


def test_a_provider_without_data_exports_ours(bench: Bench, sink: Sink) -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reader = install(provider, exporter(sink), bench.collector, 60)
    Conversation(bench).record([5 * MS])
    assert reader.force_flush()
    assert len(sink.points(telemetry.RTT.name)) == 1
    reader.shutdown()
    provider.shutdown()


def test_the_applications_resource_is_ours_and_its_metrics_are_not_told_twice(bench: Bench, sink: Sink) -> None:
    theirs = PeriodicExportingMetricReader(exporter(sink), float("inf"))
    resource = Resource.create({"service.name": "shop"})
    provider = MeterProvider(metric_readers=[theirs], resource=resource, shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    reader = install(provider, exporter(sink), bench.collector, 60)
    Conversation(bench).record([5 * MS] * 10)
    assert provider.force_flush()
    assert reader.force_flush()
    (orders,) = sink.points("shop.orders")
    assert orders.point.as_int == 3
    (rtt,) = sink.points(telemetry.RTT.name)
    assert rtt.point.count == 10
    assert rtt.resource == orders.resource
    assert rtt.resource["service.name"] == "shop"
    reader.shutdown()
    provider.shutdown()


def test_the_readers_shutdown_exports_the_last_interval(bench: Bench, sink: Sink) -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reader = install(provider, exporter(sink), bench.collector, 60)
    Conversation(bench).record([5 * MS] * 10)
    assert not sink.requests
    reader.shutdown()
    (rtt,) = sink.points(telemetry.RTT.name)
    assert rtt.point.count == 10
    requests = len(sink.requests)
    provider.shutdown()
    assert len(sink.requests) == requests


APPLICATION = """
import sys
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from otel_epping.kernel.config import KernelConfig
from otel_epping.sdk import install
from testrun import MS, Bench
from test_sdk import CONFIG, Conversation

bench = Bench(CONFIG)
reader = install(MeterProvider(), OTLPMetricExporter(sys.argv[1], insecure=True), bench.collector, 60)
Conversation(bench).record([5 * MS] * 10)
if "close" in sys.argv:
    bench.close()
if "shutdown" in sys.argv:
    reader.shutdown()
"""


@pytest.mark.parametrize("end", ["", "shutdown", "close"])
def test_the_last_interval_is_exported_however_an_application_ends(sink: Sink, end: str) -> None:
    """Without a word, by atexit; with the reader shut down before; and with the collector closed before that."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", APPLICATION, sink.grpc_endpoint, *end.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    (rtt,) = sink.points(telemetry.RTT.name)
    assert rtt.point.count == 10
    assert done.stderr == ""


def test_flushes_from_three_threads_tell_each_packet_once(bench: Bench, sink: Sink) -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reader = install(provider, exporter(sink, AggregationTemporality.DELTA), bench.collector, 60)
    stop = threading.Event()

    def flush() -> None:
        while not stop.is_set():
            reader.force_flush()

    threads = [threading.Thread(target=flush) for _ in range(3)]
    for thread in threads:
        thread.start()
    conversations = [Conversation(bench) for _ in range(20)]
    draw = random.Random(3)
    rtts_ns: Counter[str] = Counter()
    for _ in range(40):
        for conversation in conversations:
            drawn = [round(2 ** draw.uniform(20, 29)) for _ in range(5)]
            conversation.record(drawn)
            rtts_ns[conversation.subnet] += sum(drawn)
    stop.set()
    for thread in threads:
        thread.join()
    reader.shutdown()
    fed = packets_fed(bench)
    assert len(sink.requests) > 10
    directions: Counter[Any] = Counter()
    for point in sink.points(PACKETS):
        directions[point.attributes[telemetry.SUBNET_DIRECTION]] += point.point.as_int
    assert directions == {"from": fed, "to": fed}
    counted: Counter[Any] = Counter()
    sums: Counter[Any] = Counter()
    for point in sink.points(telemetry.RTT.name):
        counted[point.attributes[telemetry.SUBNET]] += point.point.count
        sums[point.attributes[telemetry.SUBNET]] += round(point.point.sum * 1e9)
    assert counted == {conversation.subnet: 200 for conversation in conversations}
    assert sums == rtts_ns
    for series in {tuple(sorted(p.attributes.items())): None for p in sink.points(telemetry.RTT.name)}:
        times = [
            (p.point.start_time_unix_nano, p.point.time_unix_nano)
            for p in sink.points(telemetry.RTT.name)
            if tuple(sorted(p.attributes.items())) == series
        ]
        assert times == sorted(times)
    provider.shutdown()


# ---- attach(): a reader that exists already


def test_a_reader_outlives_a_reading_that_fails(shared: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """And meanwhile it exports what is the application's own."""
    reader = PeriodicExportingMetricReader(exporter(sink), 50)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    attach(reader, shared.collector, Resource.create())
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", lambda _: (_ for _ in ()).throw(OSError("the kernel is gone")))
        sink.clear()
        sink.wait_for(lambda received: len(received.requests) >= 3, 5)
        assert sink.points("shop.orders")
        assert not sink.points(PACKETS)
    Conversation(shared).record([5 * MS])
    sink.wait_for(lambda received: received.points(telemetry.RTT.name), 5)
    assert reader._daemon_thread.is_alive()  # type: ignore[union-attr]
    provider.shutdown()


def test_an_exporter_outlives_a_reading_that_fails(shared: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PeriodicExportingMetricReader(ProducerExporter(exporter(sink), shared.collector), float("inf"))
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", lambda _: (_ for _ in ()).throw(OSError("the kernel is gone")))
        provider.force_flush()
    assert sink.points("shop.orders")
    assert not sink.points(PACKETS)
    Conversation(shared).record([5 * MS])
    provider.force_flush()
    assert sink.points(telemetry.RTT.name)
    provider.shutdown()


def test_attaching_adds_to_what_the_reader_collects_and_can_be_undone(shared: Bench) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    undo = attach(reader, shared.collector, Resource.create())
    Conversation(shared).record([5 * MS])

    def names() -> set[str]:
        data = reader.get_metrics_data()
        assert data
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}

    assert names() >= {"shop.orders", telemetry.RTT.name, PACKETS}
    undo()
    assert names() == {"shop.orders"}
    provider.shutdown()


def scrape(port: int) -> dict[str, Any]:
    """Families of metrics by name, as Prometheus' own parser reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return {family.name: family for family in text_string_to_metric_families(response.read().decode())}


def test_prometheus_scrapes_the_very_same_counts(bench: Bench) -> None:
    reader = PrometheusMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    attach(reader, bench.collector, Resource.create())
    draw = random.Random(9)
    rtts_ns = [round(2 ** draw.uniform(10, 35.8)) for _ in range(500)]
    conversation = Conversation(bench)
    conversation.record(rtts_ns)
    server, thread = start_http_server(0, "127.0.0.1", REGISTRY)
    families = scrape(server.server_port)
    server.shutdown()
    thread.join()
    provider.shutdown()
    samples = families["epping_rtt_duration_seconds"].samples
    below = {float(s.labels["le"]): s.value for s in samples if s.name.endswith("_bucket")}
    assert len(below) > 50
    for bound, count in below.items():
        assert count == sum(rtt_ns / 1e9 <= bound for rtt_ns in rtts_ns)
    (whole,) = [s.value for s in samples if s.name.endswith("_count")]
    (seconds,) = [s.value for s in samples if s.name.endswith("_sum")]
    assert (whole, seconds) == (len(rtts_ns), pytest.approx(sum(rtts_ns) / 1e9))
    assert samples[0].labels[telemetry.SUBNET.replace(".", "_")] == conversation.subnet
    assert "epping_network_packet_count" in families


# ---- points, and requests


def scalars(value: Any) -> Iterator[Any]:
    """Every leaf of a tree of dataclasses, mappings and sequences."""
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


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_points_hold_plain_numbers_only(shared: Bench, explicit: bool, temporality: AggregationTemporality) -> None:
    reader = InMemoryMetricReader(preferred_temporality={sdk_metrics.Histogram: temporality})
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    attach(reader, shared.collector, Resource.create(), explicit_buckets=explicit)
    Conversation(shared).record([5 * MS, 7 * MS])
    data = reader.get_metrics_data()
    assert data
    kinds = Counter(type(leaf) for leaf in scalars(data))
    plain = {int, float, str, bool, type(None), AggregationTemporality, Resource, type(telemetry.SCOPE)}
    assert set(kinds) <= plain
    assert kinds[int] > 20
    provider.shutdown()


def test_the_console_prints_valid_json(shared: Bench) -> None:
    out = io.StringIO()
    wrapped = ProducerExporter(ConsoleMetricExporter(out=out), shared.collector)
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(wrapped, float("inf"))], shutdown_on_exit=False
    )
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    Conversation(shared).record([5 * MS])
    provider.force_flush()
    provider.shutdown()
    first, _ = json.JSONDecoder().raw_decode(out.getvalue())
    names = [m["name"] for r in first["resource_metrics"] for s in r["scope_metrics"] for m in s["metrics"]]
    assert {"shop.orders", telemetry.RTT.name, PACKETS} <= set(names)


def test_unknown_extremes_are_left_off_the_wire(sink: Sink) -> None:
    one = histogram.Buckets(np.array([2, 3], "u8"), buckets.first_index(4), 4)
    unknown = points.rtt_point({}, 1, 2, one, 5_000, (buckets.RTT_GREATEST_NS, 0))
    known = points.rtt_point({}, 1, 2, one, 5_000, (1_000, 1_050))
    metric = points.rtt_metric([unknown, known], AggregationTemporality.CUMULATIVE)
    resource = ResourceMetrics(Resource.create(), [ScopeMetrics(telemetry.SCOPE, [metric], "")], "")
    assert exporter(sink).export(MetricsData([resource])) is MetricExportResult.SUCCESS
    without, whole = (point.point for point in sink.points(telemetry.RTT.name))
    assert not without.HasField("min")
    assert not without.HasField("max")
    assert (without.count, list(without.positive.bucket_counts)) == (5, [2, 3])
    assert (whole.min, whole.max) == (1e-6, 1.05e-6)


def flows(bench: Bench, count: int) -> None:
    """A packet each of `count` flows: two new subnets every time."""
    sender = bench.feeders[EGRESS]
    frame = bytearray(bench.flow().frame(0, "PA", 1000, 0, b"data"))
    for number in range(count):
        frame[26:29] = (20, *divmod(number, 256))
        frame[30:33] = (21, *divmod(number, 256))
        sender.set(bytes(frame))
        sender.run(START_NS)


def test_requests_are_split_by_weight_and_keep_a_subnet_together(bench: Bench, sink: Sink) -> None:
    flows(bench, 3000)
    reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink), bench.collector, 60)
    reader.force_flush()
    assert len(sink.requests) > 2
    assert max(received.size for received in sink.received) <= 2.5 * 2**20
    found = sink.points(PACKETS)
    assert len({point.attributes[telemetry.SUBNET] for point in found}) == len(found) == 6000
    homes: dict[Any, set[int]] = {}
    for number, request in enumerate(sink.requests):
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.sum.data_points:
                subnet = [pair.value.string_value for pair in point.attributes if pair.key == telemetry.SUBNET]
                homes.setdefault(tuple(subnet), set()).add(number)
    assert all(len(numbers) == 1 for subnet, numbers in homes.items() if subnet)
    assert sum(name.name == "epping.interface.packet.count" for _, name in sink.metrics()) == 1
    reader.shutdown()


def test_requests_of_the_heaviest_points_fit(bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every subnet with a histogram of 160 buckets and great counts: the most bytes that a weight can have."""
    flows(bench, 2000)
    read = Reader.read

    def read_heavy(reader: Reader) -> Reading:
        reading = read(reader)
        ones: Counts = np.asarray(reading.traffic.any(axis=(1, 2, 3)), np.uint64)
        full = np.zeros_like(reading.buckets)
        full[:, : histogram.MAX_BUCKETS] = np.outer(ones, [np.uint64(2**34)])
        return dataclasses.replace(
            reading,
            buckets=full,
            sum_ns=ones * np.uint64(2**60),
            least_ns=ones * np.uint64(buckets.RTT_LEAST_NS),
            greatest_ns=ones * np.uint64(buckets.RTT_GREATEST_NS),
            traffic=reading.traffic * np.uint64(2**50),
        )

    monkeypatch.setattr(Reader, "read", read_heavy)
    reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink), bench.collector, 60)
    reader.force_flush()
    sizes = [received.size for received in sink.received]
    print("\n[measured] heaviest requests, bytes:", sizes)
    assert len(sink.points(telemetry.RTT.name)) == 4000
    assert max(sizes) <= 2.5 * 2**20
    reader.shutdown()


class Slow(OTLPMetricExporter):
    """A long way to the receiver."""

    def export(self, *arguments: Any, **options: Any) -> MetricExportResult:
        time.sleep(0.1)
        return super().export(*arguments, **options)


def test_an_export_keeps_its_deadline_and_the_next_goes_on(
    bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when every request succeeds, but slowly: then what is left is told by the next export, from there on."""
    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    monkeypatch.setattr(exporter_module, "_LEAST_TIMEOUT_S", 0.0)
    flows(bench, 200)
    slow = Slow(sink.grpc_endpoint, insecure=True)
    wrapped = ProducerExporter(slow, bench.collector)
    reader = PeriodicExportingMetricReader(wrapped, float("inf"), export_timeout_millis=500)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    for _ in range(8):
        began = time.monotonic()
        reader.collect(timeout_millis=500)
        assert time.monotonic() - began < 1.5
    assert len({point.attributes[telemetry.SUBNET] for point in sink.points(PACKETS)}) == 400


def test_an_export_to_nobody_gives_up_after_one_request(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    flows(shared, 200)
    wrapped = ProducerExporter(OTLPMetricExporter("http://127.0.0.1:9", insecure=True, timeout=5), shared.collector)
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(wrapped, float("inf"))], shutdown_on_exit=False
    )
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    began = time.monotonic()
    provider.force_flush()
    took = time.monotonic() - began
    # The exporter waits 1 s, then 2 s, each give or take a fifth; the 4 s that come next are beyond its time.
    print("\n[measured] export of many requests to a dead collector, timeout 5 s:", round(took, 2), "s")
    assert took < 5.5
    assert wrapped.failed >= 1


class Poisoned(OTLPMetricExporter):
    """To a receiver that never takes what has one of the subnets, and is slow to say so."""

    subnet = "20.0.100.0/24"

    def export(self, metrics_data: MetricsData, *arguments: Any, **options: Any) -> MetricExportResult:
        if self.subnet in scalars(metrics_data):
            time.sleep(1.1)
            return MetricExportResult.FAILURE
        return super().export(metrics_data, *arguments, **options)


def test_a_request_that_always_fails_does_not_keep_others_back(
    bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    flows(bench, 200)
    poisoned = Poisoned(sink.grpc_endpoint, insecure=True)
    reader = install(MeterProvider(shutdown_on_exit=False), poisoned, bench.collector, 60)
    for _ in range(2):
        reader.force_flush()
    found = {point.attributes[telemetry.SUBNET] for point in sink.points(PACKETS)}
    assert Poisoned.subnet not in found
    assert len(found) >= 380, "only those of one request are missing"
    reader.shutdown()


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_an_export_that_failed_is_repeated(shared: Bench, sink: Sink, temporality: AggregationTemporality) -> None:
    reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink, temporality), shared.collector, 60)
    conversation = Conversation(shared)
    conversation.record([5 * MS] * 3)
    sink.fail_with(403)  # not retried by the exporter
    reader.force_flush()
    assert not sink.points(telemetry.RTT.name)
    sink.recover()
    conversation.record([7 * MS] * 4)
    reader.force_flush()
    (first,) = of_subnet(sink, conversation.subnet)
    assert (first.point.count, first.point.min, first.point.max) == (7, 0.005, 0.007)
    conversation.record([6 * MS] * 2)
    reader.force_flush()
    _, second = of_subnet(sink, conversation.subnet)
    delta = temporality is AggregationTemporality.DELTA
    assert (second.point.count, second.point.min) == ((2, 0.006) if delta else (9, 0.005))
    expected_start = first.point.time_unix_nano if delta else first.point.start_time_unix_nano
    assert second.point.start_time_unix_nano == expected_start
    reader.shutdown()


def test_a_part_that_failed_is_the_only_one_repeated(bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delta: of several requests each third is refused; in the end every packet is told once."""

    class Moody(OTLPMetricExporter):
        turn = 0

        def export(self, *arguments: Any, **options: Any) -> MetricExportResult:
            Moody.turn += 1
            if Moody.turn % 3 == 0:
                return MetricExportResult.FAILURE
            return super().export(*arguments, **options)

    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    delta: dict[type, AggregationTemporality] = {sdk_metrics.Histogram: AggregationTemporality.DELTA}
    moody = Moody(sink.grpc_endpoint, insecure=True, preferred_temporality=delta)
    reader = install(MeterProvider(shutdown_on_exit=False), moody, bench.collector, 60)
    flows(bench, 200)
    for _ in range(6):
        reader.force_flush()
    assert total(sink.points(PACKETS)) == 2 * packets_fed(bench)
    assert total(sink.points("epping.interface.packet.count")) == packets_fed(bench)
    reader.shutdown()


# ---- Pipelines: exporters by OTEL_* variables


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets OTEL_* variables, and unsets all others."""

    def set_variables(**values: str) -> None:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    set_variables()
    return set_variables


def test_our_own_instruments_arrive_beside_the_kernels(
    shared: Bench, sink: Sink, variables: Callable[..., None]
) -> None:
    """Their scope is ours as well, and OTLP's encoder keeps but one of two equal scopes in a request."""
    variables(OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
    pipelines = Pipelines(shared.collector, 60, lambda *_: None)
    Conversation(shared).record([5 * MS])
    pipelines.shutdown()
    names = {metric.name for _, metric in sink.metrics()}
    assert names >= {telemetry.RTT.name, telemetry.READ_DURATION.name, telemetry.EXPORT_FAILED.name}


def test_each_of_several_exporters_is_complete(bench: Bench, sink: Sink, variables: Callable[..., None]) -> None:
    """One that pushes deltas and one that is scraped; test_export.py has two that push."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables(
        OTEL_METRICS_EXPORTER="otlp,prometheus",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    # Not flushed by us: Prometheus' reader keeps what it is made to collect, and the next scrape has it twice.
    pipelines = Pipelines(bench.collector, 0.1, lambda *_: None)
    conversation = Conversation(bench)
    for _ in range(5):
        conversation.record([5 * MS] * 10)
        requests = len(sink.received)
        sink.wait_for(lambda received, before=requests: len(received.received) > before, 5)  # type: ignore[misc]
    families = scrape(port)
    pipelines.shutdown()
    fed = packets_fed(bench)
    assert total(sink.points(PACKETS)) == 2 * fed
    rtts = [point.point for point in sink.points(telemetry.RTT.name)]
    assert sum(point.count for point in rtts) == 50
    assert {(point.min, point.max) for point in rtts} == {(0.005, 0.005)}
    assert sum(sample.value for sample in families["epping_network_packet_count"].samples) == 2 * fed
    (count,) = (s.value for s in families["epping_rtt_duration_seconds"].samples if s.name.endswith("_count"))
    assert count == 50


@pytest.mark.parametrize(
    ("values", "named", "cure"),
    [
        ({"OTEL_METRICS_EXPORTER": "carrier_pigeon"}, "OTEL_METRICS_EXPORTER", "pip install"),
        ({"OTEL_METRICS_EXPORTER": "none"}, "OTEL_METRICS_EXPORTER", "use otlp or console"),
        ({"OTEL_METRICS_EXPORTER": " , "}, "OTEL_METRICS_EXPORTER", "use otlp or console"),
        ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED", "unset it"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL", "use grpc or http/protobuf"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "use grpc or http/protobuf",
        ),
    ],
)
def test_variables_that_do_not_fit_are_named_with_their_cure(
    variables: Callable[..., None], values: dict[str, str], named: str, cure: str
) -> None:
    variables(**values)
    with pytest.raises(EppingError) as failure:
        exporter_classes()
    assert named in str(failure.value)
    assert cure in str(failure.value)
    assert "\n" not in str(failure.value)


def test_an_exporter_that_cannot_be_made_is_named(shared: Bench, variables: Callable[..., None]) -> None:
    variables(OTEL_EXPORTER_OTLP_COMPRESSION="lzma")
    with pytest.raises(EppingError, match="OTEL_EXPORTER_OTLP_COMPRESSION"):
        Pipelines(shared.collector, 60, lambda *_: None)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ["otlp_proto_grpc"]),
        ({"OTEL_METRICS_EXPORTER": "OTLP,console,none"}, ["otlp_proto_grpc", "console"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["otlp_proto_http"]),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
        ),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, ["prometheus"]),
    ],
)
def test_exporters_are_those_that_the_variables_name(
    variables: Callable[..., None], values: dict[str, str], names: list[str]
) -> None:
    variables(**values)
    found = exporter_classes()
    assert [name for name, _ in found] == names
    assert all(issubclass(made, (MetricExporter, MetricReader)) for _, made in found)
