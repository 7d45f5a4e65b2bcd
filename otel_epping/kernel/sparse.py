# SPDX-License-Identifier: Apache-2.0
"""Histograms as runs of buckets: most occupy a tenth of the buckets there are, and only that tenth is kept."""

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, grow

Numbers = npt.NDArray[np.int64]
_T = TypeVar("_T", np.uint32, np.uint64)


def spans(begins: Numbers, lengths: Numbers, step: int = 1) -> Numbers:
    """The numbers begin, begin + step, begin + 2 step..., `length` of them, for each span, one span after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begins - step * (ends - lengths), lengths) + step * np.arange(total)


def starts_of(lengths: Numbers) -> Numbers:
    """Where each of some runs begins if one lies behind the other, and where the last one ends: (rows + 1,)"""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def sums(counts: npt.NDArray[_T], starts: Numbers) -> npt.NDArray[_T]:
    """The sum of each run of counts, in their own type: runs lie as in Runs."""
    totals = np.zeros(len(starts) - 1, counts.dtype)
    occupied = np.flatnonzero(np.diff(starts))
    if len(occupied):
        totals[occupied] = np.add.reduceat(counts, starts[occupied], dtype=counts.dtype)
    return totals


class SparseHistograms(NamedTuple):
    """A histogram for each row, of which a run of buckets is kept; all others are empty. A run may be empty itself,
    or have empty buckets at its ends; where these are before bucket 0, it begins at a negative one.

    first   (rows,) the bucket that the row's run begins with
    starts  (rows + 1,) where the run begins in `counts`; it ends where the next one begins
    counts  (buckets of all runs,)
    """

    first: Numbers
    starts: Numbers
    counts: Counts

    @classmethod
    def empty(cls, rows: int) -> "SparseHistograms":
        """Histograms of nothing."""
        return cls(np.zeros(rows, np.int64), np.zeros(rows + 1, np.int64), np.zeros(0, np.uint64))

    @property
    def lengths(self) -> Numbers:
        """How many buckets each run has: (rows,)"""
        return np.diff(self.starts)

    def run(self, row: int) -> tuple[int, Counts]:
        """The first bucket of a row's run, and its counts."""
        return int(self.first[row]), self.counts[self.starts[row] : self.starts[row + 1]]

    def totals(self) -> Counts:
        """All that each row has counted: (rows,)"""
        return sums(self.counts, self.starts)

    def grow(self, rows: int) -> "SparseHistograms":
        """With at least `rows` rows, the new ones of empty runs."""
        return SparseHistograms(grow(self.first, rows), grow(self.starts, rows + 1, int(self.starts[-1])), self.counts)

    def select(self, rows: Numbers) -> "SparseHistograms":
        """Some rows, in this order, as a copy."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        return SparseHistograms(self.first[rows], starts_of(lengths), self.counts[spans(self.starts[rows], lengths)])

    def put(self, rows: Numbers, other: "SparseHistograms") -> None:
        """Overwrites some rows with those of another that has the same runs."""
        places = spans(self.starts[rows], self.starts[rows + 1] - self.starts[rows])
        self.counts[places] = other.counts[places]

    def without(self, rows: Numbers) -> "SparseHistograms":
        """The same, but for some rows that have empty runs."""
        kept = np.ones(len(self.counts), np.bool_)
        kept[spans(self.starts[rows], self.lengths[rows])] = False
        lengths, first = self.lengths, self.first.copy()
        lengths[rows] = first[rows] = 0
        return SparseHistograms(first, starts_of(lengths), self.counts[kept])

    def within(self, first: Numbers, starts: Numbers) -> "SparseHistograms":
        """The same histograms in runs that are as wide or wider, given as the fields of Runs."""
        lengths = np.diff(starts)
        changed = np.flatnonzero((first != self.first) | (lengths != self.lengths))
        if not len(changed):
            return self
        known = np.ones(starts[-1], np.bool_)
        known[spans(starts[changed], lengths[changed])] = False
        known[spans((starts[:-1] + self.first - first)[changed], self.lengths[changed])] = True
        counts = np.zeros(starts[-1], np.uint64)
        counts[known] = self.counts
        return SparseHistograms(first, starts, counts)
