# SPDX-License-Identifier: Apache-2.0
"""Computes the counts of each series from the counts of the rows.

The increment of a row is the difference between the row's counts in two consecutive readings. Each increment is added
once, to the series to which the row belongs at the later reading. So the counts of a series never decrease, even if a
row moves to another series or gets a new owner.
"""

from typing import Generic

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes
from otel_epping.kernel.count_table import Table

# The increments of up to _ROWS_AT_ONCE rows are computed in one step. Computing the increments of all rows in one step
# would double the memory use of the counts.
_ROWS_AT_ONCE = 2048


class Accumulator(Generic[Table]):
    """Adds the increments of rows to series, for one table of a reading.

    For each reading, call start() once, make room in `counts`, and then call add().

    counts    a table with one row for each series
    previous  the counts of each row at the previous reading. The increments since then are not added yet

    `counts` and `previous` are empty tables at first.
    """

    def __init__(self, counts: Table, previous: Table) -> None:
        self.counts: Table = counts
        self.previous: Table = previous

    def start(self, reading: Table, changed: Indexes) -> None:
        """Prepares for the table of a reading. The rows in `changed` have a new owner, so their counts start from 0."""
        self.previous.reset(changed)
        self.previous.match(reading)

    def move(self, rows: Indexes, to: int) -> None:
        """Follows a reading that has moved all counts of the given rows to the row `to`.

        Counts that were added before are not added again. Call this method before start().
        """
        rows = rows[rows < self.previous.rows]
        self.previous.add(np.full(len(rows), to), self.previous.select(rows))

    def increased(self, reading: Table) -> Flags:
        """Returns an array that is true for each row of the reading that has an increment: (rows,)."""
        return reading.differs(self.previous)

    def add(self, reading: Table, rows: Indexes, to: Indexes) -> None:
        """Adds the increments of rows to series. A later call includes the present increments of all other rows.

        rows  (n,) the numbers of the rows, ascending
        to    (n,) the series of each of these rows; a series may repeat
        """
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(begin, begin + _ROWS_AT_ONCE)
            self.counts.add(to[some], reading.delta(rows[some], self.previous))
            self.previous.assign(rows[some], reading)
