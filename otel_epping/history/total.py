# SPDX-License-Identifier: Apache-2.0
"""Sums of slices. Each array has a row for each line of the numbering, also for lines without counts."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from otel_epping.history.columns import Numbering
from otel_epping.history.histograms import Floats, downscale, means, quantiles
from otel_epping.history.slice import AgentValues, Slice
from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow
from otel_epping.kernel.sparse_histograms import SparseHistograms

_NS = 1e9


class LineRtts(NamedTuple):
    """The RTTs of n lines: one histogram per line.

    buckets  (n,) number of RTTs in each bucket. Bucket numbers are OTLP indexes
    scales   (n,) the scale of each histogram
    sum_ns, min_ns, max_ns  (n,) sum, minimum and maximum of the RTTs, ns; 0 if there is no RTT or if they are unknown
    """

    buckets: SparseHistograms
    scales: Indexes
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts

    @property
    def counts(self) -> Counts:
        """Number of RTTs of each line: (n,)."""
        return self.buckets.totals()

    def quantiles(self, *qs: float) -> Floats:
        """Returns quantiles in seconds: (len(qs), n). A line without RTTs has NaN."""
        return quantiles(self.buckets, self.scales, self.min_ns, self.max_ns, qs)

    def means(self) -> Floats:
        """Returns the mean RTTs in seconds: (n,). A line without RTTs has NaN."""
        return means(self.buckets, self.sum_ns)


class _Histograms:
    """Histograms by row and key. `rows` are numbers that the caller chooses."""

    def __init__(self) -> None:
        self.buckets = SparseHistograms.empty(0)
        self.scales: Indexes = np.zeros(0, np.int64)
        self.sum_ns: Counts = np.zeros(0, np.uint64)
        self.min_ns: Counts = np.zeros(0, np.uint64)
        self.max_ns: Counts = np.zeros(0, np.uint64)

    def grow(self, rows: int) -> None:
        self.buckets = self.buckets.grow(rows)
        self.scales = grow(self.scales, rows, _NO_SCALE)
        self.sum_ns, self.max_ns = grow(self.sum_ns, rows), grow(self.max_ns, rows)
        self.min_ns = grow(self.min_ns, rows)

    def add(
        self,
        rows: Indexes,
        buckets: SparseHistograms,
        scales: Indexes,
        sum_ns: Counts,
        min_ns: Counts,
        max_ns: Counts,
    ) -> None:
        """Adds histograms to rows. A row number may repeat."""
        lowest = self.scales.copy()
        np.minimum.at(lowest, rows, scales)
        self.buckets = downscale(self.buckets, np.where(self.scales == _NO_SCALE, 0, self.scales - lowest))
        self.scales = lowest
        self.buckets = self.buckets.add(rows, downscale(buckets, scales - lowest[rows]))
        np.add.at(self.sum_ns, rows, sum_ns.astype(np.uint64))
        known = min_ns != 0
        least = np.where(self.min_ns == 0, _NO_MIN, self.min_ns)
        np.minimum.at(least, rows[known], min_ns[known].astype(np.uint64))
        self.min_ns = np.where(least == _NO_MIN, np.uint64(0), least)
        np.maximum.at(self.max_ns, rows, max_ns.astype(np.uint64))


_NO_SCALE = 99
_NO_MIN = np.uint64(2**64 - 1)


class Total:
    """The sum of slices.

    begin_ns   the earliest begin of a slice, Unix time, ns; 0 if there is no slice
    end_ns     the latest end of a slice, Unix time, ns; 0 if there is no slice
    seconds    the time that the slices cover, in seconds. Gaps do not count, and overlapping times count once
    slices     number of slices
    counters   (columns, lines) the counts. Columns with current values have the latest value of each line
    agent      values without a line
    """

    def __init__(self, numbering: Numbering) -> None:
        self.numbering = numbering
        self.begin_ns = self.end_ns = 0
        self.slices = 0
        self.counters: Counts = np.zeros((len(numbering.columns), len(numbering.lines)), np.uint64)
        self.agent: AgentValues = {}
        self._covered: list[tuple[int, int]] = []
        self._current_ns = np.zeros(len(numbering.lines), np.int64)
        self._agent_ns: dict[object, int] = {}
        self._numbers: Indexes = np.zeros((0, 0), np.int64)  # the row of each line and method
        self._rows: list[tuple[int, int]] = []
        self._histograms = _Histograms()

    # ---- reading

    @property
    def lines(self) -> int:
        """Number of lines of the numbering. All arrays have a row for each line."""
        return int(self.counters.shape[1])

    @property
    def seconds(self) -> float:
        """The time that the slices cover, in seconds."""
        return sum(end - begin for begin, end in self._covered) / _NS

    def sum(self, metric: str, **attributes: str) -> Counts | None:
        """Returns the sum of all columns of a metric that have the given attributes: (lines,).

        Returns None if no source has such a column. Use the short names of attributes, for example direction="to".
        The lines OVERFLOW and UNANSWERED have no attributes, so their sums are 0 if attributes are given.
        """
        matching = [each for each in self.numbering.columns.matching(metric, attributes) if each < len(self.counters)]
        if not matching:
            return None
        return np.asarray(self.counters[matching].sum(axis=0, dtype=np.uint64))

    def agent_sum(self, metric: str, **attributes: str) -> float | None:
        """Returns the sum of all values without a line of a metric that have the given attributes, or None."""
        found = [value for column, value in self.agent.items() if column.matches(metric, attributes)]
        return sum(found) if found else None

    def rtts(self, methods: Collection[str] | None = None) -> LineRtts:
        """Returns the RTTs of each line: the sums of the histograms of the given methods, or of all methods."""
        lines = len(self.numbering.lines)
        rows = [row for row, (_, m) in enumerate(self._rows) if methods is None or self.numbering.methods[m] in methods]
        table = _Histograms()
        table.grow(lines)
        if rows:
            chosen = np.array(rows)
            to = np.array([self._rows[row][0] for row in rows])
            own = self._histograms
            table.add(
                to,
                own.buckets.select(chosen),
                own.scales[chosen],
                own.sum_ns[chosen],
                own.min_ns[chosen],
                own.max_ns[chosen],
            )
        scales = np.where(table.scales == _NO_SCALE, 0, table.scales)
        return LineRtts(table.buckets, scales, table.sum_ns, table.min_ns, table.max_ns)

    def methods(self, line: int) -> list[str]:
        """Returns the methods by which RTTs of a line were measured."""
        return [self.numbering.methods[method] for its_line, method in self._rows if its_line == line]

    def present(self) -> Flags:
        """Returns an array that is true for each line with counts or RTTs: (lines,)."""
        found: Flags = np.asarray(self.counters.any(axis=0))
        found[[line for line, _ in self._rows]] = True
        return found

    # ---- adding

    def add(self, slice: Slice) -> None:
        """Adds a slice."""
        self._match()
        self._add_time(slice)
        current = self.numbering.columns.current()
        current = current[current < slice.counters.shape[1]]
        added = slice.counters.T.astype(np.uint64)
        is_newer = slice.end_ns >= self._current_ns[slice.lines]
        before = self.counters[np.ix_(current, slice.lines)]
        self.counters[: len(added), slice.lines] += added
        self.counters[np.ix_(current, slice.lines)] = np.where(is_newer, added[current], before)
        self._current_ns[slice.lines] = np.maximum(self._current_ns[slice.lines], slice.end_ns)
        self._add_rtts(slice)
        for column, value in slice.agent.items():
            if not column.is_current:
                self.agent[column] = self.agent.get(column, 0) + value
            elif slice.end_ns >= self._agent_ns.get(column, 0):
                self.agent[column], self._agent_ns[column] = value, slice.end_ns

    def _match(self) -> None:
        columns, lines = len(self.numbering.columns), len(self.numbering.lines)
        if self.counters.shape != (columns, lines):
            counters = np.zeros((columns, lines), np.uint64)
            counters[: self.counters.shape[0], : self.counters.shape[1]] = self.counters
            self.counters = counters
            self._current_ns = grow(self._current_ns, lines)

    def _add_time(self, slice: Slice) -> None:
        self.slices += 1
        self.begin_ns = min(self.begin_ns, slice.begin_ns) if self.slices > 1 else slice.begin_ns
        self.end_ns = max(self.end_ns, slice.end_ns)
        covered = sorted([*self._covered, (slice.begin_ns, max(slice.begin_ns, slice.end_ns))])
        self._covered = covered[:1]
        for begin, end in covered[1:]:
            last_begin, last_end = self._covered[-1]
            if begin <= last_end:
                self._covered[-1] = last_begin, max(last_end, end)
            else:
                self._covered.append((begin, end))

    def _add_rtts(self, slice: Slice) -> None:
        rtts = slice.rtts
        lines, methods = len(self.numbering.lines), len(self.numbering.methods)
        numbers = np.full((lines, methods), -1, np.int64)
        numbers[: self._numbers.shape[0], : self._numbers.shape[1]] = self._numbers
        self._numbers = numbers
        for line, method in zip(rtts.lines.tolist(), rtts.methods.tolist(), strict=True):
            if numbers[line, method] < 0:
                numbers[line, method] = len(self._rows)
                self._rows.append((line, method))
        self._histograms.grow(len(self._rows))
        rows = numbers[rtts.lines, rtts.methods]
        self._histograms.add(rows, rtts.buckets, rtts.scales, rtts.sum_ns, rtts.min_ns, rtts.max_ns)
