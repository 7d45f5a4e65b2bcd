# SPDX-License-Identifier: Apache-2.0
"""Tracks which counts of interfaces one exporter still has to deliver (temporality.py).

Also tracks the sum of all interfaces. The sum includes the counts of removed interfaces, so the sum never decreases.
"""

import numpy as np

from otel_epping.kernel.arrays import Counts, Times, as_matrix
from otel_epping.kernel.reading import Gone, Reading

# The identifier of the sum of all interfaces. The identifiers of interfaces are not negative.
ALL_INTERFACES = -1


class InterfaceTracker:
    """Tracks the counts of all interfaces. `started_ns` is the Unix time in ns when counting started.

    names  the names of the interfaces of the latest reading, by identifier; the last identifier is ALL_INTERFACES
    """

    def __init__(self, *, delta: bool, started_ns: int, counters: int) -> None:
        self.names: dict[int, str] = {}
        self._delta = delta
        self._started_ns = started_ns
        self._time_ns = started_ns  # time of the latest reading
        self._gone: frozenset[Gone] = frozenset()
        self._counts: dict[int, Counts] = {ALL_INTERFACES: np.zeros(counters, np.uint64)}
        self._since_ns: dict[int, int] = {}
        # Maps the identifier of an interface to the acknowledged counts and to the time of the reading with these
        # counts.
        self._acked: dict[int, tuple[Counts, int]] = {}
        self._wait = True

    def update(self, reading: Reading) -> None:
        """Replaces the latest reading by a newer reading."""
        new = dict(zip(reading.names, as_matrix(reading.interfaces).copy(), strict=True))
        total = self._counts[ALL_INTERFACES].copy()
        for identifier, counts in new.items():
            total += counts - self._counts[identifier] if identifier in self._counts else counts
        self._counts = {**new, ALL_INTERFACES: total}
        self._since_ns = dict(zip(reading.names, reading.interfaces_since_ns.tolist(), strict=True))
        self._since_ns[ALL_INTERFACES] = self._started_ns
        self.names = {**reading.names, ALL_INTERFACES: ""}
        self._acked = {each: acked for each, acked in self._acked.items() if each in self.names}
        self._time_ns, self._gone, self._wait = reading.time_ns, reading.gone, True

    def pending(self) -> tuple[Counts, Times]:
        """Returns the pending counts of each interface, and the Unix time in ns at which the interface's counts start.

        The shapes are (interfaces, counters) and (interfaces,). In both arrays, the interfaces are in the order of
        `names`.
        """
        counters = np.array(list(self._counts.values()))
        start_ns = np.array(list(self._since_ns.values()), np.int64)
        for place, identifier in enumerate(self.names):
            if identifier in self._acked:
                acked, acked_ns = self._acked[identifier]
                counters[place] -= acked
                start_ns[place] = acked_ns
        return counters, start_ns

    @property
    def acked_ns(self) -> int | None:
        """The Unix time in ns of the latest reading whose counts of interfaces are acknowledged.

        The result is None if no counts of interfaces are acknowledged. With cumulative temporality, the result is
        always None.
        """
        return self._acked[ALL_INTERFACES][1] if self._acked else None

    def delivered(self, waiting: set[int]) -> frozenset[Gone]:
        """Returns the removed interfaces of the latest reading whose counts are all acknowledged.

        waiting  the identifiers of the interfaces that have series with counts that are not acknowledged
        """
        if self._wait:
            return frozenset()
        return frozenset(each for each in self._gone if each.identifier not in waiting)

    def acknowledge(self) -> None:
        """Records that the receiver has the pending counts of all interfaces."""
        self._wait = False
        if self._delta:
            self._acked = {identifier: (counts, self._time_ns) for identifier, counts in self._counts.items()}
