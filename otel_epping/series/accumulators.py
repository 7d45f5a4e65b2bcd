# SPDX-License-Identifier: Apache-2.0
"""Computes the counts of each series from the counts of the rows.

The increment of a row is the difference between the row's counts in two consecutive readings. Each increment is added
once, to the series to which the row belongs at the later reading. So the counts of a series never decrease, even if a
row moves to another series or gets a new owner.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Indexes
from otel_epping.kernel.count_table import CountTable
from otel_epping.kernel.read.min_max import MinMax
from otel_epping.kernel.read.subnet_counters import packets_of
from otel_epping.kernel.reading import Reading
from otel_epping.kernel.sparse_histograms import starts_of

# Runs of series are widened to multiples of _BLOCK buckets, so that a run seldom has to be widened again.
_BLOCK = 8
# The increments of up to _ROWS_AT_ONCE rows are computed in one step. Computing the increments of all rows in one step
# would double the memory use of the counts.
_ROWS_AT_ONCE = 2048


class Increments(NamedTuple):
    """The counts that were added to some rows since the previous reading.

    rows    (rows,) the numbers of the rows, ascending
    counts  the increments: a table with one row for each of `rows`
    min_ns  (rows,) minimum RTTs
    max_ns  (rows,) maximum RTTs
    """

    rows: Indexes
    counts: CountTable
    min_ns: Counts
    max_ns: Counts


class ReadingDelta:
    """Computes the increments of rows between two readings. The object keeps the counts of the previous reading.

    For each reading, call start() once, and then increments().
    """

    def __init__(self, counters: int) -> None:
        self._previous = CountTable.empty(counters)
        self._min_max = MinMax()

    def start(self, reading: Reading, changed: Indexes) -> None:
        """Prepares for a reading. The rows in `changed` have a new owner, so their counts start from 0."""
        counts = reading.counts
        self._previous.reset(changed)
        self._previous.match(counts)
        self._min_max.grow(counts.rows)
        self._min_max.reset(changed)
        self._min_max.merge(slice(counts.rows), reading.min_ns, reading.max_ns)

    def events(self, reading: Reading) -> tuple[Counts, Counts]:
        """Returns the new RTTs and the new packets of each row, as two arrays of numbers with the shape (rows,)."""
        previous = self._previous.counters.view(reading.counters.dtype)[:, 0]
        rtts = reading.buckets.totals() - self._previous.buckets.totals()
        return rtts, packets_of(reading.counters) - packets_of(previous)

    def increments(self, reading: Reading, rows: Indexes) -> Iterator[Increments]:
        """Yields the increments of the given rows, in parts of up to _ROWS_AT_ONCE rows.

        A later call includes the present increments of all other rows.
        """
        counts = reading.counts
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[begin : begin + _ROWS_AT_ONCE]
            made = Increments(some, counts.delta(some, self._previous), *self._min_max.take(some))
            self._previous.assign(some, counts)
            yield made


class Accumulators:
    """The counts of all series.

    counts   a table with one row for each series
    min_max  minima and maxima of the increments that were added since start()
    """

    def __init__(self, counters: int) -> None:
        self.counts = CountTable.empty(counters)
        self.min_max = MinMax()

    def start(self, series: int, ended: Indexes) -> None:
        """Prepares to add the increments of a reading.

        series  the number of rows that the arrays need, one for each series
        ended   series that have ended. The number of an ended series may belong to a new series, whose counts start
                from 0
        """
        self.min_max = MinMax()
        self.min_max.grow(series)
        self.counts.grow(series)
        self.counts.reset(ended)

    def add(self, increments: Increments, to: Indexes) -> Indexes:
        """Adds the increments of each row to the row's series. Returns the series whose counts have changed.

        to  (rows,) the series of each row
        """
        np.minimum.at(self.min_max.min_ns, to, increments.min_ns)
        np.maximum.at(self.min_max.max_ns, to, increments.max_ns)
        self._add_buckets(increments.counts, to)

        counted = np.flatnonzero(increments.counts.is_counted())
        if not len(counted):
            return counted
        # Several rows may belong to the same series. The rows are sorted by series, so that rows of the same series are
        # adjacent, and reduceat() can add up these rows.
        counted = counted[np.argsort(to[counted], kind="stable")]
        begins = np.flatnonzero(np.diff(to[counted], prepend=-1))
        series = to[counted][begins]
        self.counts.sum_ns[series] += np.add.reduceat(increments.counts.sum_ns[counted], begins)
        self.counts.counters[series] += np.add.reduceat(increments.counts.counters[counted], begins, axis=0)
        return series

    def _add_buckets(self, increments: CountTable, to: Indexes) -> None:
        runs = increments.buckets
        places = np.flatnonzero(runs.counts)
        rows = np.repeat(np.arange(len(to)), runs.lengths)[places]
        bucket = places - (runs.starts[:-1] - runs.first)[rows]
        series = to[rows]
        self._widen_runs(series, bucket)
        buckets = self.counts.buckets
        np.add.at(buckets.counts, buckets.starts[series] + bucket - buckets.first[series], runs.counts[places])

    def _widen_runs(self, series: Indexes, bucket: Indexes) -> None:
        """Extends the runs of series. For each i, the run of series[i] then contains bucket[i].

        series  (n,) the series whose runs are extended; a series may repeat
        bucket  (n,) for each entry of `series`, a bucket that the run of the series must contain
        """
        buckets = self.counts.buckets
        first, end = buckets.first.copy(), buckets.first + buckets.lengths
        outside = np.flatnonzero((bucket < first[series]) | (bucket >= end[series]))
        if not len(outside):
            return
        series, block = series[outside], bucket[outside] // _BLOCK
        is_empty = first[series] == end[series]
        first[series[is_empty]], end[series[is_empty]] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        np.minimum.at(first, series, block * _BLOCK)
        np.maximum.at(end, series, block * _BLOCK + _BLOCK)
        self.counts.buckets = buckets.widen(first, starts_of(end - first))
