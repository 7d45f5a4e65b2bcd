# SPDX-License-Identifier: Apache-2.0
"""Gives free slots to the program, and reclaims the slots of idle subnets.

Flows and the slot cache store the numbers of slots. So a slot gets a new owner in three steps (bpf/subnet.h):

1. The agent deletes the key of the old owner, and increases the epoch. After step 1, no look-up finds the slot. If a
   flow or the slot cache has stored a slot in an earlier epoch, the program looks up the slot again.
2. The agent waits for GRACE_NS. Each run of the program ends within microseconds, so by then no run uses the slot any
   more. So after GRACE_NS, the counts of the slot are final, which means that they cannot change any more.
3. When all readers have read the final counts, the agent clears the slot and puts it into the queue of free slots.

Until step 3, readers add the counts of the slot to its old owner. If a packet of the old owner arrives before step 3,
the old owner gets another slot.
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

# The time in ns after which the counts of a reclaimed slot are final. This time is far longer than any run of the
# program.
GRACE_NS = 1_000_000_000


class Found(NamedTuple):
    """The state of the first `rows` slots when a reader read them.

    slots   (rows,) the program's records
    events  (rows,) a number that changes whenever a packet or an RTT is counted in the slot
    active  (rows,) true if the subnet has an active flow. A subnet with an active flow is not idle
    """

    slots: Records
    events: Counts
    active: Flags


@dataclass
class _Closing:
    """Slots whose keys are deleted.

    final_ns  the time, on the clock of Slots.now_ns, after which the counts of the slots are final
    waiting   the readers that have not read the final counts yet
    """

    slots: Indexes
    final_ns: int
    waiting: "weakref.WeakSet[Any]"


class Slots:
    """All slots of a program. Only the thread whose reader has the current interval may use this object.

    idle_ns  the idle timeout in ns: a slot is reclaimed if nothing was counted in the slot during this time; 0 if no
             slots are reclaimed
    retired  the number of slots that were reclaimed since the start
    now_ns   the clock for idle times, in ns. This clock does not advance while the machine is suspended
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
        """A number that is increased whenever slots are reclaimed or become free."""
        return self._control.epoch

    @property
    def is_taking_back(self) -> bool:
        """True if slots may have to be reclaimed, or if reclaimed slots are not free yet."""
        return bool(self.idle_ns or self._closing)

    def owners(self, rows: int) -> Words:
        """Returns the number of times that each of the first `rows` slots was reclaimed. The shape is (rows,)."""
        self._owners = grow(self._owners, rows)
        return self._owners[:rows]

    def since(self, rows: int) -> Words:
        """Returns the first epoch in which each slot can belong to its current owner, for the first `rows` slots.

        The shape is (rows,).
        """
        self._since = grow(self._since, rows, FIRST_EPOCH)
        return self._since[:rows]

    def give(self, slots: Indexes) -> None:
        """Puts the given slots into the program's queue of free slots. Raises OSError."""
        for slot in slots.astype(np.uint32):
            libbpf.map_update(self._maps["free_slots"].fd, None, slot.tobytes())

    def take_back(self, reader: object, readers: Collection[object], began_ns: int, found: Found) -> None:
        """Reclaims idle slots, and frees reclaimed slots whose final counts all readers have read.

        This method may clear slots. So call it at the end of each reading, after the last use of `found`.

        reader    the reader that calls this method
        readers   all readers of the collector
        began_ns  the time at which the reading began, on the clock of `now_ns`
        found     the state of the slots in the reading
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
        """Returns the keys of the slots that are reclaimed but not free yet. `slots` is Found.slots."""
        self._grow(len(slots), self.now_ns())
        return np.asarray(slots["key"][self._is_closing[: len(slots)]])

    def end(self, interfaces: Sequence[int], slots: Records) -> None:
        """Frees the slots of removed interfaces. All readers must have delivered the counts of the given interfaces.

        The program processes no packets of removed interfaces, so this method does not wait for GRACE_NS.

        interfaces  the identifiers of the interfaces
        slots       Found.slots
        """
        rows = np.flatnonzero((slots["live"] != 0) & np.isin(slots["key"]["interface"], interfaces))
        rows = self._delete(rows, slots["key"][rows])
        if len(rows):
            self._free(rows)

    def _grow(self, rows: int, now_ns: int) -> None:
        self._events = grow(self._events, rows)
        # A slot may already have an owner when a reader reads the slot for the first time. So the time of the last
        # change of a new slot is initialized to the current time.
        self._changed_ns = grow(self._changed_ns, rows, now_ns)
        self._is_closing = grow(self._is_closing, rows)

    def _close(self, rows: Indexes, keys: Records, now_ns: int, readers: Collection[object]) -> None:
        rows = self._delete(rows, keys)
        self._is_closing[rows] = True
        self._closing.append(_Closing(rows, now_ns + GRACE_NS, weakref.WeakSet(readers)))
        self.retired += len(rows)

    def _delete(self, rows: Indexes, keys: Records) -> Indexes:
        """Deletes the keys of the given rows. Returns the rows whose key was deleted.

        A row whose key was not deleted keeps its owner.
        """
        rows = rows[np.array([libbpf.map_delete(self._maps["subnets"].fd, key.tobytes()) for key in keys], np.bool_)]
        # The epoch is increased after the keys are deleted. So a CPU that reads the new epoch cannot find the deleted
        # keys.
        self._control.epoch += 1
        self._control.write()
        self._since[rows] = self._control.epoch
        return rows

    def _release(self, reader: object, began_ns: int) -> None:
        """Frees the reclaimed slots whose final counts all readers have now read.

        reader    the reader that has just made a reading
        began_ns  the time at which this reading began, on the clock of `now_ns`
        """
        for closing in self._closing:
            if began_ns >= closing.final_ns:
                closing.waiting.discard(reader)
        free = [closing.slots for closing in self._closing if not closing.waiting]
        if not free:
            return
        self._closing = [closing for closing in self._closing if closing.waiting]
        self._free(np.concatenate(free))

    def _free(self, slots: Indexes) -> None:
        """Clears slots whose counts can no longer change, and returns them to the program for reuse."""
        self._clear(slots)
        self._owners[slots] += 1
        self._is_closing[slots] = False
        # At the next reading, the new owner may have exactly as many events as the old owner had. take_back() would not
        # notice the change. So the time of the last change is set when the slot is freed.
        self._changed_ns[slots] = self.now_ns()
        self.give(slots)
        # If no slot was free for a flow, the flow has cached the overflow slot for the present epoch. In a new epoch,
        # the program looks up the flow's slot again.
        self._control.epoch += 1
        self._control.write()

    def _clear(self, slots: Indexes) -> None:
        cpus = possible_cpus()
        for name, each in (("slots", 1), ("histograms", 1), ("flow_counters", 1), ("traffic", cpus)):
            array = self._maps[name]
            zeros = bytes(map_array.map_info(array.fd)["value_size"])
            for row in (slots[:, None] * each + np.arange(each)).ravel().astype(np.uint32):
                libbpf.map_update(array.fd, row.tobytes(), zeros)
