# SPDX-License-Identifier: Apache-2.0
"""Holds the data points of one request as arrays: series, values and start times.

sdk_points.py converts a batch to objects of the SDK. otlp/encoder.py converts a batch to bytes. series_groups.py
defines the attributes of rows, columns and methods.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality, ScopeMetrics

from otel_epping.kernel.arrays import Counts, Indexes, Times
from otel_epping.kernel.buckets import edge_ns
from otel_epping.kernel.reading import OVERFLOW_SLOT, SHARED_SLOTS
from otel_epping.otel.columns import NO_LABELS, Columns
from otel_epping.otel.metric import Metric
from otel_epping.otel.series_groups import SeriesGroup
from otel_epping.series import histogram
from otel_epping.series.projection import SeriesReading
from otel_epping.series.temporality import Unsent, UnsentRtts


class RttSeries(NamedTuple):
    """n RTT histograms, each with at least one RTT and at most EppingMetricProducer.max_buckets buckets.

    rows      (n,) the row of each histogram in the reading
    methods   (n,) the method of each histogram; NO_LABELS for the overflow histogram, which has RTTs of all methods
    start_ns  (n,) the start time of each histogram, Unix time, ns
    fitted    the buckets of the histograms
    sum_ns    (n,) the sum of all RTTs of each histogram
    min_ns    (n,) the minimum RTT, which is not below the lower bound of the first bucket
    max_ns    (n,) the maximum RTT, which is not above the upper bound of the last bucket. Unknown minimums and maximums
              are 0. EppingCollector._next_interval() describes the race after which minimum and maximum are unknown
    """

    rows: Indexes
    methods: Indexes
    start_ns: Times
    fitted: histogram.Fitted
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts


class CounterSeries(NamedTuple):
    """n data points of one counter. All arrays have the shape (n,).

    If the column of a point is NO_LABELS, the point has only the attributes of its row. start_ns is Unix time, ns.
    """

    metric: Metric
    temporality: AggregationTemporality
    is_monotonic: bool
    rows: Indexes
    columns: Indexes
    start_ns: Times
    values: Counts


def _edges_ns(indexes: Indexes, scale: int) -> Counts:
    """Returns the lower bound of each bucket in ns. Many indexes are equal, so each distinct bound is computed once."""
    distinct, which = np.unique(indexes, return_inverse=True)
    return np.array([edge_ns(index, scale) for index in distinct.tolist()], np.uint64)[which]


def rtt_series(unsent: UnsentRtts, offset: int, scale: int, max_buckets: int) -> RttSeries:
    """Returns each histogram that has at least one RTT. Bucket 0 has the OTLP index `offset` at `scale`.

    A histogram with more than `max_buckets` buckets has a lower scale.

    If an RTT is counted while the maps are read, the RTT is only in the buckets of the current reading, but it
    contributes to the minimum and maximum of the current reading and of the next reading (Interval.hand_out_min_max()).
    So in the next reading, the minimum or maximum may lie outside of the buckets. A minimum or maximum outside of the
    buckets is replaced by the bound of the first or last bucket. The true minimum lies in the first bucket, and the
    true maximum in the last bucket, so the error is at most the width of the bucket.
    """
    counted = np.flatnonzero(unsent.buckets.totals())
    fitted = histogram.fit_all(unsent.buckets.select(counted), offset, scale, max_buckets)
    halvings = scale - fitted.scale
    lower = _edges_ns(fitted.offset << halvings, scale)
    upper = _edges_ns((fitted.offset + np.diff(fitted.starts)) << halvings, scale)
    min_ns, max_ns = unsent.min_ns[counted], unsent.max_ns[counted]
    known = max_ns != 0
    rows = unsent.rows[counted]
    return RttSeries(
        rows,
        np.where(rows == OVERFLOW_SLOT, NO_LABELS, unsent.methods[counted]),
        unsent.start_ns[counted],
        fitted,
        unsent.sum_ns[counted],
        np.where(known, np.maximum(min_ns, lower + np.uint64(1)), np.uint64(0)),
        np.where(known, np.minimum(max_ns, upper), np.uint64(0)),
    )


def _points_of(rows: Indexes, unsent: Unsent, columns: Sequence[int]) -> tuple[Indexes, Indexes, Times, Counts]:
    """Returns the rows, columns, start times and values of a metric's points.

    Each shared row has one data point, whose value is the sum of all columns.
    """
    counts = unsent.counters[:, columns]
    shared = np.flatnonzero(rows < SHARED_SLOTS)
    total = counts[shared].sum(axis=1)
    counts[shared] = 0
    places, which = np.nonzero(counts)
    shared, total = shared[total != 0], total[total != 0]
    places, values = np.concatenate([shared, places]), np.concatenate([total, counts[places, which]])
    labels = np.concatenate([np.full(len(shared), NO_LABELS), np.asarray(columns)[which]])
    return rows[places], labels, unsent.start_ns[places], values


def counter_series(
    rows: Indexes, unsent: Unsent, columns: Columns, temporality: AggregationTemporality
) -> Iterator[CounterSeries]:
    """Yields the series of each metric. A series has one data point for each nonzero count in `rows`."""
    for metric, numbers in columns.by_metric.items():
        yield CounterSeries(metric, temporality, True, *_points_of(rows, unsent, numbers))


@dataclass(frozen=True)
class ExportBatch:
    """The content of one request: the series of some rows of a group.

    In the first batch of a reading, `others` has the metrics of interfaces and the agent's own metrics. In all later
    batches of the reading, `others` has no metrics.
    """

    group: SeriesGroup
    reading: SeriesReading
    rows: Indexes
    rtts: RttSeries
    counters: list[CounterSeries]
    temporality: AggregationTemporality
    is_first: bool
    others: ScopeMetrics
