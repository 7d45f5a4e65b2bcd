# SPDX-License-Identifier: Apache-2.0
"""What there is to tell of some rows, as arrays: which series count, what, and since when.

sdk_points.py makes the SDK's objects of a batch, otlp/encoder.py makes bytes. attributes.py names rows and columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from opentelemetry.sdk.metrics.export import AggregationTemporality, ScopeMetrics

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.buckets import edge_ns
from otel_epping.kernel.reading import OVERFLOW_SLOT, Reading
from otel_epping.otel import metric_table
from otel_epping.otel.attributes import NO_LABELS, Columns
from otel_epping.series import histogram
from otel_epping.series.temporality import Rows, Times, Unsent

Numbers = npt.NDArray[np.int64]


class RttSeries(NamedTuple):
    """Histograms of n rows that are not empty, of at most histogram.MAX_BUCKETS buckets each.

    min_ns and max_ns are no further apart than the buckets are; both 0 if the race described at
    Reader._read_histograms() lost them.
    """

    rows: Rows
    start_ns: Times
    fitted: histogram.Fitted
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts


class CounterSeries(NamedTuple):
    """Points of a counter, (n,) each; columns are NO_LABELS where a row has no more attributes than its own."""

    metric: metric_table.Metric
    temporality: AggregationTemporality
    is_monotonic: bool
    rows: Rows
    columns: Numbers
    start_ns: Times
    values: Counts


def _edges_ns(indexes: Numbers, scale: int) -> Counts:
    """The edges of many buckets, of which few differ."""
    distinct, which = np.unique(indexes, return_inverse=True)
    return np.array([edge_ns(index, scale) for index in distinct.tolist()], np.uint64)[which]


def rtt_series(rows: Rows, pending: Unsent, offset: int, scale: int) -> RttSeries:
    """The rows that have RTTs; bucket 0 has the OTLP index `offset`, at `scale`.

    An RTT counted while a reading was taken is in its buckets, and its extreme in the next one's, too (Reader.read()).
    There it would contradict the buckets; so it is put at their edge, at most one bucket from the truth.
    """
    told = np.flatnonzero(pending.buckets.totals())
    fitted = histogram.fit_all(pending.buckets.select(told), offset, scale)
    halvings = scale - fitted.scale
    below = _edges_ns(fitted.offset << halvings, scale)
    last = _edges_ns((fitted.offset + np.diff(fitted.starts)) << halvings, scale)
    min_ns, max_ns = pending.min_ns[told], pending.max_ns[told]
    known = max_ns != 0
    return RttSeries(
        rows[told],
        pending.start_ns[told],
        fitted,
        pending.sum_ns[told],
        np.where(known, np.maximum(min_ns, below + np.uint64(1)), np.uint64(0)),
        np.where(known, np.minimum(max_ns, last), np.uint64(0)),
    )


def _of_metric(rows: Rows, pending: Unsent, columns: Sequence[int]) -> tuple[Rows, Numbers, Times, Counts]:
    """Rows, columns, start times and values of the points of one metric. The overflow slot has one for all columns."""
    counts = pending.counters[:, columns]
    beyond = np.flatnonzero(rows == OVERFLOW_SLOT)
    total = counts[beyond].sum(axis=1)
    counts[beyond] = 0
    places, which = np.nonzero(counts)
    beyond, total = beyond[total != 0], total[total != 0]
    places, values = np.concatenate([beyond, places]), np.concatenate([total, counts[places, which]])
    labels = np.concatenate([np.full(len(beyond), NO_LABELS), np.asarray(columns)[which]])
    return rows[places], labels, pending.start_ns[places], values


def counter_series(
    rows: Rows, pending: Unsent, columns: Columns, temporality: AggregationTemporality
) -> Iterator[CounterSeries]:
    """What the rows have counted, by metric: a point for each count that isn't 0."""
    for metric, numbers in columns.by_metric.items():
        yield CounterSeries(metric, temporality, True, *_of_metric(rows, pending, numbers))


@dataclass(frozen=True)
class Batch:
    """What goes into one request: the series of some rows of a reading.

    The first batch of a reading has `others`, too: the metrics of interfaces, and those of the collector itself.
    """

    reading: Reading
    rows: Rows
    rtts: RttSeries
    counters: list[CounterSeries]
    temporality: AggregationTemporality
    is_first: bool
    others: ScopeMetrics
