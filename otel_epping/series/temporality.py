# SPDX-License-Identifier: Apache-2.0
"""Tracks the pending counts, which are the counts that an exporter still has to deliver.

The pending counts depend on the temporality. With cumulative temporality, each point contains all counts since the slot
got its owner. With delta temporality, a point contains the counts since the row was last acknowledged. If an export
fails, the counts in this export stay pending and are part of the next point. So a failed export reduces the resolution
in time, but loses no counts.

With both temporalities, the pending counts are the counts of the latest reading minus the acknowledged counts. With
cumulative temporality, the acknowledged counts are always 0.
"""

from dataclasses import dataclass

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Times, as_matrix, grow
from otel_epping.kernel.attach.interface_numbers import UNKNOWN_INTERFACE
from otel_epping.kernel.count_table import CountTable
from otel_epping.kernel.read.min_max import MinMax
from otel_epping.kernel.reading import Gone, Reading, RowOwners
from otel_epping.kernel.sparse_histograms import SparseHistograms


@dataclass(frozen=True)
class Unsent:
    """The pending counts of some rows.

    The arrays have the same meaning as in Reading, but contain only the requested rows.

    start_ns  (rows,) Unix time in ns at which the counts of the row start
    counters  (rows, counters) all counters of a record, one after the other
    """

    start_ns: Times
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts
    counters: Counts


class TemporalityTracker:
    """Tracks the counts that one exporter has to deliver. `started_ns` is the Unix time in ns when counting started.

    reading  the latest reading
    """

    reading: Reading

    def __init__(self, *, delta: bool, started_ns: int) -> None:
        self._delta = delta
        # Maps the identifier of an interface to the acknowledged counts and to the time of the reading with these
        # counts.
        self._acked_interfaces: dict[int, tuple[Counts, int]] = {}
        self._waiting = np.zeros(0, np.bool_)  # exported rows of the latest reading that are not acknowledged yet
        self._interfaces_wait = True
        self._start_ns: Times = np.full(1, started_ns, np.int64)  # row 0 is the overflow slot
        self._min_max = MinMax()
        self._pending = np.zeros(0, np.bool_)  # rows of the latest reading with counts that are not acknowledged
        self._acked: CountTable | None = None
        self._owners = RowOwners()

    def update(self, reading: Reading) -> None:
        """Replaces the latest reading by a newer reading."""
        rows = len(reading.sum_ns)
        self._reset(self._owners.update(reading.generation))
        if self._delta:
            self._start_next_points(reading)
        self.reading = reading
        self._pending = self._find_pending()
        self._start_ns = grow(self._start_ns, rows)
        new = self._start_ns == 0
        self._start_ns[new] = reading.created_ns[new]
        self._min_max.grow(rows)
        self._min_max.merge(slice(rows), reading.min_ns, reading.max_ns)
        self._acked_interfaces = {
            each: acked for each, acked in self._acked_interfaces.items() if each in reading.names
        }
        self._waiting = np.zeros(rows, np.bool_)
        self._waiting[self.rows()] = True
        self._interfaces_wait = True

    def _reset(self, rows: Indexes) -> None:
        """Deletes the state of rows that have a new owner."""
        rows = rows[rows < len(self._pending)]
        self._start_ns[rows] = 0
        self._min_max.reset(rows)
        if self._acked:
            self._acked.reset(rows)

    def _start_next_points(self, reading: Reading) -> None:
        """Sets the start of the next point to the time of the previous reading, for each row without pending counts."""
        if self._acked is None:
            self._acked = CountTable.empty(as_matrix(reading.counters).shape[1])
        else:
            delivered = np.flatnonzero(~self._pending & (self._start_ns != 0))
            self._start_ns[delivered] = self.reading.time_ns
            self._min_max.reset(delivered)
        self._acked.match(reading.counts)

    def rows(self) -> Indexes:
        """Returns the rows to export. Each row to export has an owner, and has pending counts or active flows.

        If a slot gets its owner while the slots are read, its row may have counts but no owner. The row has an owner
        from the next reading on.
        """
        exported = self._pending | (self.reading.active != 0)
        return np.flatnonzero(exported & (self._start_ns != 0))

    def _find_pending(self) -> Flags:
        """Returns an array that is true for each pending row of the latest reading.

        Histograms and counters are read in parallel, so an RTT and its packet may be in different readings. A row is
        pending if its RTTs or its packets are not acknowledged.
        """
        counts = self.reading.counts
        return counts.differs(self._acked) if self._acked else counts.is_counted()

    def pending(self, rows: Indexes) -> Unsent:
        """Returns the pending counts of the given rows."""
        counts = self.reading.counts
        unsent = counts.delta(rows, self._acked) if self._acked else counts.select(rows)
        min_max = self._min_max.min_ns[rows], self._min_max.max_ns[rows]
        return Unsent(self._start_ns[rows], unsent.buckets, unsent.sum_ns, *min_max, unsent.counters)

    def pending_interfaces(self) -> tuple[Counts, Times]:
        """Returns the pending counts of each interface, and the Unix time in ns at which the interface's counts start.

        The shapes are (interfaces, counters) and (interfaces,). In both arrays, the interfaces are in the order of the
        reading's `names`.
        """
        counters, start_ns = as_matrix(self.reading.interfaces).copy(), self.reading.interfaces_since_ns.copy()
        for place, identifier in enumerate(self.reading.names):
            if identifier in self._acked_interfaces:
                acked, acked_ns = self._acked_interfaces[identifier]
                counters[place] -= acked
                start_ns[place] = acked_ns
        return counters, start_ns

    @property
    def interfaces_acked_ns(self) -> int | None:
        """The Unix time in ns of the latest reading whose counts of interfaces are acknowledged.

        The result is None if no counts of interfaces are acknowledged. With cumulative temporality, the result is
        always None.
        """
        return self._acked_interfaces[UNKNOWN_INTERFACE][1] if self._acked_interfaces else None

    def delivered(self) -> frozenset[Gone]:
        """Returns the interfaces in the latest reading's `gone` whose counts are all acknowledged."""
        if self._interfaces_wait or not self.reading.gone:
            return frozenset()
        waiting = set(self.reading.slots["key"]["interface"][self._waiting].tolist())
        return frozenset(each for each in self.reading.gone if each.identifier not in waiting)

    def acknowledge(self, rows: Indexes) -> None:
        """Records that the receiver has the pending counts of the given rows."""
        self._waiting[rows] = False
        if self._acked:
            self._acked.assign(rows, self.reading.counts)
            self._pending[rows] = False

    def acknowledge_interfaces(self) -> None:
        """Records that the receiver has the pending counts of all interfaces."""
        self._interfaces_wait = False
        if self._delta:
            counters = zip(self.reading.names, as_matrix(self.reading.interfaces), strict=True)
            self._acked_interfaces = {identifier: (acked, self.reading.time_ns) for identifier, acked in counters}
