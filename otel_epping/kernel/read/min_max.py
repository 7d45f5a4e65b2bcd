# SPDX-License-Identifier: Apache-2.0
"""Minimum and maximum RTT per row.

The program keeps the minimum and the maximum of the current interval, in words that only increase:
interval << 36 | value (bpf/histogram.h). When one reader ends the interval, the interval ends for all readers. So the
minima and maxima of the ended interval are passed to every reader (reader.py). Each reader merges the minima and maxima
of all intervals since its own last reading.
"""

import numpy as np

from otel_epping.kernel.arrays import Counts, Indexes, grow

_VALUE_BITS = np.uint64(36)
_VALUE_MASK = np.uint64((1 << 36) - 1)
_INTERVALS = 1 << 28

NO_MIN_NS = int(_VALUE_MASK)  # greater than any RTT


def decode(interval: int, min_words: Counts, max_words: Counts) -> tuple[Indexes, Counts, Counts]:
    """Returns the rows that have an RTT in the given interval, and the minima and maxima of these rows in ns.

    `min_words` and `max_words` are the program's words, with the shape (rows,). A word of another interval is ignored.
    """
    rows = np.flatnonzero(max_words >> _VALUE_BITS == np.uint64(interval % _INTERVALS))
    return rows, _VALUE_MASK - (min_words[rows] & _VALUE_MASK), max_words[rows] & _VALUE_MASK


class MinMax:
    """Minimum and maximum RTT of each row since the row was reset.

    min_ns  (rows,) the minimum RTT, ns; NO_MIN_NS if there was no RTT
    max_ns  (rows,) the maximum RTT, ns; 0 if there was no RTT
    """

    def __init__(self) -> None:
        self.min_ns: Counts = np.zeros(0, np.uint64)
        self.max_ns: Counts = np.zeros(0, np.uint64)

    def grow(self, rows: int) -> None:
        """Extends the arrays to at least `rows` rows."""
        self.min_ns = grow(self.min_ns, rows, NO_MIN_NS)
        self.max_ns = grow(self.max_ns, rows)

    def reset(self, rows: Indexes) -> None:
        """Removes the minimum and the maximum of each given row."""
        self.min_ns[rows], self.max_ns[rows] = NO_MIN_NS, 0

    def merge(self, rows: Indexes | slice, min_ns: Counts, max_ns: Counts) -> None:
        """Merges the given minima and maxima into the given rows. `rows` must not contain a row twice.

        Several threads may call this method at the same time, for different rows.
        """
        self.min_ns[rows] = np.minimum(self.min_ns[rows], min_ns)
        self.max_ns[rows] = np.maximum(self.max_ns[rows], max_ns)

    def take(self, rows: Indexes | slice) -> tuple[Counts, Counts]:
        """Returns copies of the minima and maxima of the given rows, and resets the rows."""
        taken = self.min_ns[rows].copy(), self.max_ns[rows].copy()
        self.min_ns[rows], self.max_ns[rows] = NO_MIN_NS, 0
        return taken
