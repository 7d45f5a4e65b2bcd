# SPDX-License-Identifier: Apache-2.0
"""Counts active TCP flows per slot, and finds out which flows ended in silence.

The program counts flows that open, and flows that a FIN or RST closes (bpf/tcp_counters.h). The program cannot count
flows that end in silence. A flow ends in silence if its packets stop without a FIN or RST, or if its flow table entry
is evicted. So the agent scans the flow table from time to time, and counts the active flows. The number of flows that
ended in silence is the number of opened flows, minus the number of closed flows, minus the number of active flows.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Times, Words
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read import directions

# bpf/flow_maps.h, bpf/flow_table.h
IDLE_NS = 300_000_000_000
_CLOSED = 3
_TAG_ANSWERED = 2
_NO_SLOT = 0  # no slot is cached; the epoch in this value is 0, which is before all other epochs
# Minimum time between two regular scans of the table. The table is not scanned at each reading, because a scan takes as
# long as the rest of a reading. If a flow has no packet for IDLE_NS, the next scan counts the flow as ended in silence.
_SCAN_INTERVAL_NS = IDLE_NS // 10
_SOON_NS = 1_000_000_000


class _Part(NamedTuple):
    """Some entries of the flow table.

    last_ns   (flows,) time of the last packet
    cached    (flows, 2) the value epoch << 32 | slot that the flow has cached for each end; _NO_SLOT if the flow is
              closed
    interface (flows,) identifier of the interface
    answered  (flows,) true if packets of both ends were seen and the flow is not closed
    compared  (n,) indexes of the flows with packets of only one end, or indexes of a sample of these flows if there are
              many
    keys      (n,) keys of the flows in `compared`
    """

    last_ns: Counts
    cached: Counts
    interface: Records
    answered: Flags
    compared: Indexes
    keys: Records


def _part(flows: Records, answered: Flags, share: int) -> _Part:
    """Copies the fields that a scan needs from some entries of the table.

    `share` is the parameter of directions.pick().
    """
    cached: Counts = flows["cached_slots"].copy()
    closed = flows["closed_ends"] == _CLOSED
    cached[closed] = _NO_SLOT
    compared = np.flatnonzero(~answered & ~closed)
    compared = compared[directions.pick(flows["key"][compared], share)]
    return _Part(
        flows["last_ns"].copy(),
        cached,
        flows["key"]["interface"].copy(),
        answered & ~closed,
        compared,
        flows["key"][compared],
    )


class FlowTable:
    """Scans the program's flow table, for one reader.

    The times of packets (`last_ns`) come from a clock of the kernel (bpf/clock.h). The current time on the packets'
    clock is the time of the latest packet, plus the time since a scan first found the latest packet. When a capture is
    replayed, the current time is the timestamp of the latest packet, and does not advance between two packets.

    gone        identifiers of removed interfaces. Flows on removed interfaces are not active, because no packets can
                arrive
    directions  the numbers of flows of each interface by identifier, from the latest call of active(); None if the
                latest call did not scan the table
    """

    def __init__(self, flows: Array, sets: Array, *, packet_clock: bool) -> None:
        self._flows, self._sets = flows, sets
        self._packet_clock = packet_clock
        self._latest_ns = 0
        self._found_ns = 0
        self._scanned_ns = -_SCAN_INTERVAL_NS
        self._due_ns = 0
        self.gone: frozenset[int] = frozenset()
        self.directions: dict[int, directions.Flows] | None = None

    def _now_ns(self, latest_ns: int) -> int:
        if latest_ns != self._latest_ns:
            self._latest_ns, self._found_ns = latest_ns, time.monotonic_ns()
        return self._latest_ns + (0 if self._packet_clock else time.monotonic_ns() - self._found_ns)

    def _parts(self, taken: Indexes, answered: Flags, share: int) -> Iterator[_Part]:
        """Yields the entries in use, in one or more parts. `taken` contains the indexes of the entries in use."""
        yield _part(np.empty(0, self._flows.dtype), answered[:0], share)  # for an empty table
        for part, flows in self._flows.copies(taken):
            yield _part(flows, answered[part], share)

    def end(self, gone: frozenset[int]) -> None:
        """Sets the removed interfaces. Flows on removed interfaces count as ended in silence.

        If `gone` contains a new interface, a scan becomes due.
        """
        if gone - self.gone:
            self._due_ns = 0
        self.gone = gone

    def scan_soon(self) -> None:
        """Requests an early scan.

        Then active() scans the table as soon as the last scan is at least one second old.
        """
        self._due_ns = min(self._due_ns, self._scanned_ns + _SOON_NS)

    def active(self, since: Words) -> tuple[Counts | None, int]:
        """Returns how many ends of active flows are in each slot, for the first `rows` slots. The shape is (rows,).

        since  (rows,) the first epoch in which each slot can belong to its current owner. If a flow cached the slot in
               an
               earlier epoch, the flow is not counted, because the slot belonged to another subnet in that epoch.

        Returns None instead of the array if no scan is due. Also returns the number of all entries in the table,
        including the entries of flows that are not active. Raises OSError.
        """
        self.directions = None
        # The program may change the map at any time, so the tags are copied first.
        tags = self._sets.rows(0, self._sets.length)["tags"].copy().ravel()
        taken = np.flatnonzero(tags)
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns and not self._packet_clock:
            return None, len(taken)
        self._scanned_ns, self._due_ns = now_ns, now_ns + _SCAN_INTERVAL_NS
        # The current time on the packets' clock is known only after all entries are read. So about 30 bytes of each
        # entry are kept until all entries are read.
        answered = tags[taken] & _TAG_ANSWERED != 0
        share = directions.share(int(np.count_nonzero(~answered)))
        parts = list(self._parts(taken, answered, share))
        last_ns, cached, interface, answered = (np.concatenate([part[field] for part in parts]) for field in range(4))
        is_active = self._is_active(last_ns, interface)
        begins = np.cumsum([0, *(len(part.last_ns) for part in parts)])
        compared = np.concatenate([begin + part.compared for begin, part in zip(begins[:-1], parts, strict=True)])
        keys = np.concatenate([part.keys for part in parts])[is_active[compared]]
        self.directions = directions.count(interface[answered & is_active], keys, share)
        cached = cached[is_active].ravel()
        slots = (cached & np.uint64(0xFFFFFFFF)).view(np.int64)
        slots = slots[cached >> np.uint64(32) >= since.take(slots, mode="clip")]
        # If a slot came into use after the rows were counted, its number may be higher than the number of the last row.
        return np.bincount(slots, minlength=len(since))[: len(since)].view(np.uint64), len(taken)

    def _is_active(self, last_ns: Counts, interface: Records) -> Flags:
        """Returns an array that is true for the active flows.

        A flow is active if it had a packet in the last IDLE_NS, on an interface that still exists.
        """
        # If a packet arrived after the time was read, `last_ns` is later than the current time, and the unsigned
        # difference wraps around. So `silent_ns`, the signed view of the difference, is negative.
        silent_ns: Times = (np.uint64(self._now_ns(int(last_ns.max(initial=0)))) - last_ns).view(np.int64)
        is_active = silent_ns <= IDLE_NS
        if self.gone:
            is_active &= ~np.isin(interface, list(self.gone))
        return is_active
