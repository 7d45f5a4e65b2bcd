# SPDX-License-Identifier: Apache-2.0
"""The least and greatest RTT of each slot between two readings.

The program keeps extremes per interval, in words that only grow: interval << 36 | value (bpf/histogram.h). Whoever
reads ends the interval for all, so its extremes are handed to every reader, which collects them until it reads itself.
"""

import numpy as np

from otel_epping.kernel.arrays import Counts, grow

_VALUE_BITS = np.uint64(36)
_VALUE_MASK = np.uint64((1 << 36) - 1)
_INTERVALS = 1 << 28

NO_MIN_NS = int(_VALUE_MASK)


class MinMax:
    """What one reader has collected. Only who has ended an interval grows it, merges or takes, before anybody ends the
    next; threads may merge at a time if their rows differ, and were there before."""

    def __init__(self) -> None:
        self._least_ns: Counts = np.zeros(0, np.uint64)
        self._greatest_ns: Counts = np.zeros(0, np.uint64)

    def grow(self, rows: int) -> None:
        """Makes room for so many rows."""
        self._least_ns = grow(self._least_ns, rows, NO_MIN_NS)
        self._greatest_ns = grow(self._greatest_ns, rows)

    def merge(self, begin: int, interval: int, min_words: Counts, max_words: Counts) -> None:
        """Takes in the extremes of an interval: words of the rows from `begin` on."""
        places = np.flatnonzero(max_words >> _VALUE_BITS == np.uint64(interval % _INTERVALS))
        if not len(places):
            return
        rows = places + begin
        least = _VALUE_MASK - (min_words[places] & _VALUE_MASK)
        greatest = max_words[places] & _VALUE_MASK
        self._least_ns[rows] = np.minimum(self._least_ns[rows], least)
        self._greatest_ns[rows] = np.maximum(self._greatest_ns[rows], greatest)

    def take(self, rows: int) -> tuple[Counts, Counts]:
        """Least and greatest RTT since they were last taken: (NO_MIN_NS, 0) where there was none."""
        taken = self._least_ns[:rows].copy(), self._greatest_ns[:rows].copy()
        self._least_ns[:rows] = NO_MIN_NS
        self._greatest_ns[:rows] = 0
        return taken
