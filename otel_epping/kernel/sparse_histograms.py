# SPDX-License-Identifier: Apache-2.0
"""Sparse histograms. Each row stores only the range from its first used bucket to its last used bucket.

The stored range of a row is called a run. A run typically has a tenth of all buckets. The runs of all rows are in one
array, one after the other.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, Indexes, grow

_T = TypeVar("_T", np.uint32, np.uint64)

# add() widens runs to multiples of _BLOCK buckets, so that a run seldom has to be widened again.
_BLOCK = 8
# widen() computes the positions of the buckets of up to _ROWS_AT_ONCE rows in one step. The positions need as much
# memory as the counts.
_ROWS_AT_ONCE = 512


def spans(begins: Indexes, lengths: Indexes, step: int = 1) -> Indexes:
    """Concatenates ranges of numbers. A range consists of `length` numbers: begin, begin + step, begin + 2 * step...

    spans([10, 50], [3, 2]) returns [10, 11, 12, 50, 51].
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(begins - step * (ends - lengths), lengths) + step * np.arange(total)


def starts_of(lengths: Indexes) -> Indexes:
    """Returns the start position of each run, followed by the end of the last run. The shape is (rows + 1,).

    Each run starts where the previous run ends.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def sums(counts: npt.NDArray[_T], starts: Indexes) -> npt.NDArray[_T]:
    """Returns the sum of the counts of each run. The shape is (rows,), and the type is the type of `counts`.

    `starts` is SparseHistograms.starts.
    """
    totals = np.zeros(len(starts) - 1, counts.dtype)
    occupied = np.flatnonzero(np.diff(starts))
    if len(occupied):
        totals[occupied] = np.add.reduceat(counts, starts[occupied], dtype=counts.dtype)
    return totals


def difference(counts: npt.NDArray[Any], since: npt.NDArray[Any]) -> Counts:
    """Returns counts - since. If `since` contains only the low 32 bits of counts, the result is modulo 2^32."""
    return np.asarray(np.subtract(counts, since, dtype=since.dtype, casting="unsafe").astype(np.uint64, copy=False))


class SparseHistograms(NamedTuple):
    """One histogram per row. Only the buckets in the row's run are stored. All other buckets of the row are 0.

    A run may have no buckets. A run may also have empty buckets at its start and end. `first` is negative if the run
    starts before bucket 0.

    first   (rows,) number of the first bucket of each run
    starts  (rows + 1,) the position in `counts` where each run starts. A run ends where the next run starts
    counts  (buckets of all runs,) the counts of all runs, one run after the other; 64 bits each, or the low 32 bits

    For example, a row whose buckets 30 and 32 have 5 RTTs and 1 RTT can have the run [5, 0, 1] with `first` 30.
    """

    first: Indexes
    starts: Indexes
    counts: npt.NDArray[Any]

    @classmethod
    def empty(cls, rows: int, bucket: type[np.uint32 | np.uint64] = np.uint64) -> "SparseHistograms":
        """Returns rows without buckets. `bucket` is the type of `counts`. For delta(), 32 bits are sufficient."""
        return cls(np.zeros(rows, np.int64), np.zeros(rows + 1, np.int64), np.zeros(0, bucket))

    @property
    def lengths(self) -> Indexes:
        """Number of buckets of each run: (rows,)."""
        return np.diff(self.starts)

    def run(self, row: int) -> tuple[int, Counts]:
        """Returns the first bucket of a row's run, and a view of the run's counts."""
        return int(self.first[row]), self.counts[self.starts[row] : self.starts[row + 1]]

    def totals(self) -> Counts:
        """Returns the number of RTTs of each row: (rows,)."""
        return sums(self.counts, self.starts)

    def _places(self, rows: Indexes) -> Indexes | slice:
        """Returns the positions in `counts` of all buckets of the given rows, one run after the other.

        The result is a slice if the runs are adjacent, because numpy processes a slice much faster than an array of
        positions.
        """
        begins, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        if len(rows) and (begins[1:] == (begins + lengths)[:-1]).all():
            return slice(begins[0], begins[-1] + lengths[-1])
        return spans(begins, lengths)

    def grow(self, rows: int) -> "SparseHistograms":
        """Returns the histograms, extended to at least `rows` rows. New rows have no buckets."""
        return SparseHistograms(grow(self.first, rows), grow(self.starts, rows + 1, int(self.starts[-1])), self.counts)

    def select(self, rows: Indexes) -> "SparseHistograms":
        """Returns a copy of the given rows, in the order of `rows`."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        counts = self.counts[spans(self.starts[rows], lengths)]
        return SparseHistograms(self.first[rows], starts_of(lengths), counts)

    def delta(self, rows: Indexes, since: "SparseHistograms") -> "SparseHistograms":
        """Subtracts the rows of `since` from the same rows of this object, and returns the differences for `rows`.

        The runs of `since` must be the same as the runs of this object. If the counts of `since` have 32 bits, the
        differences are exact up to 2^32 - 1.
        """
        lengths = self.starts[rows + 1] - self.starts[rows]
        places = self._places(rows)
        return SparseHistograms(
            self.first[rows], starts_of(lengths), difference(self.counts[places], since.counts[places])
        )

    def assign(self, rows: Indexes, other: "SparseHistograms") -> None:
        """Overwrites the given rows with the same rows of `other`.

        The runs of `other` must be the same as the runs of this object.
        """
        places = self._places(rows)
        self.counts[places] = other.counts[places]

    def without(self, rows: Indexes) -> "SparseHistograms":
        """Returns a copy in which the given rows have no buckets."""
        kept = np.ones(len(self.counts), np.bool_)
        kept[self._places(rows)] = False
        lengths, first = self.lengths, self.first.copy()
        lengths[rows] = first[rows] = 0
        return SparseHistograms(first, starts_of(lengths), self.counts[kept])

    def widen(self, first: Indexes, starts: Indexes) -> "SparseHistograms":
        """Returns the same histograms with longer runs. `first` and `starts` define the new runs.

        The new run of each row must contain the present run of the row.
        """
        lengths = np.diff(starts)
        if not ((first != self.first) | (lengths != self.lengths)).any():
            return self
        counts = np.zeros(starts[-1], self.counts.dtype)
        for begin in range(0, len(first), _ROWS_AT_ONCE):
            some = slice(begin, begin + _ROWS_AT_ONCE)
            places = spans((starts[:-1] + self.first - first)[some], self.lengths[some])
            counts[places] = self.counts[self.starts[begin] :][: len(places)]
        return SparseHistograms(first, starts, counts)

    def add(self, rows: Indexes, other: "SparseHistograms") -> "SparseHistograms":
        """Adds each row of `other` to a row of this object. Widens the runs as needed.

        Returns the sum, which may share memory with the counts of this object.

        rows  the row to which each row of `other` is added; a row number may repeat
        """
        places = np.flatnonzero(other.counts)
        from_rows = np.repeat(np.arange(len(rows)), other.lengths)[places]
        bucket = places - (other.starts[:-1] - other.first)[from_rows]
        to = rows[from_rows]
        whole = self._widen_to(to, bucket)
        np.add.at(whole.counts, whole.starts[to] + bucket - whole.first[to], other.counts[places])
        return whole

    def _widen_to(self, rows: Indexes, bucket: Indexes) -> "SparseHistograms":
        """Returns the same histograms with runs that are long enough: the run of rows[i] contains bucket[i]."""
        first, end = self.first.copy(), self.first + self.lengths
        outside = np.flatnonzero((bucket < first[rows]) | (bucket >= end[rows]))
        if not len(outside):
            return self
        rows, block = rows[outside], bucket[outside] // _BLOCK
        is_empty = first[rows] == end[rows]
        first[rows[is_empty]], end[rows[is_empty]] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        np.minimum.at(first, rows, block * _BLOCK)
        np.maximum.at(end, rows, block * _BLOCK + _BLOCK)
        return self.widen(first, starts_of(end - first))
