# SPDX-License-Identifier: Apache-2.0
"""Adds the counts of freed newcomers to the row of subnets that have not answered, for one reader."""

import numpy as np

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.read.subnet_counters import SubnetCounters


class UnansweredCounts:
    """The counts that are added to the program's row UNANSWERED_SLOT. All rows have the shape (counters,).

    When a newcomer loses its slot, its final counts are added to Slots.folded. The final number of flows that ended in
    silence may be lower than the reader's number: the reader may have counted a flow as ended in silence, and a later
    packet then closed the flow. The reader's numbers must not decrease, so such a flow is counted as closed twice.
    """

    def __init__(self, counters: SubnetCounters) -> None:
        self._added, self._least = counters.zero(), counters.zero()

    def forget(self, counters: Counts) -> None:
        """Records the counts that the reader has read for newcomers that have lost their slots.

        counters  (newcomers, counters)
        """
        self._least += counters.sum(axis=0, dtype=np.uint64)

    def subtract_from(self, row: Counts) -> None:
        """Subtracts what add_to() has added, so that the row contains only the program's own counts."""
        row -= self._added
        self._added = np.zeros_like(self._added)  # the row stays right if the next reading fails

    def add_to(self, row: Counts, folded: Counts) -> None:
        """Adds the counts of newcomers that have lost their slots."""
        own = row.copy()
        np.maximum(row + folded, self._least, out=row)
        self._added = row - own
        self._least = row.copy()
