# SPDX-License-Identifier: Apache-2.0
"""Gives slots to the program, and takes back the slots of idle subnets.

Flows and the slot cache remember slots, so a slot goes to another subnet in three steps (bpf/subnet.h):

1. The subnet's key is deleted and the epoch is raised. From then on no look-up finds the slot, and slots remembered in
   an earlier epoch are looked up again.
2. A run of the program that had found the slot before ends within microseconds. So after GRACE_NS the slot's counts are
   final.
3. When every reader has read the final counts, the slot is cleared and free.

Until the third step, readers count the slot for its subnet as before. If the subnet has packets again meanwhile, it
gets another slot.
"""

import time
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Times, Words, grow
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.program import Map
from otel_epping.kernel.read.control import FIRST_EPOCH, Control
from otel_epping.kernel.reading import OVERFLOW_SLOT

# Far longer than any run of the program.
GRACE_NS = 1_000_000_000


class Found(NamedTuple):
    """The state of the first slots, as a reader found it.

    slots   (rows,) the program's records
    events  (rows,) a number that changes whenever something is counted
    active  (rows,) whether the subnet has an active flow; such a subnet is not idle
    """

    slots: Records
    events: Counts
    active: Flags


@dataclass
class _Closing:
    """Slots whose keys are deleted.

    final_ns  time from which on their counts are final, by Slots.now_ns
    waiting   readers that have not read the final counts yet
    """

    slots: Indexes
    final_ns: int
    waiting: "weakref.WeakSet[Any]"


class Slots:
    """All slots of a program. One thread at a time may use it: the thread whose reader has the current interval.

    idle_ns  a slot is taken back if nothing was counted in it for this time; 0: no slot is taken back
    retired  number of slots taken back since the start
    now_ns   the clock of idle times, ns; it does not advance while the machine is suspended
    """

    def __init__(self, maps: dict[str, Map], control: Control, idle_ns: int) -> None:
        self.idle_ns = idle_ns
        self.retired = 0
        self.now_ns = time.monotonic_ns
        self._maps = maps
        self._control = control
        self._closing: list[_Closing] = []
        self._owners: Words = np.zeros(0, np.uint32)
        self._since: Words = np.zeros(0, np.uint32)
        self._events: Counts = np.zeros(0, np.uint64)
        self._changed_ns: Times = np.zeros(0, np.int64)
        self._is_closing = np.zeros(0, np.bool_)

    @property
    def epoch(self) -> int:
        """The number that is raised whenever slots are taken back or become free."""
        return self._control.epoch

    @property
    def is_taking_back(self) -> bool:
        """Whether slots may have to be taken back, or were taken back and are not free yet."""
        return bool(self.idle_ns or self._closing)

    def owners(self, rows: int) -> Words:
        """Returns how often each of the first slots was taken back: (rows,)."""
        self._owners = grow(self._owners, rows)
        return self._owners[:rows]

    def since(self, rows: int) -> Words:
        """Returns the epoch from which on each of the first slots belongs to its owner: (rows,)."""
        self._since = grow(self._since, rows, FIRST_EPOCH)
        return self._since[:rows]

    def give(self, slots: Indexes) -> None:
        """Puts these slots into the program's queue of free slots. Raises OSError."""
        for slot in slots.astype(np.uint32):
            libbpf.map_update(self._maps["free_slots"].fd, None, slot.tobytes())

    def take_back(self, reader: object, readers: Collection[object], began_ns: int, found: Found) -> None:
        """Takes back idle slots, and frees slots that all readers have read.

        Call it at the end of each reading, after everything in `found` was used: it may clear slots.

        reader    the reader that calls
        readers   all readers of the collector
        began_ns  when the reading began, by `now_ns`
        found     the slots as the reading found them
        """
        rows, now_ns = len(found.events), self.now_ns()
        self._grow(rows, now_ns)
        is_live = found.slots["live"] != 0
        self._changed_ns[:rows][(self._events[:rows] != found.events) | found.active | ~is_live] = now_ns
        self._events[:rows] = found.events
        idle = is_live & ~self._is_closing[:rows] & (now_ns - self._changed_ns[:rows] >= self.idle_ns)
        idle[OVERFLOW_SLOT] = False
        if self.idle_ns and idle.any():
            self._close(np.flatnonzero(idle), found.slots["key"][idle], now_ns, readers)
        self._release(reader, began_ns)

    def closing_keys(self, slots: Records) -> Records:
        """Returns the keys of those slots that are taken back and not free yet; `slots` as in Found."""
        self._grow(len(slots), self.now_ns())
        return np.asarray(slots["key"][self._is_closing[: len(slots)]])

    def end(self, interfaces: Sequence[int], slots: Records) -> None:
        """Frees the slots of interfaces that are gone and whose counts all readers have delivered.

        No packet of such an interface is still being processed, so GRACE_NS is not needed.

        interfaces  their identifiers
        slots       as in Found
        """
        rows = np.flatnonzero((slots["live"] != 0) & np.isin(slots["key"]["interface"], interfaces))
        rows = self._delete(rows, slots["key"][rows])
        if len(rows):
            self._free(rows)

    def _grow(self, rows: int, now_ns: int) -> None:
        self._events = grow(self._events, rows)
        # A new slot may be live before any of its counts are read.
        self._changed_ns = grow(self._changed_ns, rows, now_ns)
        self._is_closing = grow(self._is_closing, rows)

    def _close(self, rows: Indexes, keys: Records, now_ns: int, readers: Collection[object]) -> None:
        rows = self._delete(rows, keys)
        self._is_closing[rows] = True
        self._closing.append(_Closing(rows, now_ns + GRACE_NS, weakref.WeakSet(readers)))
        self.retired += len(rows)

    def _delete(self, rows: Indexes, keys: Records) -> Indexes:
        """Deletes the keys of these rows. Returns the rows whose key was deleted; other rows keep their owner."""
        rows = rows[np.array([libbpf.map_delete(self._maps["subnets"].fd, key.tobytes()) for key in keys], np.bool_)]
        # In this order, a CPU that reads the new epoch does not find the key any more.
        self._control.epoch += 1
        self._control.write()
        self._since[rows] = self._control.epoch
        return rows

    def _release(self, reader: object, began_ns: int) -> None:
        """Frees slots of which this reader was the last to read the final counts."""
        for closing in self._closing:
            if began_ns >= closing.final_ns:
                closing.waiting.discard(reader)
        free = [closing.slots for closing in self._closing if not closing.waiting]
        if not free:
            return
        self._closing = [closing for closing in self._closing if closing.waiting]
        self._free(np.concatenate(free))

    def _free(self, slots: Indexes) -> None:
        """Clears slots that are final, and gives them to the program."""
        self._clear(slots)
        self._owners[slots] += 1
        self._is_closing[slots] = False
        # The next owner may have exactly as many events as this owner when a reader first looks at it.
        self._changed_ns[slots] = self.now_ns()
        self.give(slots)
        # Flows that got no slot remember that. The new epoch makes them ask again.
        self._control.epoch += 1
        self._control.write()

    def _clear(self, slots: Indexes) -> None:
        cpus = possible_cpus()
        for name, each in (("slots", 1), ("histograms", 1), ("flow_counters", 1), ("traffic", cpus)):
            array = self._maps[name]
            zeros = bytes(map_array.map_info(array.fd)["value_size"])
            for row in (slots[:, None] * each + np.arange(each)).ravel().astype(np.uint32):
                libbpf.map_update(array.fd, row.tobytes(), zeros)
