# SPDX-License-Identifier: Apache-2.0
"""Tests exports: how an export is split into requests, how long an export may take, and which requests are repeated."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)

from otel_epping.kernel import buckets
from otel_epping.kernel.arrays import Counts, as_matrix
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.reading import Reading, RttTable
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import exporter as exporter_module
from otel_epping.otel import metric_table, producer, semconv
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.install import install
from otel_epping.otel.otlp.failure import Failure
from otel_epping.series import histogram
from tests.support.metrics import EVERYTHING
from tests.support.prog_test_run import MS, Bench
from tests.support.readings import runs_of
from tests.support.recorder import (
    CONFIG,
    PACKETS,
    Conversation,
    exporter,
    of_subnet,
    packets_fed,
    ping_each_other,
    scalars,
    total,
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program that no other test uses. Readers of this program start without counts."""
    with closing(Bench(CONFIG)) as bench:
        yield bench


def test_requests_are_split_by_weight_and_keep_a_subnet_together(bench: Bench, sink: Sink) -> None:
    ping_each_other(bench, 3000)
    reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink), bench.collector, 60, EVERYTHING)
    reader.force_flush()
    assert len(sink.requests) > 2
    assert max(received.size for received in sink.received) <= 2.5 * 2**20
    found = sink.points(PACKETS)
    assert len({point.attributes[semconv.SUBNET] for point in found}) == 6000
    series = {(point.attributes[semconv.SUBNET], point.attributes[semconv.SUBNET_DIRECTION]) for point in found}
    assert len(series) == len(found) == 12_000
    homes: dict[Any, set[int]] = {}
    for number, request in enumerate(sink.requests):
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.sum.data_points:
                subnet = [pair.value.string_value for pair in point.attributes if pair.key == semconv.SUBNET]
                homes.setdefault(tuple(subnet), set()).add(number)
    assert all(len(numbers) == 1 for subnet, numbers in homes.items() if subnet)
    assert sum(name.name == "epping.interface.packet.count" for _, name in sink.metrics()) == 1
    reader.shutdown()


def test_requests_of_the_heaviest_points_fit(bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every subnet has a histogram of 160 buckets with large counts.

    The exporter estimates the size of each point by a weight. The points of these histograms have the highest ratio of
    bytes to weight.
    """
    ping_each_other(bench, 2000)
    read = Reader.read

    def read_heavy(reader: Reader) -> Reading:
        reading = read(reader)
        rows = np.flatnonzero(as_matrix(reading.counters).any(axis=1) & (np.arange(len(reading.counters)) > 1))
        ones: Counts = np.append(np.uint64(0), np.ones(len(rows), np.uint64))  # the overflow histogram is empty
        full = np.outer(ones, np.full(histogram.MAX_BUCKETS, 2**31, np.uint64))  # 5 bytes each, less than 2^32
        rtts = RttTable(
            rows=np.append(0, rows),
            methods=np.zeros(len(ones), np.int64),
            generation=ones.astype(np.uint32),
            buckets=runs_of(full),
            sum_ns=ones * np.uint64(2**60),
            min_ns=ones * np.uint64(buckets.RTT_MIN_NS),
            max_ns=ones * np.uint64(buckets.RTT_MAX_NS),
        )
        return dataclasses.replace(
            reading,
            answered=np.ones(len(reading.counters), np.bool_),
            rtts=rtts,
            counters=(as_matrix(reading.counters) * np.uint64(2**50)).view(reading.counters.dtype)[:, 0],
        )

    monkeypatch.setattr(Reader, "read", read_heavy)
    reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink), bench.collector, 60, EVERYTHING)
    reader.force_flush()
    sizes = [received.size for received in sink.received]
    print("\n[measured] heaviest requests, bytes:", sizes)
    assert len(sink.points(metric_table.RTT.name)) == 4000
    assert max(sizes) <= 2.5 * 2**20
    reader.shutdown()


class Slow(OTLPMetricExporter):
    """An exporter that needs at least 0.1 s for each request."""

    def export(self, *arguments: Any, **options: Any) -> MetricExportResult:
        time.sleep(0.1)
        return super().export(*arguments, **options)


def test_an_export_keeps_its_deadline_and_the_next_one_continues(
    bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request succeeds, but slowly. An export sends no more requests after its deadline.

    The next export sends the remaining requests.
    """
    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    monkeypatch.setattr(exporter_module, "_MIN_TIMEOUT_S", 0.0)
    ping_each_other(bench, 200)
    slow = Slow(sink.grpc_endpoint, insecure=True)
    wrapped = ProducerExporter(slow, bench.collector, EVERYTHING)
    reader = PeriodicExportingMetricReader(wrapped, float("inf"), export_timeout_millis=500)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    for _ in range(16):
        began = time.monotonic()
        reader.collect(timeout_millis=500)
        assert time.monotonic() - began < 1.5
    assert len({point.attributes[semconv.SUBNET] for point in sink.points(PACKETS)}) == 400


def test_an_export_to_nobody_gives_up_after_one_request(shared: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    ping_each_other(shared, 200)
    wrapped = ProducerExporter(OTLPMetricExporter("http://127.0.0.1:9", insecure=True, timeout=5), shared.collector)
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(wrapped, float("inf"))], shutdown_on_exit=False
    )
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    began = time.monotonic()
    provider.force_flush()
    took = time.monotonic() - began
    # The exporter waits for 1 s, and then for 2 s. Each wait is up to 20 % longer or shorter, at random. The next wait
    # would be 4 s, and would exceed the exporter's timeout.
    print("\n[measured] export of many requests to a dead collector, timeout 5 s:", round(took, 2), "s")
    assert took < 5.5
    assert wrapped.failed >= 1


