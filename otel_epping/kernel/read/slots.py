# SPDX-License-Identifier: Apache-2.0
"""Gives slots to the program, and takes those of idle subnets back.

Flows and pairs remember slots, so a slot goes to another subnet in two steps (bpf/subnet.h). First its key is deleted
and the epoch raised: from then on nobody finds it, and what is remembered is looked up once more. A run of the program
that had found it before ends within microseconds. So after a grace the row is final; and when every reader has taken
that in, it is cleared and the slot is free. Until then the row counts as ever, for the subnet that it was of; should
that one come back meanwhile, it gets another slot.
"""

import time
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.arrays import Counts, grow
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.program import Map
from otel_epping.kernel.read.control import FIRST_EPOCH, Control
from otel_epping.kernel.reading import OVERFLOW_SLOT

# Far longer than any run of the program.
GRACE_NS = 1_000_000_000

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.uint32]


class Found(NamedTuple):
    """What a reader found in the first slots.

    slots   (rows,) the program's records
    events  (rows,) a number that differs whenever something was counted
    active  (rows,) whether one of the subnet's flows is active, and so the subnet isn't idle
    """

    slots: npt.NDArray[Any]
    events: Counts
    active: npt.NDArray[np.bool_]


@dataclass
class _Closing:
    """Slots that nobody finds any more, final from `final_ns` on; and who hasn't read them since."""

    slots: Rows
    final_ns: int
    waiting: "weakref.WeakSet[Any]"


class Slots:
    """All slots of a program. For one thread at a time: who has ended an interval, before anybody ends the next.

    idle_ns  a slot into which nothing was counted for so long is taken back; 0: none ever is
    retired  how many were taken back, and are free again or will be
    now_ns   the clock by which they are idle: it stands still while the machine is suspended
    """

    def __init__(self, maps: dict[str, Map], control: Control, idle_ns: int) -> None:
        self.idle_ns = idle_ns
        self.retired = 0
        self.now_ns = time.monotonic_ns
        self._maps = maps
        self._control = control
        self._closing: list[_Closing] = []
        self._owners: Numbers = np.zeros(0, np.uint32)
        self._since: Numbers = np.zeros(0, np.uint32)
        self._events: Counts = np.zeros(0, np.uint64)
        self._changed_ns: Rows = np.zeros(0, np.int64)
        self._is_closing = np.zeros(0, np.bool_)

    @property
    def epoch(self) -> int:
        """The number that is raised whenever slots are taken back."""
        return self._control.epoch

    @property
    def is_taking_back(self) -> bool:
        """Whether there is anything to take back, or taken back and not free yet."""
        return bool(self.idle_ns or self._closing)

    def owners(self, rows: int) -> Numbers:
        """How often each of the first slots was taken back: (rows,)"""
        self._owners = grow(self._owners, rows)
        return self._owners[:rows]

    def since(self, rows: int) -> Numbers:
        """The epoch from which on each of the first slots is its owner's: (rows,)"""
        self._since = grow(self._since, rows, FIRST_EPOCH)
        return self._since[:rows]

    def give(self, slots: Rows) -> None:
        """Has the program give these slots to subnets."""
        for slot in slots.astype(np.uint32):
            libbpf.map_update(self._maps["free_slots"].fd, None, slot.tobytes())

    def take_back(self, reader: object, readers: Collection[object], began_ns: int, found: Found) -> None:
        """Called by a reader, one of `readers`, at the end of a reading that began at `began_ns`, by `now_ns`."""
        rows, now_ns = len(found.events), self.now_ns()
        self._grow(rows, now_ns)
        is_live = found.slots["live"] != 0
        self._changed_ns[:rows][(self._events[:rows] != found.events) | found.active | ~is_live] = now_ns
        self._events[:rows] = found.events
        idle = is_live & ~self._is_closing[:rows] & (now_ns - self._changed_ns[:rows] >= self.idle_ns)
        idle[OVERFLOW_SLOT] = False
        if self.idle_ns and idle.any():
            self._close(np.flatnonzero(idle), found.slots["key"][idle], now_ns, readers)
        # At last: what was found of these slots isn't true any more.
        self._release(reader, began_ns)

    def being_closed(self, slots: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The keys of the slots, of a reader's first ones, (rows,), that are taken back and not free yet."""
        self._grow(len(slots), self.now_ns())
        return np.asarray(slots["key"][self._is_closing[: len(slots)]])

    def end(self, interfaces: Sequence[int], slots: npt.NDArray[Any]) -> None:
        """Frees the slots of interfaces, by identifier, which are gone and whose counts all readers have delivered.

        `slots` as in Found. No packet of such an interface is on its way, so it takes no grace.
        """
        rows = np.flatnonzero((slots["live"] != 0) & np.isin(slots["key"]["interface"], interfaces))
        rows = self._delete(rows, slots["key"][rows])
        if len(rows):
            self._free(rows)

    def _grow(self, rows: int, now_ns: int) -> None:
        self._events = grow(self._events, rows)
        # A slot that is new may be live before anything of it is read.
        self._changed_ns = grow(self._changed_ns, rows, now_ns)
        self._is_closing = grow(self._is_closing, rows)

    def _close(self, rows: Rows, keys: npt.NDArray[Any], now_ns: int, readers: Collection[object]) -> None:
        rows = self._delete(rows, keys)
        self._is_closing[rows] = True
        self._closing.append(_Closing(rows, now_ns + GRACE_NS, weakref.WeakSet(readers)))
        self.retired += len(rows)

    def _delete(self, rows: Rows, keys: npt.NDArray[Any]) -> Rows:
        """Has nobody find these rows any more. A key that could not be deleted keeps its slot."""
        rows = rows[np.array([libbpf.map_delete(self._maps["subnets"].fd, key.tobytes()) for key in keys], np.bool_)]
        # In this order: who reads the new epoch does not find the key any more.
        self._control.epoch += 1
        self._control.tell()
        self._since[rows] = self._control.epoch
        return rows

    def _release(self, reader: object, began_ns: int) -> None:
        """Slots that this reader was the last to read are free now."""
        for closing in self._closing:
            if began_ns >= closing.final_ns:
                closing.waiting.discard(reader)
        free = [closing.slots for closing in self._closing if not closing.waiting]
        if not free:
            return
        self._closing = [closing for closing in self._closing if closing.waiting]
        self._free(np.concatenate(free))

    def _free(self, slots: Rows) -> None:
        """Clears slots that are final, and gives them away again."""
        self._clear(slots)
        self._owners[slots] += 1
        self._is_closing[slots] = False
        # The next owner may have counted as much as this one had, when it is first looked at.
        self._changed_ns[slots] = self.now_ns()
        self.give(slots)
        # Flows that found no slot, and remember that, look once more.
        self._control.epoch += 1
        self._control.tell()

    def _clear(self, slots: Rows) -> None:
        cpus = possible_cpus()
        for name, each in (("slots", 1), ("histograms", 1), ("flow_counters", 1), ("traffic", cpus)):
            array = self._maps[name]
            nothing = bytes(map_array.map_info(array.fd)["value_size"])
            for row in (slots[:, None] * each + np.arange(each)).ravel().astype(np.uint32):
                libbpf.map_update(array.fd, row.tobytes(), nothing)
