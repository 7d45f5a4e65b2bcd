# SPDX-License-Identifier: Apache-2.0
"""Compares our encoded points, bit by bit, with points of the SDK's encoder for the same numbers.

Protobuf parses and serializes both requests again. So the tests compare which fields are set and what their values are.
The tests do not compare the order of the fields.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint as Pb2Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource

from otel_epping.kernel import buckets
from otel_epping.kernel.buckets import RTT_MAX_NS, RTT_MIN_NS
from otel_epping.otel import metric_table, scope, sdk_points, semconv
from otel_epping.otel.otlp import protobuf
from otel_epping.otel.otlp.message_columns import Column, Pieces
from otel_epping.otel.otlp.points import (
    HistogramArrays,
    Points,
    histogram_attributes,
    histogram_points,
    number_attributes,
    number_points,
)
from otel_epping.otel.otlp.request import Request, request, rtt_metric, sum_metric
from otel_epping.series import histogram
from tests.support.readings import fit

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


Pairs = Mapping[str, str | bool]

TEMPORALITIES = st.sampled_from([AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
DELTA = AggregationTemporality.DELTA
RESOURCE = Resource({"service.name": "otel-epping", "host.name": "rütli", "process.pid": 7}, "https://example.com/1")
OURS = ScopeMetrics(scope.SCOPE, [], scope.SCOPE.schema_url or "")
ALONE = [ResourceMetrics(RESOURCE, [], RESOURCE.schema_url)]


def below(bits: int) -> st.SearchStrategy[int]:
    """Numbers below 2^bits. A number is equally likely to have 0, 1, 2, ... or `bits` bits.

    If all numbers were equally likely, most numbers would have nearly `bits` bits.
    """
    return st.integers(0, bits).flatmap(lambda length: st.integers(2**length >> 1, 2**length - 1))


def attributes(prefix: str) -> st.SearchStrategy[Pairs]:
    """Attributes with short and long values in any script, and with boolean values."""
    keys = st.text(max_size=5).map(prefix.__add__)
    return st.dictionaries(keys, st.text(max_size=5) | st.text(min_size=60, max_size=70) | st.booleans(), max_size=3)


def check(ours: Request, *sdks: Metric) -> None:
    """Check that our request equals the SDK's request for the metrics `sdks`. Check that our request gives the right
    number of points."""
    scope = ScopeMetrics(OURS.scope, sdks, OURS.schema_url)
    expected = encode_metrics(MetricsData([ResourceMetrics(RESOURCE, [scope], RESOURCE.schema_url)]))
    parsed = ExportMetricsServiceRequest.FromString(ours.body)
    assert parsed == expected
    assert parsed.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
    assert ours.points == sum(len(metric.data.data_points) for metric in sdks)


OVERFLOW: Pairs = {semconv.OVERFLOW: True}
UNICODE: Pairs = {semconv.INTERFACE: "größer-网络0", semconv.SUBNET: "2001:db8::/48"}
EMPTY: Pairs = {semconv.SIDE: ""}
# (attributes of a subnet, labels of a counter, start, value)
NUMBERS = st.lists(st.tuples(attributes("a"), attributes("b"), below(63), below(63)), min_size=1, max_size=20)
SOME_NUMBERS = [(OVERFLOW, {}, 5, 1), (UNICODE, EMPTY, 5, 2**63 - 1), (EMPTY, OVERFLOW, 0, 0), ({}, {}, 0, 0)]


@settings(deadline=None)
@given(NUMBERS, below(63), TEMPORALITIES, st.booleans())
@example(SOME_NUMBERS, 0, DELTA, True)
def test_numbers(
    numbers: list[tuple[Pairs, Pairs, int, int]], time_ns: int, temporality: AggregationTemporality, monotonic: bool
) -> None:
    bases, labels, starts_ns, values = zip(*numbers, strict=True)
    ours = number_points(
        [Column.of(map(number_attributes, bases)), Column.of(map(number_attributes, labels))],
        np.array(starts_ns),
        time_ns,
        np.array(values, np.uint64),
    )
    sdks = [NumberDataPoint({**base, **label}, start, time_ns, value) for base, label, start, value in numbers]
    metric = metric_table.SUBNET_PACKETS
    check(
        request(ALONE, OURS, [sum_metric(metric, ours, temporality, monotonic)]),
        sdk_points.sum_metric(metric, sdks, temporality, monotonic),
    )


def test_a_negative_number() -> None:
    """In OTLP, the value of an up-down counter may be negative. Our values are never negative."""
    ours = number_points([Column.of([b""])], np.array([1]), 2, np.array([-3]))
    metric = metric_table.ACTIVE_FLOWS
    check(
        request(ALONE, OURS, [sum_metric(metric, ours, DELTA, is_monotonic=False)]),
        sdk_points.sum_metric(metric, [NumberDataPoint({}, 1, 2, -3)], DELTA, is_monotonic=False),
    )


def unsigned(numbers: Sequence[int]) -> npt.NDArray[np.uint64]:
    return np.array(numbers, np.uint64)


# (counts, index of the first bucket, scale, sum, minimum, maximum)
INT32 = st.integers(-(2**31), 2**31 - 1)
RUN = st.tuples(
    st.lists(st.just(0) | below(7) | below(55), max_size=170),
    st.integers(-400, 400) | INT32,
    st.integers(-10, 20),
    below(64),
    below(36),
    st.just(0) | below(36),
)
HISTOGRAMS = st.lists(st.tuples(attributes("a"), attributes("b"), below(63), RUN), min_size=1, max_size=8)
Histogram = tuple[Pairs, Pairs, int, tuple[list[int], int, int, int, int, int]]
SOME_HISTOGRAMS: list[Histogram] = [
    # all varints have one byte; offset, scale and sum have their default values
    (OVERFLOW, {}, 5, ([1], 0, 0, 0, 1, 1)),
    (UNICODE, EMPTY, 5, ([], -1, -1, 2**64 - 1, 5, 0)),  # no buckets, no minimum and no maximum
    ({}, {}, 0, ([2**64 - 1], 2**31 - 1, -10, 2**53 + 1, 0, 5)),
    ({}, {}, 0, ([2**64 - 1, 0], -(2**31), 20, 3, 1, 2)),  # the count, which is the sum of the buckets, is 2^64 - 1
    ({}, {}, 0, ([], 0, 0, 0, 0, 0)),
]


@settings(deadline=None)
@given(HISTOGRAMS, below(63), TEMPORALITIES)
@example(SOME_HISTOGRAMS, 0, DELTA)
@example(SOME_HISTOGRAMS[1:2], 1, DELTA)
def test_histograms(histograms: list[Histogram], time_ns: int, temporality: AggregationTemporality) -> None:
    bases, labels, starts_ns, runs = zip(*histograms, strict=True)
    counts, offsets, scales, sums_ns, min_ns, max_ns = zip(*runs, strict=True)
    ours = histogram_points(
        [Column.of(map(histogram_attributes, bases)), Column.of(map(histogram_attributes, labels))],
        np.array(starts_ns),
        time_ns,
        HistogramArrays(
            np.cumsum([0, *map(len, counts)]),
            unsigned([count for run in counts for count in run]),
            np.array(offsets),
            np.array(scales),
            unsigned(sums_ns),
            unsigned(min_ns),
            unsigned(max_ns),
        ),
    )
    sdks = [
        ExponentialHistogramDataPoint(
            {**base, **label},
            start,
            time_ns,
            count=sum(run),
            sum=sum_ns / 1e9,
            scale=scale,
            zero_count=0,
            positive=Buckets(offset, run),
            negative=Buckets(0, ()),
            flags=0,
            min=least / 1e9 if greatest else None,  # type: ignore[arg-type]
            max=greatest / 1e9 if greatest else None,  # type: ignore[arg-type]
        )
        for base, label, start, (run, offset, scale, sum_ns, least, greatest) in histograms
    ]
    check(request(ALONE, OURS, [rtt_metric(ours, temporality)]), sdk_points.rtt_metric(sdks, temporality))


RTTS_NS = st.lists(st.integers(RTT_MIN_NS, RTT_MAX_NS), min_size=1, max_size=50)


@settings(deadline=None)
@given(st.lists(RTTS_NS, min_size=1, max_size=5), st.sampled_from(buckets.SCALES))
def test_histograms_of_rtts_equal_the_points_of_sdk_points(rtts_ns: list[list[int]], scale: int) -> None:
    """Our points equal the points of sdk_points.rtt_point() for the same buckets."""
    runs = []
    for each in rtts_ns:
        indexes = [buckets.index_of(rtt, scale) for rtt in each]
        counts = np.bincount(np.array(indexes) - min(indexes)).astype(np.uint64)
        runs.append(histogram.trim(counts, min(indexes), scale))
    fitted = [fit(run) for run in runs]
    ours = histogram_points(
        [Column.of([histogram_attributes(UNICODE)] * len(runs))],
        np.full(len(runs), 5),
        7,
        HistogramArrays(
            np.cumsum([0, *(len(run.counts) for run in fitted)]),
            np.concatenate([run.counts for run in fitted]),
            np.array([run.offset for run in fitted]),
            np.array([run.scale for run in fitted]),
            unsigned([sum(each) for each in rtts_ns]),
            unsigned([min(each) for each in rtts_ns]),
            unsigned([max(each) for each in rtts_ns]),
        ),
    )
    sdks = [
        sdk_points.rtt_point(UNICODE, 5, 7, run, sum(each), (min(each), max(each)))
        for run, each in zip(fitted, rtts_ns, strict=True)
    ]
    check(request(ALONE, OURS, [rtt_metric(ours, DELTA)]), sdk_points.rtt_metric(sdks, DELTA))


BOUNDARIES = [number for bits in range(0, 64, 7) for number in (2**bits - 1, 2**bits)] + [2**64 - 1]


@settings(deadline=None)
@given(st.lists(below(64), max_size=50))
@example(BOUNDARIES)
@example([])
def test_varints_are_those_of_protobuf(numbers: list[int]) -> None:
    written, lengths = protobuf.varints(unsigned(numbers))
    packed = protobuf.field(Pb2Histogram.Buckets.BUCKET_COUNTS_FIELD_NUMBER, written.tobytes())
    assert list(Pb2Histogram.Buckets.FromString(b"".join(packed)).bucket_counts) == numbers
    assert written.tobytes() == b"".join(map(protobuf.varint, numbers))
    assert lengths.tolist() == [len(protobuf.varint(number)) for number in numbers]


def test_zero_points_are_zero_bytes() -> None:
    none, times = Column.of([]), np.zeros(0, np.int64)
    assert number_points([none], times, 1, unsigned([])) == Points(b"", 0)
    runs = HistogramArrays(np.zeros(1, np.int64), unsigned([]), times, times, unsigned([]), unsigned([]), unsigned([]))
    assert histogram_points([none], times, 1, runs) == Points(b"", 0)


def test_a_reused_slot_has_new_attributes() -> None:
    pieces = Pieces()
    for row in (0, 5, 3, 40):
        pieces[row] = b"%d" % row
    pieces[5] = b"somebody else's"
    pieces[40] = b"-"
    found = pieces[np.array([40, 5, 5, 0])]
    assert found.pieces.tolist() == [b"-", b"somebody else's", b"somebody else's", b"0"]
    assert found.lengths.tolist() == [1, 15, 15, 1]
