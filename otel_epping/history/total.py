# SPDX-License-Identifier: Apache-2.0
"""Sums of slices. Each array has a row for each line of the numbering, also for lines without counts."""

from collections.abc import Collection

import numpy as np

from otel_epping.history.columns import Numbering
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.history.stored import Intervals, StoredSlice, union
from otel_epping.kernel.arrays import Counts, Flags, Times, grow

_NS = 1e9


class Total:
    """The sum of slices.

    numbering  the numbers of lines, columns and methods
    covered    the intervals of time that the slices cover: (begin, end) in Unix time, ns
    counters   (columns, lines) the counts. Columns with current values have the latest value of each line
    agent      values without a line
    """

    def __init__(self, numbering: Numbering) -> None:
        self.numbering = numbering
        self.covered: Intervals = ()
        self.counters: Counts = np.zeros((len(numbering.columns), len(numbering.lines)), np.uint64)
        self.agent: AgentValues = {}
        self._rtts: dict[int, LineRtts] = {}  # the RTTs of each method
        # The end of the latest slice of each line, ns: the time of the current values.
        self._current_ns: Times = np.zeros(len(numbering.lines), np.int64)
        self._agent_ns = 0

    @property
    def begin_ns(self) -> int:
        """The earliest begin of a slice, Unix time, ns; 0 if there is no slice."""
        return self.covered[0][0] if self.covered else 0

    @property
    def end_ns(self) -> int:
        """The latest end of a slice, Unix time, ns; 0 if there is no slice."""
        return self.covered[-1][1] if self.covered else 0

    @property
    def seconds(self) -> float:
        """The time that the slices cover, in seconds. Gaps do not count, and overlapping times count once."""
        return sum(end - begin for begin, end in self.covered) / _NS

    @property
    def lines(self) -> int:
        """Number of lines of the numbering. All arrays have a row for each line."""
        return len(self.numbering.lines)

    def sum(self, metric: str, **attributes: str) -> Counts | None:
        """Returns the sum of all columns of a metric that have the given attributes: (lines,).

        Use the short names of attributes, for example direction="to". Returns None if the counts are unknown, because
        no source has the metric, or because no source has the metric with these attributes.
        The lines OVERFLOW and UNANSWERED have no attributes, so the sums of these lines are 0 if attributes are given.
        """
        self.match()
        columns = self.numbering.columns.matching(metric, attributes)
        if columns is None:
            return None
        found: Counts = self.counters[columns].sum(axis=0, dtype=np.uint64)
        return found

    def agent_sum(self, metric: str, **attributes: str) -> float | None:
        """Returns the sum of the values of a metric that have the given attributes, but no line.

        Returns None if there is no such value.
        """
        found = [value for column, value in self.agent.items() if column.matches(metric, attributes)]
        return sum(found) if found else None

    def rtts(self, methods: Collection[str] | None = None) -> LineRtts:
        """Returns the RTTs of each line: the sums of the histograms of the given methods, or of all methods.

        Do not change the result. The result may change when a slice is added to the sum.
        """
        self.match()
        names = self.numbering.methods
        parts = [rtts for method, rtts in self._rtts.items() if methods is None or names[method] in methods]
        if len(parts) < 2:
            return parts[0] if parts else LineRtts(self.lines)
        parts.sort(key=lambda part: -len(part.buckets.counts))
        whole = parts[0].copy()
        for part in parts[1:]:
            whole.add(part.as_rtts(0))
        return whole

    @property
    def methods(self) -> list[str]:
        """The methods by which RTTs were measured."""
        return [self.numbering.methods[method] for method in self._rtts]

    def present(self) -> Flags:
        """Returns an array that is true for each line with counts or RTTs: (lines,)."""
        self.match()
        found: Flags = np.asarray(self.counters.any(axis=0))
        for rtts in self._rtts.values():
            found |= rtts.counts != 0
        return found

    def match(self) -> None:
        """Makes room for all lines and columns of the numbering."""
        columns, lines = len(self.numbering.columns), len(self.numbering.lines)
        if self.counters.shape != (columns, lines):
            # Spare entries would use memory in each sum. New lines are rare after the first slices.
            counters = np.zeros((columns, lines), np.uint64)
            counters[: self.counters.shape[0], : self.counters.shape[1]] = self.counters
            self.counters = counters
            self._current_ns = grow(self._current_ns, lines)
            for rtts in self._rtts.values():
                rtts.grow(lines)

    def add(self, stored: StoredSlice) -> None:
        """Adds a slice."""
        self.match()
        self.covered = union(self.covered, stored.covered)
        lines = stored.line_numbers()
        is_newer = stored.end_ns >= self._current_ns[lines]
        for column in self.numbering.columns.current:
            values = stored.columns.get(column, np.zeros(len(stored.lines), np.uint64))
            self.counters[column, lines] = np.where(is_newer, values, self.counters[column, lines])
        self._current_ns[lines] = np.maximum(self._current_ns[lines], stored.end_ns)
        for column, values in stored.columns.items():
            if column not in self.numbering.columns.current:
                self.counters[column][lines] += values.astype(np.uint64)
        for method, rtts in stored.rtts.items():
            if method not in self._rtts:
                self._rtts[method] = LineRtts(self.lines)
            self._rtts[method].add(rtts.load())
        is_latest = stored.end_ns >= self._agent_ns
        self._agent_ns = max(self._agent_ns, stored.end_ns)
        for key, value in stored.agent.items():
            if not key.is_current:
                self.agent[key] = self.agent.get(key, 0) + value
            elif is_latest or key not in self.agent:
                self.agent[key] = value

    def copy(self) -> "Total":
        """Returns a copy. Slices added to this sum and new lines of a source do not change the copy."""
        self.match()
        copy = Total(self.numbering.copy())
        copy.covered, copy.counters, copy.agent = self.covered, self.counters.copy(), dict(self.agent)
        copy._rtts = {method: rtts.copy() for method, rtts in self._rtts.items()}
        copy._current_ns, copy._agent_ns = self._current_ns.copy(), self._agent_ns
        return copy

    def stored(self) -> StoredSlice:
        """Returns the sum as one slice."""
        self.match()
        lines = np.flatnonzero(self.counters.any(axis=0) | (self._current_ns != 0))
        parts = [rtts.as_rtts(method) for method, rtts in self._rtts.items()]
        slice = Slice(self.begin_ns, self.end_ns, lines, self.counters.T[lines], Rtts.joined(parts), dict(self.agent))
        return StoredSlice(slice, self.covered)
