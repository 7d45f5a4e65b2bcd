# SPDX-License-Identifier: Apache-2.0
"""The program's table `claims` (bpf/maps.h), which counts the slots, histograms and blocks in use."""

import numpy as np

from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.map_array import Array

# enum claims_row
SLOTS, NEWCOMERS, HISTOGRAMS, BLOCKS = range(4)


class Claims:
    """Reads how many slots, histograms and blocks are in use, and records how many of them user space has freed.

    Only the program writes the field `claimed`, and only this class writes the field `released`. The table is small, so
    it stays mapped.
    """

    def __init__(self, array: Array) -> None:
        self._rows = array.rows(0, array.length, writable=True)

    def in_use(self, row: int) -> int:
        """Returns the value of `row`: the number of slots, histograms or other objects that are in use."""
        return int(self._rows["claimed"][row] - self._rows["released"][row])

    def release(self, row: int, number: int) -> None:
        """Subtracts `number`, the number of freed objects, from the value of `row`."""
        self._rows["released"][row] += np.uint32(number)

    def release_covering(self, rows: Indexes) -> None:
        """Records one freed slot for each given row of a covering prefix. The same row may occur several times."""
        np.add.at(self._rows["released"], rows, np.uint32(1))