class Poisoned(OTLPMetricExporter):
    """An exporter whose receiver rejects each request that contains a certain subnet. The receiver responds slowly."""

    subnet = "20.0.100.0/24"

    def export(self, metrics_data: MetricsData, *arguments: Any, **options: Any) -> MetricExportResult:
        if self.subnet in scalars(metrics_data):
            time.sleep(1.1)
            return MetricExportResult.FAILURE
        return super().export(metrics_data, *arguments, **options)


def test_a_request_that_always_fails_does_not_block_others(
    bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "_REQUEST_WEIGHT", 100)
    ping_each_other(bench, 200)
    poisoned = Poisoned(sink.grpc_endpoint, insecure=True)
    reader = install(MeterProvider(shutdown_on_exit=False), poisoned, bench.collector, 60, EVERYTHING)
    for _ in range(2):
        reader.force_flush()
    found = {point.attributes[semconv.SUBNET] for point in sink.points(PACKETS)}
    assert Poisoned.subnet not in found
    assert len(found) >= 380, "only the subnets of one request are missing"
    reader.shutdown()


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_a_failed_export_is_repeated(shared: Bench, sink: Sink, temporality: AggregationTemporality) -> None:
    reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink, temporality), shared.collector, 60)
    conversation = Conversation(shared)
    conversation.record([5 * MS] * 3)
    sink.fail_with(403)  # after this error, the exporter itself does not send the request again
    reader.force_flush()
    assert not sink.points(metric_table.RTT.name)
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


def test_only_failed_requests_are_repeated(bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """With delta temporality, every third request is rejected.

    In the end, every packet has been exported exactly once.
    """

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
    reader = install(MeterProvider(shutdown_on_exit=False), moody, bench.collector, 60, EVERYTHING)
    ping_each_other(bench, 200)
    for _ in range(6):
        reader.force_flush()
    assert total(sink.points(PACKETS)) == 2 * packets_fed(bench)
    assert total(sink.points("epping.interface.packet.count")) == packets_fed(bench)
    reader.shutdown()


def test_a_failed_reading_is_a_failed_export(bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Failure | None] = []
    wrapped = ProducerExporter(exporter(sink), bench.collector, on_result=results.append)
    reader = PeriodicExportingMetricReader(wrapped, 60_000)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("application").create_counter("orders").add(1)

    def broken(reader: Reader) -> Reading:
        raise OSError("no memory to read")

    monkeypatch.setattr(Reader, "read", broken)
    reader.force_flush()
    (failure,) = results
    assert failure
    assert failure.text == "cannot read the kernel's counts: no memory to read"
    assert len(sink.points("orders")) == 1, "the application's own metrics are exported"
    monkeypatch.undo()
    reader.force_flush()
    assert results == [failure, None]
    provider.shutdown()
