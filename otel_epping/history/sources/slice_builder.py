# SPDX-License-Identifier: Apache-2.0
"""Builds slices from data points that arrive one by one."""

from collections.abc import Sequence

import numpy as np

from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.kernel.arrays import Counts, Indexes
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of


def counter_matrix(lines: Indexes, columns: Indexes, values: Counts) -> tuple[Indexes, Counts]:
    """Returns the distinct lines, and the sums of the values by line and column: (lines, columns)."""
    distinct, rows = np.unique(lines, return_inverse=True)
    counters = np.zeros((len(distinct), int(columns.max()) + 1 if len(columns) else 0), np.uint64)
    np.add.at(counters, (rows, columns), values)
    return distinct, counters


class SliceBuilder:
    """Collects the counts of one interval. Numbers of lines, columns and methods are numbers of a Numbering."""

    def __init__(self) -> None:
        self._counters: list[tuple[int, int, int]] = []
        self._rtts: list[tuple[int, int, int, int, int, int, int, int]] = []
        self._counts: list[int] = []
        self.agent: AgentValues = {}

    def add_counter(self, line: int, column: int, value: int) -> None:
        """Adds to a counter of a line."""
        self._counters.append((line, column, value))

    def add_rtts(
        self,
        line: int,
        method: int,
        scale: int,
        first: int,
        counts: list[int],
        *,
        sum_ns: int = 0,
        min_ns: int = 0,
        max_ns: int = 0,
    ) -> None:
        """Adds a histogram. `first` is the OTLP index of the first bucket."""
        self._rtts.append((line, method, scale, first, len(counts), sum_ns, min_ns, max_ns))
        self._counts.extend(counts)

    def digest(self) -> int:
        """Returns a hash of the counts. Counts that were added in another order have another hash."""
        return hash((tuple(self._counters), tuple(self._rtts), tuple(self._counts), frozenset(self.agent.items())))

    def build(self, begin_ns: int, end_ns: int) -> Slice:
        """Returns the slice."""
        lines, columns, values = _arrays(self._counters, 3)
        distinct, counters = counter_matrix(lines, columns, values.astype(np.uint64))
        line, method, scale, first, length, *times = _arrays(self._rtts, 8)
        counts = np.array(self._counts, np.uint64)
        buckets = SparseHistograms(first, starts_of(length), counts)
        sum_ns, min_ns, max_ns = (each.astype(np.uint64) for each in times)
        rtts = Rtts(line, method, scale, buckets, sum_ns, min_ns, max_ns)
        return Slice(begin_ns, end_ns, distinct, counters, rtts, self.agent)


def _arrays(rows: Sequence[tuple[int, ...]], columns: int) -> list[Indexes]:
    return list(np.array(rows, np.int64).reshape(-1, columns).T.copy())
