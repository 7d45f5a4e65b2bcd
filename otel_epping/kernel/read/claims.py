# SPDX-License-Identifier: Apache-2.0
"""The numbers of slots, histograms and blocks in use: the program's table `claims` (bpf/maps.h)."""

import numpy as np

from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.map_array import Array

# enum claims_row
SLOTS, NEWCOMERS, HISTOGRAMS, BLOCKS = range(4)


class Claims:
    """Reads the numbers in use, and subtracts what user space has freed.

    Only the program writes `claimed`, and only this class writes `released`. The table is small, so it stays mapped.
    """

    def __init__(self, array: Array) -> None:
        self._rows = array.rows(0, array.length, writable=True)

    def in_use(self, row: int) -> int:
        """Returns the number in use that a row counts."""
        return int(self._rows["claimed"][row] - self._rows["released"][row])

    def release(self, row: int, number: int) -> None:
        """Subtracts `number` from the number in use of a row."""
        self._rows["released"][row] += np.uint32(number)

    def release_covering(self, rows: Indexes) -> None:
        """Subtracts 1 from the number in use of each of the rows. A row may repeat."""
        np.add.at(self._rows["released"], rows, np.uint32(1))
