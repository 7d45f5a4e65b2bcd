# SPDX-License-Identifier: Apache-2.0
"""The table of counts: what each row has counted until some moment. Differences of two tables are what is exported."""

from dataclasses import dataclass

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow
from otel_epping.kernel.sparse_histograms import SparseHistograms


@dataclass
class CountTable:
    """Counts per row, 64 bits each, which only grow until the row is reset.

    buckets   RTTs by bucket, (rows,)
    sum_ns    (rows,) sum of these RTTs, ns
    counters  (rows, counters) packets, bytes and all other counts
    """

    buckets: SparseHistograms
    sum_ns: Counts
    counters: Counts

    @classmethod
    def empty(cls, counters: int) -> "CountTable":
        """Returns a table without rows, for rows with this many counters."""
        return cls(SparseHistograms.empty(0), np.zeros(0, np.uint64), np.zeros((0, counters), np.uint64))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.sum_ns)

    def grow(self, rows: int) -> None:
        """Makes the table have at least `rows` rows; new rows are 0."""
        self.buckets = self.buckets.grow(rows)
        self.sum_ns, self.counters = grow(self.sum_ns, rows), grow(self.counters, rows)

    def match(self, other: "CountTable") -> None:
        """Gives the table the rows and runs of `other`, which has at least the rows and buckets of this table.

        delta(), differs() and assign() need two tables that match.
        """
        self.grow(other.rows)
        self.buckets = self.buckets.widen(other.buckets.first, other.buckets.starts)

    def reset(self, rows: Indexes) -> None:
        """Sets these rows to 0, if they are in the table: they have another owner."""
        rows = rows[rows < self.rows]
        if len(rows):
            self.buckets = self.buckets.without(rows)
            self.sum_ns[rows] = self.counters[rows] = 0

    def differs(self, other: "CountTable") -> Flags:
        """Returns which rows of two tables differ, by counters and sums: (rows,)."""
        return np.asarray((self.counters != other.counters).any(axis=1) | (self.sum_ns != other.sum_ns))

    def is_counted(self) -> Flags:
        """Returns which rows have counted anything, by counters and sums: (rows,)."""
        return np.asarray(self.counters.any(axis=1) | (self.sum_ns != 0))

    def select(self, rows: Indexes) -> "CountTable":
        """Returns a copy of these rows."""
        return CountTable(self.buckets.select(rows), self.sum_ns[rows], self.counters[rows])

    def delta(self, rows: Indexes, since: "CountTable") -> "CountTable":
        """Returns what these rows have counted since the earlier table `since`."""
        return CountTable(
            self.buckets.delta(rows, since.buckets),
            self.sum_ns[rows] - since.sum_ns[rows],
            self.counters[rows] - since.counters[rows],
        )

    def assign(self, rows: Indexes, other: "CountTable") -> None:
        """Overwrites these rows with the same rows of `other`."""
        self.buckets.assign(rows, other.buckets)
        self.sum_ns[rows], self.counters[rows] = other.sum_ns[rows], other.counters[rows]
