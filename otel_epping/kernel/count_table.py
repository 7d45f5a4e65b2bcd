# SPDX-License-Identifier: Apache-2.0
"""The table of counts: all counts of each row at one moment. Exported counts are the difference between two tables."""

from dataclasses import dataclass

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow
from otel_epping.kernel.sparse_histograms import SparseHistograms


@dataclass
class CountTable:
    """Counts of each row. Each count has 64 bits. A count never decreases until its row is reset.

    buckets   (rows,) numbers of RTTs by bucket
    sum_ns    (rows,) sum of the RTTs, ns
    counters  (rows, counters) packets, bytes and all other counts
    """

    buckets: SparseHistograms
    sum_ns: Counts
    counters: Counts

    @classmethod
    def empty(cls, counters: int) -> "CountTable":
        """Returns a table without rows. Rows that are added later have `counters` counters."""
        return cls(SparseHistograms.empty(0), np.zeros(0, np.uint64), np.zeros((0, counters), np.uint64))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.sum_ns)

    def grow(self, rows: int) -> None:
        """Extends the table to at least `rows` rows. The counts of new rows are 0."""
        self.buckets = self.buckets.grow(rows)
        self.sum_ns, self.counters = grow(self.sum_ns, rows), grow(self.counters, rows)

    def match(self, other: "CountTable") -> None:
        """Extends the table so that it has the same rows as `other` and stores the same buckets of each row.

        `other` must have all rows and buckets of this table. Call this method before delta(), differs() and assign().
        """
        self.grow(other.rows)
        self.buckets = self.buckets.widen(other.buckets.first, other.buckets.starts)

    def reset(self, rows: Indexes) -> None:
        """Sets the counts of the given rows to 0, because the rows have a new owner.

        Ignores rows that are not in the table.
        """
        rows = rows[rows < self.rows]
        if len(rows):
            self.buckets = self.buckets.without(rows)
            self.sum_ns[rows] = self.counters[rows] = 0

    def differs(self, other: "CountTable") -> Flags:
        """Returns an array that is true for each row whose sum or counters are not the same as in `other`.

        The shape is (rows,).
        """
        return np.asarray((self.counters != other.counters).any(axis=1) | (self.sum_ns != other.sum_ns))

    def is_counted(self) -> Flags:
        """Returns an array that is true for the rows in which the sum or a counter is not 0. The shape is (rows,)."""
        return np.asarray(self.counters.any(axis=1) | (self.sum_ns != 0))

    def select(self, rows: Indexes) -> "CountTable":
        """Returns a copy of the given rows."""
        return CountTable(self.buckets.select(rows), self.sum_ns[rows], self.counters[rows])

    def delta(self, rows: Indexes, since: "CountTable") -> "CountTable":
        """Returns the counts of the given rows minus the counts of the same rows in the earlier table `since`."""
        return CountTable(
            self.buckets.delta(rows, since.buckets),
            self.sum_ns[rows] - since.sum_ns[rows],
            self.counters[rows] - since.counters[rows],
        )

    def assign(self, rows: Indexes, other: "CountTable") -> None:
        """Overwrites the given rows with the same rows of `other`."""
        self.buckets.assign(rows, other.buckets)
        self.sum_ns[rows], self.counters[rows] = other.sum_ns[rows], other.counters[rows]
