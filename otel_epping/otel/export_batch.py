# SPDX-License-Identifier: Apache-2.0
"""The points of one request, as arrays: series, values and start times.

sdk_points.py makes the SDK's objects from a batch, otlp/encoder.py makes bytes. attributes.py names rows and columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality, ScopeMetrics

from otel_epping.kernel.arrays import Counts, Indexes, Times
from otel_epping.kernel.buckets import edge_ns
from otel_epping.kernel.reading import OVERFLOW_SLOT, Reading
from otel_epping.otel import metric_table
from otel_epping.otel.attributes import NO_LABELS, Columns
from otel_epping.series import histogram
from otel_epping.series.temporality import Unsent


class RttSeries(NamedTuple):
    """Histograms with RTTs, (n,), of at most histogram.MAX_BUCKETS buckets each.

    rows      (n,) their rows in the reading
    start_ns  (n,) Unix time, ns
    fitted    the histograms
    sum_ns    (n,)
    min_ns    (n,) not below the lower bound of the first bucket
    max_ns    (n,) not above the upper bound of the last bucket; min_ns and max_ns are 0 if both are unknown, because of
              the race described at EppingCollector._next_interval()
    """

    rows: Indexes
    start_ns: Times
    fitted: histogram.Fitted
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts


class CounterSeries(NamedTuple):
    """Points of a counter, (n,) each.

    columns is NO_LABELS for a point that only has the attributes of its row. start_ns is Unix time, ns.
    """

    metric: metric_table.Metric
    temporality: AggregationTemporality
    is_monotonic: bool
    rows: Indexes
    columns: Indexes
    start_ns: Times
    values: Counts


def _edges_ns(indexes: Indexes, scale: int) -> Counts:
    """Returns the lower bounds of these buckets, ns. Few indexes differ, so each bound is computed once."""
    distinct, which = np.unique(indexes, return_inverse=True)
    return np.array([edge_ns(index, scale) for index in distinct.tolist()], np.uint64)[which]


def rtt_series(rows: Indexes, unsent: Unsent, offset: int, scale: int) -> RttSeries:
    """Returns the histograms of rows that have RTTs. Bucket 0 has the OTLP index `offset` at `scale`.

    rows    (rows,) their numbers in the reading
    unsent  their counts

    An RTT that is counted during a reading is in the buckets of that reading, while its minimum and maximum are in the
    next reading, too (Interval.hand_out_min_max()). There they may lie outside of the buckets. Such a value is set to
    the bound of the first or last bucket, which is at most one bucket from the true value.
    """
    counted = np.flatnonzero(unsent.buckets.totals())
    fitted = histogram.fit_all(unsent.buckets.select(counted), offset, scale)
    halvings = scale - fitted.scale
    lower = _edges_ns(fitted.offset << halvings, scale)
    upper = _edges_ns((fitted.offset + np.diff(fitted.starts)) << halvings, scale)
    min_ns, max_ns = unsent.min_ns[counted], unsent.max_ns[counted]
    known = max_ns != 0
    return RttSeries(
        rows[counted],
        unsent.start_ns[counted],
        fitted,
        unsent.sum_ns[counted],
        np.where(known, np.maximum(min_ns, lower + np.uint64(1)), np.uint64(0)),
        np.where(known, np.minimum(max_ns, upper), np.uint64(0)),
    )


def _points_of(rows: Indexes, unsent: Unsent, columns: Sequence[int]) -> tuple[Indexes, Indexes, Times, Counts]:
    """Returns rows, columns, start times and values of a metric's points.

    The overflow slot has one point, which is the sum of all columns.
    """
    counts = unsent.counters[:, columns]
    overflow = np.flatnonzero(rows == OVERFLOW_SLOT)
    total = counts[overflow].sum(axis=1)
    counts[overflow] = 0
    places, which = np.nonzero(counts)
    overflow, total = overflow[total != 0], total[total != 0]
    places, values = np.concatenate([overflow, places]), np.concatenate([total, counts[places, which]])
    labels = np.concatenate([np.full(len(overflow), NO_LABELS), np.asarray(columns)[which]])
    return rows[places], labels, unsent.start_ns[places], values


def counter_series(
    rows: Indexes, unsent: Unsent, columns: Columns, temporality: AggregationTemporality
) -> Iterator[CounterSeries]:
    """Yields the points of each metric of these rows: a point for each count that is not 0."""
    for metric, numbers in columns.by_metric.items():
        yield CounterSeries(metric, temporality, True, *_points_of(rows, unsent, numbers))


@dataclass(frozen=True)
class ExportBatch:
    """The content of one request: the series of some rows of a reading.

    The first batch of a reading also has `others`: the metrics of interfaces, and the agent's own metrics.
    """

    reading: Reading
    rows: Indexes
    rtts: RttSeries
    counters: list[CounterSeries]
    temporality: AggregationTemporality
    is_first: bool
    others: ScopeMetrics
