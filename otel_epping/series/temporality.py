# SPDX-License-Identifier: Apache-2.0
"""What of the kernel's counts is still to be told: all of them, always, or those not acknowledged yet.

Cumulative temporality tells everything since a slot was made, each time. Delta temporality tells what was counted since
the same rows were last acknowledged; what could not be delivered stays pending and is told with the next point, so a
failed export costs resolution in time and nothing else. Both are the latest reading minus what was acknowledged: with
cumulative temporality nothing ever is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, grow
from otel_epping.kernel.attach.interface_numbers import UNKNOWN_INTERFACE
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import Gone, Reading
from otel_epping.kernel.sparse import SparseHistograms
from otel_epping.series.subnet import RowOwners

Rows = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Unsent:
    """What is to be told of some rows, arrays as in Reading; `start_ns` is when counting of each began.

    counters  (rows, counters) those of a record, one after the other
    """

    start_ns: Times
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts
    counters: Counts


def as_matrix(records: npt.NDArray[Any]) -> Counts:
    """Records of nothing but 64-bit counters, as (rows, counters)."""
    return records.view(np.uint64).reshape(len(records), -1)


class _Acknowledged:
    """The counts of a reading that the receiver has, per row; runs are where those of the latest reading are."""

    def __init__(self, reading: Reading) -> None:
        self.buckets = SparseHistograms.empty(0)
        self.sum_ns = np.zeros_like(reading.sum_ns[:0])
        self.counters = np.zeros_like(as_matrix(reading.counters)[:0])

    def forget(self, rows: Rows) -> None:
        """Some rows are somebody else's, of whom nothing is acknowledged."""
        self.buckets = self.buckets.without(rows)
        self.sum_ns[rows] = self.counters[rows] = 0

    def grow(self, reading: Reading) -> None:
        """Makes room for what is new in a reading."""
        rows = len(reading.sum_ns)
        self.buckets = self.buckets.grow(rows).within(reading.buckets.first, reading.buckets.starts)
        self.sum_ns, self.counters = grow(self.sum_ns, rows), grow(self.counters, rows)


