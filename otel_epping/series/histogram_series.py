# SPDX-License-Identifier: Apache-2.0
"""The histograms of all series. A series has one histogram for each method by which an RTT was measured.

A projection can also merge methods (projection.py). If methods are merged, the method of their histogram is one of the
merged methods.

The histograms of series are numbered independently of series, as the histograms of a reading are numbered independently
of rows (RttTable).
"""

from collections.abc import Sequence

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Words, grow
from otel_epping.kernel.count_table import HistogramTable
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.read.min_max import MinMax
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, RowOwners, RttTable, has_owner
from otel_epping.kernel.sparse_histograms import difference
from otel_epping.series.increments import Increments
from otel_epping.series.registry import OVERFLOW_SERIES

_NONE = -1


class HistogramNumbers:
    """Gives numbers to the histograms of series. Number 0 is the histogram of the overflow point, for all methods.

    When a series ends, its histograms end, too. The numbers of ended histograms can be assigned to other histograms.

    series      (histograms,) the series to which each histogram belongs
    methods     (histograms,) the method of each histogram
    generation  (histograms,) a number like Reading.generation
    """

    def __init__(self) -> None:
        self.series: Indexes = np.full(1, OVERFLOW_SERIES, np.int64)
        self.methods: Indexes = np.zeros(1, np.int64)
        self.generation: Words = np.zeros(1, np.uint32)
        self._numbers: Indexes = np.zeros((0, len(METHODS)), np.int64)  # the histogram of each series and method

    def start(self, series: int, ended: Indexes) -> Indexes:
        """Makes room for `series` series, and ends the histograms of ended series. Returns these histograms."""
        self._numbers = grow(self._numbers, series, _NONE)
        self._numbers[OVERFLOW_SERIES] = OVERFLOW_HISTOGRAM
        numbers = self._numbers[ended]
        self._numbers[ended] = _NONE
        histograms = numbers[numbers != _NONE]
        self.generation[histograms] += 1
        return np.asarray(histograms)

    def find(self, series: Indexes, methods: Indexes) -> Indexes:
        """Returns the number of the histogram for each pair of a series and a method. Creates missing histograms."""
        missing = np.flatnonzero(self._numbers[series, methods] == _NONE)
        if len(missing):
            pairs = np.unique(series[missing] * len(METHODS) + methods[missing])
            numbers = self._take_free(len(pairs))
            self.series[numbers], self.methods[numbers] = np.divmod(pairs, len(METHODS))
            self.generation[numbers] += 1
            self._numbers[self.series[numbers], self.methods[numbers]] = numbers
        return np.asarray(self._numbers[series, methods])

    def _take_free(self, count: int) -> Indexes:
        is_free = ~has_owner(self.generation)
        is_free[OVERFLOW_HISTOGRAM] = False
        missing = count - int(np.count_nonzero(is_free))
        if missing > 0:
            rows = len(self.generation) + max(64, missing, len(self.generation) // 4)
            self.series, self.methods = grow(self.series, rows), grow(self.methods, rows)
            self.generation = grow(self.generation, rows)
            is_free = grow(is_free, rows, True)
        return np.flatnonzero(is_free)[:count]


class HistogramSeries:
    """Adds the RTTs of a reading's histograms to the histograms of series.

    For each reading, call start() once, then start_series(), and then add().

    If RTTs are read after their row, the row may not have a subnet yet. Such RTTs wait, and are added after the next
    reading.

    The RTTs of the method m are added to the histogram of the method methods[m].
    """

    def __init__(self, methods: Sequence[int]) -> None:
        self._methods = np.array(methods)
        self._owners = RowOwners()
        self._numbers = HistogramNumbers()
        self._counts = HistogramTable.empty()
        # The previous counts of 10,000 histograms need 5 MB with 64 bits, and half with 32 bits. 32 bits are exact: the
        # program's buckets have 32 bits, so fewer than 2^32 RTTs per bucket must arrive between two readings anyway.
        self._increments = Increments(HistogramTable.empty(np.uint32))
        self._new = MinMax()  # minima and maxima that are not added yet, of the reading's histograms
        self._min_max = MinMax()  # minima and maxima of the histograms of series

    def start(self, rtts: RttTable) -> None:
        """Prepares for the histograms of a reading."""
        # The upper bits of a generation change when the histogram loses its owner. When a histogram gets an owner, only
        # the lowest bit changes. The histogram is then not reset, because the RTTs that have waited since the previous
        # reading belong to the new owner.
        changed = self._owners.update(rtts.generation >> np.uint32(1))
        self._increments.start(rtts.counts, changed)
        self._new.grow(len(rtts.rows))
        self._new.reset(changed)
        self._new.merge(slice(len(rtts.rows)), rtts.min_ns, rtts.max_ns)

    def new_rtts(self, rtts: RttTable) -> Counts:
        """Returns the number of new RTTs of each histogram of the reading: (histograms,)."""
        return difference(rtts.buckets.totals(), self._increments.previous.buckets.totals())

    def start_series(self, series: int, ended: Indexes) -> None:
        """Makes room for `series` series, and ends the histograms of the series in `ended`."""
        self._counts.reset(self._numbers.start(series, ended))

    def add(self, rtts: RttTable, series: Indexes, is_placed: Flags) -> Indexes:
        """Adds the increments of the reading's histograms to the histograms of series.

        series     (histograms,) the series to which each histogram's row belongs
        is_placed  (histograms,) true if the histogram's row has a subnet, or if the histogram is the overflow histogram

        Returns the series that have new RTTs.
        """
        increased = self._increments.increased(rtts.counts)
        taken = np.flatnonzero(is_placed)
        min_ns, max_ns = self._new.take(taken)
        has_more = increased[taken]
        taken, min_ns, max_ns = taken[has_more], min_ns[has_more], max_ns[has_more]
        to = self._numbers.find(series[taken], self._methods[rtts.methods[taken]])
        histograms = len(self._numbers.generation)
        self._counts.grow(histograms)
        for some, increments in self._increments.take(rtts.counts, taken):
            self._counts.add(to[some], increments)
        self._min_max = MinMax()
        self._min_max.grow(histograms)
        np.minimum.at(self._min_max.min_ns, to, min_ns)
        np.maximum.at(self._min_max.max_ns, to, max_ns)
        return np.asarray(series[taken])

    def table(self) -> RttTable:
        """Returns the histograms of all series. The minima and maxima cover the time since the previous reading."""
        numbers, counts = self._numbers, self._counts
        return RttTable(
            rows=numbers.series,
            methods=numbers.methods,
            generation=numbers.generation,
            buckets=counts.buckets,
            sum_ns=counts.sum_ns,
            min_ns=self._min_max.min_ns,
            max_ns=self._min_max.max_ns,
        )
