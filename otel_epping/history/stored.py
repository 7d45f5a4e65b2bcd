# SPDX-License-Identifier: Apache-2.0
"""The form in which a history stores slices. Each array has the smallest integer type that holds the values."""

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.history.histograms import is_trimmed
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of
from otel_epping.series import histogram

CompactArray = npt.NDArray[np.integer[Any]]

# Intervals of time: (begin, end) in ns, sorted, without overlaps and without common ends.
Intervals = tuple[tuple[int, int], ...]


def union(intervals: Intervals, more: Intervals) -> Intervals:
    """Returns the union of two sets of intervals."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted((*intervals, *more)):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((begin, end))
    return tuple(joined)


def compact(array: CompactArray) -> CompactArray:
    """Returns a copy with the smallest integer type that holds all values."""
    least, greatest = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = np.min_scalar_type(greatest)
    return array.astype(kind if least >= 0 else np.promote_types(np.min_scalar_type(least), kind))


class StoredRtts:
    """The histograms of one method of a slice. Buckets that are 0 at the ends of a histogram are not stored."""

    def __init__(self, rtts: Rtts) -> None:
        buckets = rtts.buckets
        if not is_trimmed(buckets):
            fitted = histogram.fit_all(buckets, 0, 0, most=np.iinfo(np.int64).max)
            buckets = SparseHistograms(fitted.offset, fitted.starts, fitted.counts)
        self._lengths, self._first, self._counts = map(compact, (buckets.lengths, buckets.first, buckets.counts))
        self._lines, self._scales = compact(rtts.lines), compact(rtts.scales)
        self._sums = tuple(compact(each) for each in (rtts.sum_ns, rtts.min_ns, rtts.max_ns))

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        arrays = (self._lengths, self._first, self._counts, self._lines, self._scales, *self._sums)
        return sum(array.nbytes for array in arrays)

    def load(self) -> Rtts:
        """Returns the histograms. The method of the histograms is 0."""
        starts = starts_of(self._lengths.astype(np.int64))
        buckets = SparseHistograms(self._first.astype(np.int64), starts, self._counts)
        sum_ns, min_ns, max_ns = (each.astype(np.uint64) for each in self._sums)
        lines = self._lines.astype(np.int64)
        return Rtts(
            lines, np.zeros(len(lines), np.int64), self._scales.astype(np.int64), buckets, sum_ns, min_ns, max_ns
        )


class StoredSlice:
    """A slice in a history. Columns without counts are not stored.

    begin_ns, end_ns  Unix times, ns
    covered   the intervals of time that the slice covers. A sum of slices can have gaps
    lines     (n,) the numbers of lines
    columns   the counts (n,) of each column, by the number of the column
    rtts      the histograms of each method, by the number of the method
    agent     values without a line
    """

    def __init__(self, slice: Slice, covered: Intervals | None = None) -> None:
        self.begin_ns, self.end_ns = slice.begin_ns, max(slice.begin_ns, slice.end_ns)
        self.covered = covered if covered is not None else ((self.begin_ns, self.end_ns),)
        self.lines = compact(slice.lines)
        used = np.flatnonzero(slice.counters.any(axis=0)).tolist()
        self.columns = {column: compact(slice.counters[:, column]) for column in used}
        self.rtts: dict[int, StoredRtts] = {}
        methods = np.unique(slice.rtts.methods).tolist()
        for method in methods:
            is_only = len(methods) == 1
            of_method = slice.rtts if is_only else slice.rtts.select(np.flatnonzero(slice.rtts.methods == method))
            self.rtts[method] = StoredRtts(of_method)
        self.agent: AgentValues = slice.agent

    @property
    def middle_ns(self) -> int:
        """The middle of the slice, which decides to which period the slice belongs."""
        return (self.begin_ns + self.end_ns) // 2

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        arrays = sum(array.nbytes for array in self.columns.values())
        return self.lines.nbytes + arrays + sum(rtts.nbytes for rtts in self.rtts.values())

    def line_numbers(self) -> Indexes | slice:
        """Returns the numbers of the lines, as a slice if possible, because numpy processes a slice faster."""
        lines = self.lines
        if (
            len(lines)
            and int(lines[-1]) - int(lines[0]) == len(lines) - 1
            and (np.diff(lines.astype(np.int64)) == 1).all()
        ):
            return slice(int(lines[0]), int(lines[-1]) + 1)
        return lines.astype(np.int64)
