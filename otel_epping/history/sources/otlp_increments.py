# SPDX-License-Identifier: Apache-2.0
"""Converts cumulative counts to increments: the differences between consecutive points of each series."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from otel_epping.history.histograms import downscale
from otel_epping.kernel.arrays import Counts, Flags, Indexes, Times, grow
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of

_SIGN = np.uint64(2**63)
_NS = 1e9
_MAX_S = 1.8e10  # the value in ns needs 64 bits
Stored = tuple[int, int, list[int], float, float, float]
"""Scale, offset and counts of a histogram; sum, minimum and maximum RTT in seconds. 0 means unknown."""


@dataclass
class Unusable:
    """The number of unused data points for each cause, and the numbers of other data points that notes mention."""

    foreign: dict[str, int] = field(default_factory=dict)
    without_time: int = 0
    without_value: int = 0
    without_temporality: int = 0
    invalid_attributes: int = 0
    odd_buckets: int = 0
    impossible_counts: int = 0
    late: int = 0
    decreased: int = 0
    baselines: int = 0
    resets: int = 0
    doubled: int = 0


@dataclass(frozen=True)
class HistogramRows:
    """n histograms: the number of each series, its start time, and its counts."""

    series: Indexes
    start_ns: Times
    scales: Indexes
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts

    def take(self, rows: Indexes | Flags) -> "HistogramRows":
        """Returns the given rows."""
        rows = np.arange(len(self.series))[rows]
        return HistogramRows(
            self.series[rows],
            self.start_ns[rows],
            self.scales[rows],
            self.buckets.select(rows),
            self.sum_ns[rows],
            self.min_ns[rows],
            self.max_ns[rows],
        )


def histogram_rows(series: list[int], start_ns: list[int], stored: list[Stored]) -> HistogramRows:
    """Converts lists to arrays."""
    scales, first, counts, *times = zip(*stored, strict=True) if stored else ((),) * 6
    lengths = np.array([len(each) for each in counts], np.int64)
    flat = np.fromiter(chain.from_iterable(counts), np.uint64, int(lengths.sum()))
    return HistogramRows(
        np.array(series, np.int64),
        np.array(start_ns, np.int64),
        np.array(scales, np.int64),
        SparseHistograms(np.array(first, np.int64), starts_of(lengths), flat),
        *map(_as_ns, times),
    )


def _as_ns(seconds: Sequence[float]) -> Counts:
    array = np.array(seconds, np.float64)
    return np.rint(np.nan_to_num(array, posinf=0).clip(0, _MAX_S) * _NS).astype(np.uint64)


class CumulativeSeries:
    """The latest point of each cumulative series.

    The first point of a series counts if the series started in the time of the files: at `first_ns` or later. All
    counts of such a series belong to the time of the files. The first point of an older series is the baseline for
    later points. If the start time of a series changes, the series was reset, and began at 0.
    """

    def __init__(self, unusable: Unusable) -> None:
        self._unusable = unusable
        self._time_ns: Times = np.zeros(0, np.int64)
        self._start_ns: Times = np.zeros(0, np.int64)
        self._values: Indexes = np.zeros(0, np.int64)
        self._histograms: dict[int, Stored] = {}

    def counters(
        self, series: Indexes, start_ns: Times, values: Indexes, time_ns: int, first_ns: int
    ) -> tuple[Indexes, Indexes, Times]:
        """Returns the series with increments, the increments, and the begins of the increments."""
        kept, continues, begin_ns = self._follow(series, start_ns, time_ns, first_ns)
        series, values, begin_ns, continues = series[kept], values[kept], begin_ns[kept], continues[kept]
        before = np.where(continues, self._values[series], 0)
        decreased = values < before
        self._unusable.decreased += int(decreased.sum())
        self._values[series] = values
        counts = (begin_ns >= 0) & ~decreased
        return series[counts], (values - before)[counts], begin_ns[counts]

    def histograms(
        self, rows: HistogramRows, stored: list[Stored], time_ns: int, first_ns: int
    ) -> tuple[HistogramRows, Times]:
        """Returns the increments of histograms, and the begins of the increments.

        `rows` and `stored` contain the same histograms.

        The minimum of an increment is known only if the minimum of the series has changed. The same applies to the
        maximum.
        """
        kept, continues, begin_ns = self._follow(rows.series, rows.start_ns, time_ns, first_ns)
        numbers = np.flatnonzero(kept)
        rows, begin_ns, continues = rows.take(numbers), begin_ns[numbers], continues[numbers]
        again = np.flatnonzero(continues)
        before = histogram_rows(
            again.tolist(), [0] * len(again), [self._histograms[each] for each in rows.series[again].tolist()]
        )
        for series, number in zip(rows.series.tolist(), numbers.tolist(), strict=True):
            self._histograms[series] = stored[number]
        scales = rows.scales.copy()
        scales[again] = np.minimum(scales[again], before.scales)
        ours = downscale(rows.buckets, rows.scales - scales)
        theirs = downscale(before.buckets, before.scales - scales[again])
        negative = SparseHistograms(theirs.first, theirs.starts, np.uint64(0) - theirs.counts)
        counts = ours.counts.copy()
        buckets = SparseHistograms(ours.first, ours.starts, counts).add(again, negative)
        wrong = np.zeros(len(scales), np.bool_)
        wrong[np.repeat(np.arange(len(scales)), buckets.lengths)[buckets.counts >= _SIGN]] = True
        self._unusable.decreased += int(wrong.sum())
        sum_ns, min_ns, max_ns = rows.sum_ns.copy(), rows.min_ns.copy(), rows.max_ns.copy()
        sum_ns[again] -= np.minimum(before.sum_ns, sum_ns[again])
        min_ns[again[min_ns[again] == before.min_ns]] = 0
        max_ns[again[max_ns[again] == before.max_ns]] = 0
        grown = HistogramRows(rows.series, rows.start_ns, scales, buckets, sum_ns, min_ns, max_ns)
        # The differences of decreased counts are 2^63 or more. Rows with such differences are not added up.
        counted = (begin_ns >= 0) & ~wrong
        grown, begin_ns = grown.take(counted), begin_ns[counted]
        counted = grown.buckets.totals() != 0
        return grown.take(counted), begin_ns[counted]

    def _follow(self, series: Indexes, start_ns: Times, time_ns: int, first_ns: int) -> tuple[Flags, Flags, Times]:
        """Stores the times of new points. Returns three arrays with a row for each point.

        kept       False for a point that is not later than the previous point of its series, and for a repeated point
        continues  True if the series has an earlier point, and was not reset since
        begin_ns   when the increment began; -1 if the point is only the baseline
        """
        size = int(series.max()) + 1 if len(series) else 0
        size += size // 4 if size > len(self._time_ns) else 0
        self._time_ns, self._start_ns = grow(self._time_ns, size), grow(self._start_ns, size)
        self._values = grow(self._values, size)
        kept = self._time_ns[series] < time_ns
        first = np.zeros(len(series), np.bool_)
        first[np.unique(series, return_index=True)[1]] = True
        kept &= first
        self._unusable.late += int((~kept).sum())
        before_ns = self._time_ns[series]
        is_known = before_ns != 0
        continues = is_known & ((start_ns == self._start_ns[series]) | (start_ns == 0))
        self._unusable.resets += int((kept & is_known & ~continues).sum())
        begins = is_known | ((start_ns != 0) & (start_ns >= first_ns))
        self._unusable.baselines += int((kept & ~begins).sum())
        begin_ns = np.where(begins, np.where(continues, before_ns, start_ns), -1)
        self._time_ns[series[kept]] = time_ns
        self._start_ns[series[kept]] = np.where(start_ns[kept] == 0, self._start_ns[series[kept]], start_ns[kept])
        return kept, continues, begin_ns
