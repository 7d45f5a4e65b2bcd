# SPDX-License-Identifier: Apache-2.0
"""Tracks the pending counts of one table: the counts of the latest table minus the acknowledged counts."""

from typing import Generic

import numpy as np

from otel_epping.kernel.arrays import Indexes, Times, grow
from otel_epping.kernel.count_table import Table


class PendingCounts(Generic[Table]):
    """The pending counts of one table.

    is_pending  (rows,) true if the row has an owner and has counts that are not acknowledged
    start_ns    (rows,) Unix time in ns at which the pending counts start; 0 if the row has no owner

    With delta temporality, `acked` is an empty table at first. With cumulative temporality, `acked` is None, and
    nothing is ever acknowledged.
    """

    def __init__(self, acked: Table | None) -> None:
        self.is_pending = np.zeros(0, np.bool_)
        self.start_ns: Times = np.zeros(0, np.int64)
        self._acked: Table | None = acked

    def update(self, counts: Table, changed: Indexes, created_ns: Times, previous_ns: int) -> Indexes:
        """Replaces the latest table by a newer table. The new table is `counts`.

        changed      the rows that have a new owner
        created_ns   (rows,) Unix time in ns at which the counts of each row start; 0 if the row has no owner
        previous_ns  Unix time of the previous table, ns

        Returns the rows whose next point has a later start time than the previous point: the rows that had no pending
        counts in the previous table, and the rows that have a new owner.

        If a slot gets its owner while the slots are read, its row may have counts but no owner. The counts of the row
        become pending when the row has an owner.
        """
        known = changed[changed < len(self.start_ns)]
        self.start_ns[known] = 0
        restarted = known
        if self._acked is not None:
            self._acked.reset(known)
            delivered = np.flatnonzero(~self.is_pending & (self.start_ns != 0))
            self.start_ns[delivered] = previous_ns
            restarted = np.concatenate([known, delivered])
            self._acked.match(counts)
        self.start_ns = grow(self.start_ns, counts.rows)
        new = self.start_ns == 0
        self.start_ns[new] = created_ns[new]
        counted = counts.is_counted() if self._acked is None else counts.differs(self._acked)
        self.is_pending = counted & (self.start_ns != 0)
        return restarted

    def of(self, counts: Table, rows: Indexes) -> Table:
        """Returns the pending counts of the given rows. `counts` is the latest table."""
        return counts.select(rows) if self._acked is None else counts.delta(rows, self._acked)

    def acknowledge(self, counts: Table, rows: Indexes) -> None:
        """Records that the receiver has the pending counts of the given rows. `counts` is the latest table."""
        if self._acked is not None:
            self._acked.assign(rows, counts)
            self.is_pending[rows] = False
