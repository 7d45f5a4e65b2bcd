# SPDX-License-Identifier: Apache-2.0
"""Adds the counts of freed newcomers to the row of subnets that have not answered, for one reader.

When a newcomer loses its slot, its final counts are added to Slots.folded. A reader may have read some of these counts
in the newcomer's own row before. Such counts are subtracted, so that no count is in two rows of the reader's readings.
"""

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.read.subnet_counters import SubnetCounters


class UnansweredCounts:
    """The counts that are added to the program's row UNANSWERED_SLOT. All rows have the shape (counters,)."""

    def __init__(self, counters: SubnetCounters) -> None:
        self._added, self._read_before = counters.zero(), counters.zero()

    def forget(self, counters: Counts) -> None:
        """Records the counts that the reader has read of newcomers that lost their slots: (newcomers, counters)."""
        self._read_before += counters.sum(axis=0, dtype=counters.dtype)

    def subtract_from(self, row: Counts) -> None:
        """Subtracts what add_to() has added, so that the row has only the program's own counts."""
        row -= self._added

    def add_to(self, row: Counts, folded: Counts) -> None:
        """Adds the counts of freed newcomers, without the counts that the reader has read before.

        The number of flows that ended in silence may be lower in `folded` than in the reader's counts: the reader may
        have counted a flow as ended in silence, and a packet then closed the flow. Such a flow is counted twice.
        """
        added = folded - self._read_before
        has_decreased = (added - self._added).view("int64") < 0
        added[has_decreased] = self._added[has_decreased]
        row += added
        self._added = added