class TemporalityTracker:
    """Keeps account for one exporter. `started_ns` is when counting could begin, Unix time."""

    reading: Reading

    def __init__(self, *, delta: bool, started_ns: int) -> None:
        self._delta = delta
        # By identifier of an interface: what the receiver has, and when the reading was taken that it has that of.
        self._interfaces: dict[int, tuple[Counts, int]] = {}
        self._waiting = np.zeros(0, np.bool_)  # which rows of the latest reading the receiver has not got yet
        self._interfaces_wait = True
        self._start_ns: Times = np.full(1, started_ns, np.int64)  # that of the overflow slot
        self._least_ns: Counts = np.zeros(0, np.uint64)
        self._greatest_ns: Counts = np.zeros(0, np.uint64)
        self._untold = np.zeros(0, np.bool_)  # which rows of the latest reading have something to tell
        self._acknowledged: _Acknowledged | None = None
        self._owners = RowOwners()

    def take(self, reading: Reading) -> None:
        """Enters a new reading; the one before isn't looked at any more."""
        rows = len(reading.sum_ns)
        self._forget(self._owners.update(reading))
        if self._delta:
            self._begin_next(reading)
        self.reading = reading
        self._untold = self._find_untold()
        self._start_ns = grow(self._start_ns, rows)
        new = self._start_ns[:rows] == 0
        self._start_ns[:rows][new] = reading.created_ns[new]
        self._least_ns = grow(self._least_ns, rows, NO_MIN_NS)
        self._greatest_ns = grow(self._greatest_ns, rows)
        np.minimum(self._least_ns[:rows], reading.min_ns, out=self._least_ns[:rows])
        np.maximum(self._greatest_ns[:rows], reading.max_ns, out=self._greatest_ns[:rows])
        self._interfaces = {each: told for each, told in self._interfaces.items() if each in reading.names}
        self._waiting = np.zeros(rows, np.bool_)
        self._waiting[self.rows()] = True
        self._interfaces_wait = True

    def _forget(self, rows: Rows) -> None:
        """Some rows are new, or somebody else's."""
        rows = rows[rows < len(self._untold)]
        self._start_ns[rows] = self._greatest_ns[rows] = 0
        self._least_ns[rows] = NO_MIN_NS
        if self._acknowledged and len(rows):
            self._acknowledged.forget(rows)

    def _begin_next(self, reading: Reading) -> None:
        """Rows of which nothing is pending begin anew where the previous reading ended, whether they counted or not."""
        if self._acknowledged is None:
            self._acknowledged = _Acknowledged(reading)
        else:
            told = ~self._untold & (self._start_ns != 0)
            self._start_ns[told] = self.reading.time_ns
            self._least_ns[told] = NO_MIN_NS
            self._greatest_ns[told] = 0
        self._acknowledged.grow(reading)

    def rows(self) -> Rows:
        """Rows that have something to tell, and that have an owner: a slot can come to life while it is read."""
        telling = self._untold | (self.reading.active != 0)
        return np.flatnonzero(telling & (self._start_ns[: len(self.reading.sum_ns)] != 0))

    def _find_untold(self) -> npt.NDArray[np.bool_]:
        """Which rows of the latest reading have something to tell.

        Histograms and traffic are read side by side, so an RTT may come a reading later than its packet, or earlier.
        """
        counters, sum_ns = as_matrix(self.reading.counters), self.reading.sum_ns
        if self._acknowledged:
            untold = (counters != self._acknowledged.counters).any(axis=1) | (sum_ns != self._acknowledged.sum_ns)
        else:
            untold = counters.any(axis=1) | (sum_ns != 0)
        return np.asarray(untold)

    def pending(self, rows: Rows) -> Unsent:
        """What is to be told of these rows."""
        buckets = self.reading.buckets.select(rows)
        sum_ns, counters = self.reading.sum_ns[rows], as_matrix(self.reading.counters)[rows]
        if self._acknowledged:
            buckets = buckets._replace(counts=buckets.counts - self._acknowledged.buckets.select(rows).counts)
            sum_ns = sum_ns - self._acknowledged.sum_ns[rows]
            counters = counters - self._acknowledged.counters[rows]
        return Unsent(self._start_ns[rows], buckets, sum_ns, self._least_ns[rows], self._greatest_ns[rows], counters)

    def pending_interfaces(self) -> tuple[Counts, Times]:
        """What is to be told of the interfaces: (interfaces, counters), and when counting of it began: (interfaces,).

        Both are in the order of the reading's `names`.
        """
        counters, start_ns = as_matrix(self.reading.interfaces).copy(), self.reading.interfaces_since_ns.copy()
        for place, identifier in enumerate(self.reading.names):
            if identifier in self._interfaces:
                told, told_ns = self._interfaces[identifier]
                counters[place] -= told
                start_ns[place] = told_ns
        return counters, start_ns

    @property
    def told_ns(self) -> int | None:
        """When the latest reading was taken whose interfaces the receiver has; None: of none, or not with delta."""
        return self._interfaces[UNKNOWN_INTERFACE][1] if self._interfaces else None

    def delivered(self) -> frozenset[Gone]:
        """Interfaces of the latest reading that are gone, and of which the receiver has all."""
        if self._interfaces_wait or not self.reading.gone:
            return frozenset()
        waiting = set(self.reading.slots["key"]["interface"][self._waiting].tolist())
        return frozenset(each for each in self.reading.gone if each.identifier not in waiting)

    def acknowledge(self, rows: Rows) -> None:
        """The receiver has what was pending of these rows."""
        self._waiting[rows] = False
        if self._acknowledged:
            self._acknowledged.buckets.put(rows, self.reading.buckets)
            self._acknowledged.sum_ns[rows] = self.reading.sum_ns[rows]
            self._acknowledged.counters[rows] = as_matrix(self.reading.counters)[rows]
            self._untold[rows] = False

    def acknowledge_interfaces(self) -> None:
        """The receiver has what was pending of the interfaces."""
        self._interfaces_wait = False
        if self._delta:
            told = zip(self.reading.names, as_matrix(self.reading.interfaces), strict=True)
            self._interfaces = {identifier: (counters, self.reading.time_ns) for identifier, counters in told}
