# SPDX-License-Identifier: Apache-2.0
"""Counts how many rows of a table a reader must read."""

import numpy as np

from otel_epping.kernel.map_array import Array

# Rows are assigned in ascending order. But when two CPUs compete for a row, they can skip a few rows. If _SCAN_ROWS
# consecutive rows are free, all later rows are free, too.
_SCAN_ROWS = 1024


class RowsInUse:
    """The rows of a table up to the last row that is or was in use.

    array  the table
    field  the name of a field that is not 0 if the row is in use
    rows   the number of rows that are always in use
    """

    def __init__(self, array: Array, field: str, rows: int) -> None:
        self._array, self._field, self._rows = array, field, rows

    def count(self) -> int:
        """Returns the number of rows up to the last row that is or was in use."""
        while self._rows < self._array.length:
            following = self._array.rows(self._rows, min(self._rows + _SCAN_ROWS, self._array.length))
            used = np.flatnonzero(following[self._field] != 0)
            if not len(used):
                break
            self._rows += int(used[-1]) + 1
        return self._rows
