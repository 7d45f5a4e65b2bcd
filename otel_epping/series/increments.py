# SPDX-License-Identifier: Apache-2.0
"""Computes the increments of rows: the counts of a reading minus the counts of the previous reading.

Each increment is added once, to the series to which the row belongs at the later reading. So the counts of a series
never decrease, even if a row moves to another series or gets a new owner.
"""

from collections.abc import Iterator
from typing import Generic

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes
from otel_epping.kernel.count_table import Table

# The increments of up to _ROWS_AT_ONCE rows are computed in one step. Computing the increments of all rows in one step
# would double the memory use of the counts.
_ROWS_AT_ONCE = 512


class Increments(Generic[Table]):
    """The increments of one table of a reading. For each reading, call start() once, and then take().

    previous  the counts of each row at the previous reading. The increments since then are not taken yet

    `previous` is an empty table at first.
    """

    def __init__(self, previous: Table) -> None:
        self.previous: Table = previous

    def start(self, reading: Table, changed: Indexes) -> None:
        """Prepares for the table of a reading. The rows in `changed` have a new owner, so their counts start from 0."""
        self.previous.reset(changed)
        self.previous.match(reading)

    def move(self, rows: Indexes, to: int) -> None:
        """Prepares for a reading in which all counts of the given rows have been moved to the row `to`.

        Counts that take() has yielded for the given rows are not yielded again for the row `to`. Call this method
        before start().
        """
        rows = rows[rows < self.previous.rows]
        self.previous.add(np.full(len(rows), to), self.previous.select(rows))

    def increased(self, reading: Table) -> Flags:
        """Returns an array of the shape (rows,) that is true for each row of the reading with an increment."""
        return reading.differs(self.previous)

    def take(self, reading: Table, rows: Indexes) -> Iterator[tuple[slice, Table]]:
        """Yields the increments of the given rows, in several steps.

        Later increments of these rows start from this reading.

        Each step yields a slice and a table. The slice selects elements of `rows`, and the table contains the
        increments of these rows. The present increments of all other rows are included at a later reading.

        rows  (n,) the numbers of the rows, ascending
        """
        for begin in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(begin, begin + _ROWS_AT_ONCE)
            yield some, reading.delta(rows[some], self.previous)
            self.previous.assign(rows[some], reading)
