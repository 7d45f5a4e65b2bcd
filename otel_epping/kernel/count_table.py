# SPDX-License-Identifier: Apache-2.0
"""Tables of counts: all counts of each row at one moment. Exported counts are the difference between two tables.

CounterTable and HistogramTable have the same methods, so that one class can process tables of both types.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow
from otel_epping.kernel.sparse_histograms import SparseHistograms


def _add(counts: Counts, rows: Indexes, more: Counts) -> None:
    """Adds each row of `more` to a row of `counts`. `rows` has the row numbers in `counts`, which may repeat."""
    order = np.argsort(rows, kind="stable")
    begins = np.flatnonzero(np.diff(rows[order], prepend=-1))
    if len(begins) == len(rows):  # no row number repeats: plain addition takes a tenth of the time
        counts[rows] += more
    else:
        counts[rows[order[begins]]] += np.add.reduceat(more[order], begins, axis=0)


@dataclass
class CounterTable:
    """Counters of each row. Each counter has 64 bits. A counter never decreases until its row is reset.

    counters  (rows, counters) packets, bytes and all other counts
    """

    counters: Counts

    @classmethod
    def empty(cls, counters: int) -> "CounterTable":
        """Returns a table without rows. Rows that are added later have `counters` counters."""
        return cls(np.zeros((0, counters), np.uint64))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.counters)

    def grow(self, rows: int) -> None:
        """Extends the table to at least `rows` rows. The counts of new rows are 0."""
        self.counters = grow(self.counters, rows)

    def match(self, other: "CounterTable") -> None:
        """Extends the table so that it has the same rows as `other`. `other` must have all rows of this table."""
        self.grow(other.rows)

    def reset(self, rows: Indexes) -> None:
        """Sets the counts of the given rows to 0. Ignores rows that are not in the table."""
        self.counters[rows[rows < self.rows]] = 0

    def differs(self, other: "CounterTable") -> Flags:
        """Returns an array that is true for each row whose counters are not the same as in `other`: (rows,)."""
        return np.asarray((self.counters != other.counters).any(axis=1))

    def is_counted(self) -> Flags:
        """Returns an array that is true for each row in which a counter is not 0: (rows,)."""
        return np.asarray(self.counters.any(axis=1))

    def select(self, rows: Indexes) -> "CounterTable":
        """Returns a copy of the given rows."""
        return CounterTable(self.counters[rows])

    def delta(self, rows: Indexes, since: "CounterTable") -> "CounterTable":
        """Returns the counts of the given rows minus the counts of the same rows in the earlier table `since`."""
        return CounterTable(self.counters[rows] - since.counters[rows])

    def assign(self, rows: Indexes, other: "CounterTable") -> None:
        """Overwrites the given rows with the same rows of `other`."""
        self.counters[rows] = other.counters[rows]

    def add(self, rows: Indexes, other: "CounterTable") -> None:
        """Adds each row of `other` to a row of this table. `rows` has one row number for each row of `other`.

        A row number may repeat.
        """
        _add(self.counters, rows, other.counters)


@dataclass
class HistogramTable:
    """RTTs of each row. Each count has 64 bits. A count never decreases until its row is reset.

    buckets  (rows,) numbers of RTTs by bucket
    sum_ns   (rows,) sum of the RTTs, ns
    """

    buckets: SparseHistograms
    sum_ns: Counts

    @classmethod
    def empty(cls, bucket: type[np.uint32 | np.uint64] = np.uint64) -> "HistogramTable":
        """Returns a table without rows. `bucket` is the type of the counts in buckets (SparseHistograms.empty())."""
        return cls(SparseHistograms.empty(0, bucket), np.zeros(0, np.uint64))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.sum_ns)

    def grow(self, rows: int) -> None:
        """Extends the table to at least `rows` rows. New rows have no RTTs."""
        self.buckets, self.sum_ns = self.buckets.grow(rows), grow(self.sum_ns, rows)

    def match(self, other: "HistogramTable") -> None:
        """Extends the table so that it has the same rows as `other` and stores the same buckets of each row.

        `other` must have all rows and buckets of this table. Call this method before delta(), differs() and assign().
        """
        self.grow(other.rows)
        self.buckets = self.buckets.widen(other.buckets.first, other.buckets.starts)

    def reset(self, rows: Indexes) -> None:
        """Removes the RTTs of the given rows. Ignores rows that are not in the table."""
        rows = rows[rows < self.rows]
        if len(rows):
            self.buckets = self.buckets.without(rows)
            self.sum_ns[rows] = 0

    def differs(self, other: "HistogramTable") -> Flags:
        """Returns an array that is true for each row whose sum is not the same as in `other`: (rows,).

        No RTT is 0, so each counted RTT changes the sum of its row.
        """
        return np.asarray(self.sum_ns != other.sum_ns)

    def is_counted(self) -> Flags:
        """Returns an array that is true for each row with RTTs: (rows,)."""
        return np.asarray(self.sum_ns != 0)

    def select(self, rows: Indexes) -> "HistogramTable":
        """Returns a copy of the given rows."""
        return HistogramTable(self.buckets.select(rows), self.sum_ns[rows])

    def delta(self, rows: Indexes, since: "HistogramTable") -> "HistogramTable":
        """Returns the counts of the given rows minus the counts of the same rows in the earlier table `since`."""
        return HistogramTable(self.buckets.delta(rows, since.buckets), self.sum_ns[rows] - since.sum_ns[rows])

    def assign(self, rows: Indexes, other: "HistogramTable") -> None:
        """Overwrites the given rows with the same rows of `other`."""
        self.buckets.assign(rows, other.buckets)
        self.sum_ns[rows] = other.sum_ns[rows]

    def add(self, rows: Indexes, other: "HistogramTable") -> None:
        """Adds each row of `other` to a row of this table. `rows` has one row number for each row of `other`.

        A row number may repeat.
        """
        _add(self.sum_ns, rows, other.sum_ns)
        self.buckets = self.buckets.add(rows, other.buckets)


# A function or a class with this type variable can process tables of both types.
Table = TypeVar("Table", CounterTable, HistogramTable)
