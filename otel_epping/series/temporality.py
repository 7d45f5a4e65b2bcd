# SPDX-License-Identifier: Apache-2.0
"""Tracks the pending counts, which are the counts that an exporter still has to deliver.

The pending counts depend on the temporality. With cumulative temporality, each point contains all counts since the
series started. With delta temporality, a point contains the counts since the row was last acknowledged. If an export
fails, the counts in this export stay pending and are part of the next point. So a failed export reduces the resolution
in time, but loses no counts.

With both temporalities, the pending counts are the counts of the latest reading minus the acknowledged counts. With
cumulative temporality, the acknowledged counts are always 0.
"""

from dataclasses import dataclass

import numpy as np

from otel_epping.kernel.arrays import Counts, Indexes, Times
from otel_epping.kernel.count_table import CounterTable, HistogramTable
from otel_epping.kernel.read.min_max import MinMax
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, SHARED_SLOTS, RowOwners, has_owner
from otel_epping.kernel.sparse_histograms import SparseHistograms, spans
from otel_epping.series.pending_counts import PendingCounts
from otel_epping.series.projection import SeriesReading


@dataclass(frozen=True)
class UnsentRtts:
    """The pending RTTs of some histograms. The arrays have the same meaning as in RttTable.

    start_ns  (histograms,) Unix time in ns at which the counts of the histogram start
    """

    rows: Indexes
    methods: Indexes
    start_ns: Times
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts


@dataclass(frozen=True)
class Unsent:
    """The pending counts of some rows.

    start_ns  (rows,) Unix time in ns at which the counters of the row start
    counters  (rows, counters) all counters of a record, one after the other
    rtts      the histograms of the rows
    """

    start_ns: Times
    counters: Counts
    rtts: UnsentRtts


class TemporalityTracker:
    """Tracks which counts of a projection's series one exporter still has to deliver.

    `started_ns` is the Unix time in ns when counting started.

    `counters` is the number of counters in each row.

    reading  the latest reading
    """

    reading: SeriesReading

    def __init__(self, *, delta: bool, started_ns: int, counters: int) -> None:
        self._started_ns = started_ns
        self._previous_ns = started_ns  # time of the previous reading
        self._waiting = np.zeros(0, np.bool_)  # exported rows of the latest reading that are not acknowledged yet
        self._row_owners, self._rtt_owners = RowOwners(), RowOwners()
        self._counters = PendingCounts(CounterTable.empty(counters) if delta else None)
        self._rtts = PendingCounts(HistogramTable.empty() if delta else None)
        self._min_max = MinMax()
        # The pending histograms of the latest reading and the row of each of these histograms, sorted by row.
        self._histograms: Indexes = np.zeros(0, np.int64)
        self._rows_of_histograms: Indexes = np.zeros(0, np.int64)

    def update(self, reading: SeriesReading) -> None:
        """Replaces the latest reading by a newer reading."""
        created_ns = reading.created_ns.copy()
        created_ns[:SHARED_SLOTS] = self._started_ns
        changed = self._row_owners.update(reading.generation)
        self._counters.update(reading.counts, changed, created_ns, self._previous_ns)
        self._update_rtts(reading, created_ns)
        self.reading = reading
        self._previous_ns = reading.time_ns
        self._waiting = np.zeros(len(created_ns), np.bool_)
        self._waiting[self.rows()] = True

    def _update_rtts(self, reading: SeriesReading, created_ns: Times) -> None:
        """Updates the histograms. The counts of a new histogram start at the previous reading.

        If the histogram's row was created after the previous reading, the counts start when the row was created.
        """
        rtts = reading.rtts
        starts_ns = np.maximum(created_ns[rtts.rows], self._previous_ns)
        in_use = has_owner(rtts.generation)
        in_use[OVERFLOW_HISTOGRAM] = True
        starts_ns[~in_use] = 0
        changed = self._rtt_owners.update(rtts.generation)
        restarted = self._rtts.update(rtts.counts, changed, starts_ns, self._previous_ns)
        self._min_max.reset(restarted)
        self._min_max.grow(len(in_use))
        self._min_max.merge(slice(len(in_use)), rtts.min_ns, rtts.max_ns)
        pending = np.flatnonzero(self._rtts.is_pending)
        self._histograms = pending[np.argsort(rtts.rows[pending], kind="stable")]
        self._rows_of_histograms = rtts.rows[self._histograms]

    def rows(self) -> Indexes:
        """Returns the rows to export. Each row to export has an owner, and has pending counts or active flows.

        Histograms and counters are read in parallel, so an RTT and its packet may be in different readings. A row is
        exported if its RTTs or its packets are not acknowledged.
        """
        exported = self._counters.is_pending | ((self.reading.active != 0) & (self._counters.start_ns != 0))
        exported[self.reading.rtts.rows[self._rtts.is_pending]] = True
        return np.flatnonzero(exported)

    def histograms(self, rows: Indexes) -> Indexes:
        """Returns the histograms of the given rows that had pending RTTs when the latest reading was taken."""
        begins = np.searchsorted(self._rows_of_histograms, rows)
        return self._histograms[spans(begins, np.searchsorted(self._rows_of_histograms, rows, "right") - begins)]

    def pending(self, rows: Indexes) -> Unsent:
        """Returns the pending counts of the given rows."""
        rtts, histograms = self.reading.rtts, self.histograms(rows)
        unsent = self._rtts.of(rtts.counts, histograms)
        return Unsent(
            self._counters.start_ns[rows],
            self._counters.of(self.reading.counts, rows).counters,
            UnsentRtts(
                rtts.rows[histograms],
                rtts.methods[histograms],
                self._rtts.start_ns[histograms],
                unsent.buckets,
                unsent.sum_ns,
                self._min_max.min_ns[histograms],
                self._min_max.max_ns[histograms],
            ),
        )

    def waiting_interfaces(self) -> set[int]:
        """Returns the identifiers of the interfaces that still have unacknowledged rows of the latest reading."""
        return set(self.reading.slots["key"]["interface"][self._waiting].tolist())

    def acknowledge(self, rows: Indexes) -> None:
        """Records that the receiver has the pending counts of the given rows."""
        self._waiting[rows] = False
        self._counters.acknowledge(self.reading.counts, rows)
        self._rtts.acknowledge(self.reading.rtts.counts, self.histograms(rows))
