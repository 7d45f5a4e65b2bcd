# SPDX-License-Identifier: Apache-2.0
"""Reads the histograms of RTTs, and the owner of each histogram, for one reader."""

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes, Words, grow
from otel_epping.kernel.count_table import HistogramTable
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.histograms import HistogramReader
from otel_epping.kernel.read.min_max import MinMax
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, OVERFLOW_SLOT, RowOwners, RttTable


class RttReader:
    """Keeps the histograms of a reader, and the row and the method of each histogram.

    histograms  reads the program's histograms. Each row is a histogram of the program
    """

    def __init__(self, histograms: Array, blocks: Array) -> None:
        self._table = HistogramTable.empty()
        self.histograms = HistogramReader(histograms, blocks, self._table)
        self._array = histograms
        self._rows: Indexes = np.zeros(0, np.int64)
        self._methods: Indexes = np.zeros(0, np.int64)
        self._owners = RowOwners()
        self._times_freed: Words = np.zeros(0, np.uint32)

    def prepare(self, times_freed: Words) -> None:
        """Makes room for all histograms, and resets the histograms that were freed since the previous reading.

        times_freed  (histograms,) the number of times that each histogram was freed
        """
        self._times_freed = times_freed
        count = len(times_freed)
        self._table.grow(count)
        self.histograms.grow(count)
        self._rows, self._methods = grow(self._rows, count), grow(self._methods, count)
        changed = self._owners.update(times_freed)
        self._table.reset(changed)
        self.histograms.reset(changed)
        self._rows[changed] = OVERFLOW_SLOT

    def table(self, answered: Flags, min_max: MinMax) -> RttTable:
        """Returns the histograms as of the latest reading. Also resets the minima and maxima in `min_max`.

        answered  (rows,) true if the row of the reading has an owner for which an RTT was measured
        """
        ended = self.histograms.ended
        count = len(self._times_freed)
        new = np.flatnonzero((ended[:count] != 0) & (self._rows[:count] == OVERFLOW_SLOT))
        new = new[new != OVERFLOW_HISTOGRAM]
        if len(new):
            headers = self._array.rows(0, count)[new]
            self._rows[new], self._methods[new] = headers["slot"], headers["method"]
        rows = self._rows[:count]
        # If a slot came into use after the slots were counted, its histograms have an owner from the next reading on.
        is_used = (rows != OVERFLOW_SLOT) & answered.take(rows, mode="clip") & (rows < len(answered))
        min_ns, max_ns = min_max.take(slice(count))
        return RttTable(
            rows=np.where(is_used, rows, OVERFLOW_SLOT),
            methods=self._methods[:count],
            generation=self._times_freed << np.uint32(1) | is_used.astype(np.uint32),
            buckets=self._table.buckets,
            sum_ns=self._table.sum_ns,
            min_ns=min_ns,
            max_ns=max_ns,
        )
