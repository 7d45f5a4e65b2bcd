# SPDX-License-Identifier: Apache-2.0
"""Tests points that hold the kernel's counts. The points equal points of the SDK, and contain plain Python numbers."""

import io
import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_epping.kernel import buckets
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, scope, sdk_points, semconv
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.install import attach
from otel_epping.series import histogram
from tests.support.prog_test_run import MS, Bench
from tests.support.recorder import CONFIG, PACKETS, SDK_RTT, Conversation, exporter, scalars

pytestmark = pytest.mark.parallel


def lowered(point: Any, scale: int) -> tuple[list[int], int]:
    """Return the bucket counts and the offset of a point after a conversion to a lower scale."""
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
def test_the_kernels_histograms_equal_those_of_the_sdk(
    shared: Bench, sink: Sink, temporality: AggregationTemporality, widest: str
) -> None:
    """The kernel and the SDK record the same 5000 log-uniform RTTs.

    One exporter exports both histograms, in two intervals.
    """
    draw = random.Random(5)
    # At scale 4, the 160 buckets cover ten doublings of the RTT. RTTs from 1 ms to 1 s fit in ten doublings. RTTs from
    # 1 us to 60 s need more doublings.
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
                recorded.record(rtt_ns / 1e9, {semconv.SUBNET: conversation.subnet})
        sink.clear()
        assert provider.force_flush()
        subnets = {conversation.subnet for conversation in conversations}
        ours, sdks = (
            {point.attributes[semconv.SUBNET]: point for point in sink.points(name)}
            for name in (metric_table.RTT.name, SDK_RTT)
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
    plain = {int, float, str, bool, type(None), AggregationTemporality, Resource, type(scope.SCOPE)}
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
    assert {"shop.orders", metric_table.RTT.name, PACKETS} <= set(names)


def test_unknown_extremes_are_not_exported(sink: Sink) -> None:
    one = histogram.Buckets(np.array([2, 3], "u8"), buckets.first_index(4), 4)
    unknown = sdk_points.rtt_point({}, 1, 2, one, 5_000, (buckets.RTT_MAX_NS, 0))
    known = sdk_points.rtt_point({}, 1, 2, one, 5_000, (1_000, 1_050))
    metric = sdk_points.rtt_metric([unknown, known], AggregationTemporality.CUMULATIVE)
    scope = ScopeMetrics(InstrumentationScope("invented"), [metric], "")  # invented points (tests/support/contract.py)
    resource = ResourceMetrics(Resource.create(), [scope], "")
    assert exporter(sink).export(MetricsData([resource])) is MetricExportResult.SUCCESS
    without, whole = (point.point for point in sink.points(metric_table.RTT.name))
    assert not without.HasField("min")
    assert not without.HasField("max")
    assert (without.count, list(without.positive.bucket_counts)) == (5, [2, 3])
    assert (whole.min, whole.max) == (1e-6, 1.05e-6)
