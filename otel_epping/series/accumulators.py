# SPDX-License-Identifier: Apache-2.0
"""Counts of series, added up from what rows of readings have counted since the reading before.

A row may count into one series now and into another one later, and go to another subnet in between: what it counted is
added to one series, once, and no series ever counts backwards.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, grow
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import Reading
from otel_epping.kernel.sparse import Numbers, SparseHistograms, spans, starts_of
from otel_epping.series.temporality import as_matrix

# Runs of series are wider by less than this many buckets than they must be, so that they seldom have to be made wider.
_BLOCK = 8
_AT_ONCE = 2048


class Increments(NamedTuple):
    """What rows of a reading have counted since the one before.

    rows         (rows,) their numbers, ascending
    sum_ns       (rows,)
    counters     (rows, counters)
    min_ns     (rows,)
    max_ns  (rows,)
    rtts         (n,) of each bucket that has some: RTTs
    rtts_row     (n,) the bucket's row, as an index into `rows`
    rtts_bucket  (n,) the bucket's number
    """

    rows: Numbers
    sum_ns: Counts
    counters: Counts
    min_ns: Counts
    max_ns: Counts
    rtts: Counts
    rtts_row: Numbers
    rtts_bucket: Numbers


class ReadingDelta:
    """The counts of a reader's previous reading."""

    def __init__(self) -> None:
        self._buckets = SparseHistograms.empty(0)
        self._sum_ns: Counts = np.zeros(0, np.uint64)
        self._counters: Counts = np.zeros((0, 0), np.uint64)
        self._least_ns: Counts = np.zeros(0, np.uint64)
        self._greatest_ns: Counts = np.zeros(0, np.uint64)

    def forget(self, rows: Numbers) -> None:
        """Some rows are somebody else's, and count from 0."""
        rows = rows[rows < len(self._sum_ns)]
        if len(rows):
            self._buckets = self._buckets.without(rows)
            self._sum_ns[rows] = self._counters[rows] = self._greatest_ns[rows] = 0
            self._least_ns[rows] = NO_MIN_NS

    def _grow(self, reading: Reading) -> None:
        rows, counters = len(reading.sum_ns), as_matrix(reading.counters)
        self._buckets = self._buckets.grow(rows).within(reading.buckets.first, reading.buckets.starts)
        self._sum_ns = grow(self._sum_ns, rows)
        self._counters = grow(self._counters.reshape(-1, counters.shape[1]), rows)
        self._least_ns = grow(self._least_ns, rows, NO_MIN_NS)
        self._greatest_ns = grow(self._greatest_ns, rows)

    def increments(self, reading: Reading, rows: Numbers) -> Iterator[Increments]:
        """What these rows of the reading have counted, some of them at a time; what others have comes with a later one.

        All at once would take as much memory as all that is kept.
        """
        self._grow(reading)
        np.minimum(self._least_ns, reading.min_ns, out=self._least_ns)
        np.maximum(self._greatest_ns, reading.max_ns, out=self._greatest_ns)
        for begin in range(0, len(rows), _AT_ONCE):
            yield self._some(reading, rows[begin : begin + _AT_ONCE])

    def _some(self, reading: Reading, rows: Numbers) -> Increments:
        counters = as_matrix(reading.counters)[rows]
        lengths = reading.buckets.lengths[rows]
        places = spans(reading.buckets.starts[rows], lengths)
        rtts = reading.buckets.counts[places] - self._buckets.counts[places]
        counted = np.flatnonzero(rtts)
        row = np.repeat(np.arange(len(rows)), lengths)[counted]
        bucket = places[counted] - (reading.buckets.starts[rows] - reading.buckets.first[rows])[row]
        made = Increments(
            rows,
            reading.sum_ns[rows] - self._sum_ns[rows],
            counters - self._counters[rows],
            self._least_ns[rows],
            self._greatest_ns[rows],
            rtts[counted],
            row,
            bucket,
        )
        self._buckets.counts[places] += rtts
        self._sum_ns[rows], self._counters[rows] = reading.sum_ns[rows], counters
        self._least_ns[rows], self._greatest_ns[rows] = NO_MIN_NS, 0
        return made


class Accumulators:
    """The counts of all series, by their numbers; `counters` of them each. Arrays are as in Reading.

    min_ns and max_ns are of what was added since begin().
    """

    def __init__(self, counters: int) -> None:
        self.buckets = SparseHistograms.empty(0)
        self.sum_ns: Counts = np.zeros(0, np.uint64)
        self.counters: Counts = np.zeros((0, counters), np.uint64)
        self.min_ns: Counts = np.zeros(0, np.uint64)
        self.max_ns: Counts = np.zeros(0, np.uint64)

    def begin(self, series: int) -> None:
        """Makes room for so many series, before what a reading brings is added."""
        self.min_ns, self.max_ns = np.full(series, NO_MIN_NS, np.uint64), np.zeros(series, np.uint64)
        self.buckets = self.buckets.grow(series)
        self.sum_ns, self.counters = grow(self.sum_ns, series), grow(self.counters, series)

    def forget(self, series: Numbers) -> None:
        """These series begin anew."""
        self.buckets = self.buckets.without(series)
        self.sum_ns[series] = self.counters[series] = 0

    def add(self, increments: Increments, to: Numbers) -> Numbers:
        """Adds each row's to the series `to`, (rows,). Returns those that had something."""
        np.minimum.at(self.min_ns, to, increments.min_ns)
        np.maximum.at(self.max_ns, to, increments.max_ns)
        self._add_buckets(to[increments.rtts_row], increments.rtts_bucket, increments.rtts)

        told = np.flatnonzero((increments.sum_ns != 0) | increments.counters.any(axis=1))
        told = told[np.argsort(to[told], kind="stable")]
        if not len(told):
            return told
        begins = np.flatnonzero(np.diff(to[told], prepend=-1))
        # One after the other, where several rows count into one series.
        into = to[told][begins]
        self.sum_ns[into] += np.add.reduceat(increments.sum_ns[told], begins)
        self.counters[into] += np.add.reduceat(increments.counters[told], begins, axis=0)
        return into

    def _add_buckets(self, to: Numbers, bucket: Numbers, rtts: Counts) -> None:
        first, end = self.buckets.first.copy(), self.buckets.first + self.buckets.lengths
        outside = np.flatnonzero((bucket < first[to]) | (bucket >= end[to]))
        if len(outside):
            wide = to[outside]
            empty = wide[first[wide] == end[wide]]
            first[empty], end[empty] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
            np.minimum.at(first, wide, bucket[outside] // _BLOCK * _BLOCK)
            np.maximum.at(end, wide, bucket[outside] // _BLOCK * _BLOCK + _BLOCK)
            self.buckets = self.buckets.within(first, starts_of(end - first))
        np.add.at(self.buckets.counts, self.buckets.starts[to] + bucket - self.buckets.first[to], rtts)
