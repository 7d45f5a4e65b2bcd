# SPDX-License-Identifier: Apache-2.0
"""Decides which slots are reclaimed, and when a reclaimed slot is free.

Four kinds of slots are reclaimed:

- slots of newcomers that have not answered for NEWCOMER_NS (bpf/subnet.h)
- slots in which nothing was counted during the idle timeout
- slots of earlier named networks, and of subnets that are now inside a named network (named_networks.py)
- the quietest slots of the largest covering prefixes, if too few slots, histograms or blocks are free

Flows and the slot cache store the numbers of slots. So a slot gets a new owner in three steps:

1. The agent deletes the key of the old owner, and increases the epoch. After step 1, no look-up finds the slot. If a
   flow or the slot cache has stored a slot in an earlier epoch, the program looks up the slot again.
2. The agent waits for GRACE_NS. Each run of the program ends within microseconds, so by then no run uses the slot any
   more. So after GRACE_NS, the counts of the slot are final, which means that they cannot change any more.
3. When all readers have read the final counts, the agent clears the slot and puts it into the queue of free slots.
   Readers do not need to read the final counts of a newcomer, because these counts are added to `folded`.

Until step 3, readers add the counts of the slot to its old owner. If a packet of the old owner arrives before step 3,
the old owner gets another slot.
"""

import time
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Times, Words, grow
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read import claims
from otel_epping.kernel.read.control import FIRST_EPOCH, Control
from otel_epping.kernel.read.evictions import victims
from otel_epping.kernel.read.slot_tables import (
    ANSWERED,
    FREE,
    NEWCOMER,
    SlotTables,
    covering_of,
    sketch_of,
    states_of,
)
from otel_epping.kernel.read.subnet_counters import SubnetCounters

# The time in ns after which the counts of a reclaimed slot are final. This time is far longer than any run of the
# program.
GRACE_NS = 1_000_000_000
# The time in ns for which a newcomer keeps its slot. A newcomer that answers later gets a slot with its first RTT.
NEWCOMER_NS = 10_000_000_000
# If less than 1 / _SCARCE of the histograms or of the blocks is free, slots are reclaimed even if enough slots are
# free.
_SCARCE = 8
# If histograms or blocks are scarce, a reading reclaims 1 / _STEP of the slots.
_STEP = 32


class Found(NamedTuple):
    """The state of the first `rows` slots when a reader read them.

    slots     (rows,) the program's records
    events    (rows,) a number that changes whenever a packet is counted in the slot
    active    (rows,) true if the subnet has an active flow. A subnet with an active flow is not idle
    obsolete  (rows,) true if the slot must be reclaimed, because its owner no longer exists
    """

    slots: Records
    events: Counts
    active: Flags
    obsolete: Flags


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
    """All slots of a program. Only the thread that holds the collector's lock may use this object.

    idle_ns  the idle timeout in ns: a slot is reclaimed if nothing was counted in the slot during this time; 0 if slots
             are only reclaimed to make room
    retired  the number of slots of answered subnets that were reclaimed since the start
    folded   (counters,) the sum of the counts of all newcomers whose slots were freed, as a row of SubnetCounters
    now_ns   the clock for idle times, in ns. This clock does not advance while the machine is suspended
    """

    def __init__(
        self, tables: SlotTables, counters: SubnetCounters, control: Control, config: EppingConfig, idle_ns: int
    ) -> None:
        self.idle_ns = idle_ns
        self.retired = 0
        self.now_ns = time.monotonic_ns
        self.folded = counters.zero()
        self._tables, self._counters, self._control, self._config = tables, counters, control, config
        self._newcomers: list[_Closing] = []
        self._closing: list[_Closing] = []
        self._owners: Words = np.zeros(0, np.uint32)
        self._histogram_owners: Words = np.zeros(0, np.uint32)
        self._since: Words = np.zeros(0, np.uint32)
        self._events: Counts = np.zeros(0, np.uint64)
        self._changed_ns: Times = np.zeros(0, np.int64)
        self._is_closing = np.zeros(0, np.bool_)

    @property
    def epoch(self) -> int:
        """A number that is increased whenever slots are reclaimed or become free."""
        return self._control.epoch

    def owners(self, rows: int) -> Words:
        """Returns the number of times that each of the first `rows` slots was freed. The shape is (rows,)."""
        self._owners = grow(self._owners, rows)
        return self._owners[:rows]

    def histogram_owners(self, rows: int) -> Words:
        """Returns the number of times that each of the first `rows` histograms was freed. The shape is (rows,)."""
        self._histogram_owners = grow(self._histogram_owners, rows)
        return self._histogram_owners[:rows]

    def since(self, rows: int) -> Words:
        """Returns the first epoch in which each slot can belong to its current owner, for the first `rows` slots.

        The shape is (rows,).
        """
        self._since = grow(self._since, rows, FIRST_EPOCH)
        return self._since[:rows]

    def usage(self) -> dict[str, int]:
        """Returns how many slots, newcomers, histograms and blocks are in use, by name."""
        used = self._tables.claims.in_use
        rows = {
            "slots": claims.SLOTS,
            "newcomers": claims.NEWCOMERS,
            "histograms": claims.HISTOGRAMS,
            "blocks": claims.BLOCKS,
        }
        return {name: used(row) for name, row in rows.items()}

    # ---- newcomers

    @property
    def has_newcomers(self) -> bool:
        """True if at least one slot belongs to a newcomer."""
        return bool(self._tables.claims.in_use(claims.NEWCOMERS))

    def fold_newcomers(self, slots: Records, readers: Collection[Any]) -> None:
        """Reclaims each slot that a newcomer has had for NEWCOMER_NS.

        A later call frees the slot when its counts are final.

        slots    (rows,) the program's records of the slots in use
        readers  all readers of the collector. Their sketches get the freed newcomers
        """
        rows, now_ns = len(slots), self.now_ns()
        self._grow(rows, now_ns)
        is_newcomer = states_of(slots) == NEWCOMER  # read first: a slot with a state has a creation time
        age_ns = now_ns - slots["created_ns"].astype(np.int64)
        old = np.flatnonzero(is_newcomer & ~self._is_closing[:rows] & (age_ns >= NEWCOMER_NS))
        if len(old):
            old = self._delete(old, slots["key"][old])
            self._newcomers.append(_Closing(old, self.now_ns() + GRACE_NS, weakref.WeakSet()))
        for closing in [each for each in self._newcomers if now_ns >= each.final_ns]:
            self._fold(closing.slots, slots, readers)
            self._newcomers.remove(closing)

    def _fold(self, rows: Indexes, slots: Records, readers: Collection[Any]) -> None:
        """Adds the counts of newcomers to `folded`, and frees the slots of the newcomers.

        If a newcomer has answered while its key was being deleted, its slot is reclaimed like the slots of other
        answered subnets.
        """
        answered = states_of(slots[rows]) == ANSWERED
        if answered.any():
            self._closing.append(_Closing(rows[answered], self.now_ns(), weakref.WeakSet(readers)))
            self.retired += int(np.count_nonzero(answered))
            rows = rows[~answered]
        if not len(rows):
            return
        counts, sketch = self._counters.sum_of(rows), sketch_of(slots[rows])
        self._free(rows)
        self.folded += counts
        for reader in readers:
            reader.sketch.add(*sketch)

    # ---- answered subnets

    def take_back(self, reader: object, readers: Collection[object], began_ns: int, found: Found) -> None:
        """Reclaims the slots of idle subnets, obsolete slots, and further slots if room is needed.

        Frees the reclaimed slots whose final counts all readers have read.

        This method may clear slots. So call it at the end of each reading, after the last use of `found`.

        reader    the reader that calls this method
        readers   all readers of the collector
        began_ns  the time at which the reading began, on the clock of `now_ns`
        found     the state of the slots in the reading
        """
        rows, now_ns = len(found.events), self.now_ns()
        self._grow(rows, now_ns)
        states = states_of(found.slots)
        is_changed = (self._events[:rows] != found.events) | found.active | (states == FREE)
        self._changed_ns[:rows][is_changed] = now_ns
        self._events[:rows] = found.events
        candidates = np.flatnonzero((states == ANSWERED) & ~self._is_closing[:rows])
        changed_ns = self._changed_ns[candidates]
        goes = (now_ns - changed_ns >= self.idle_ns) & (self.idle_ns != 0) | found.obsolete[candidates]
        staying = np.flatnonzero(~goes)
        missing = min(self._missing() - int(np.count_nonzero(goes)), len(staying))
        if missing > 0:
            covering = covering_of(found.slots[candidates[staying]])
            goes[staying[victims(covering, changed_ns[staying], missing)]] = True
        leaving = candidates[goes]
        if len(leaving):
            leaving = self._delete(leaving, found.slots["key"][leaving])
        if len(leaving):
            self._closing.append(_Closing(leaving, self.now_ns() + GRACE_NS, weakref.WeakSet(readers)))
            self.retired += len(leaving)
        self._release(reader, began_ns)

    def _missing(self) -> int:
        """Returns the number of slots that must be reclaimed to make room. It is negative if there is room."""
        used, config = self.usage(), self._config
        closing = sum(len(each.slots) for each in (*self._closing, *self._newcomers))
        missing = used["slots"] - closing - (config.max_slots - config.reserve)
        scarce = used["histograms"] > config.max_histograms - max(1, config.max_histograms // _SCARCE) or used[
            "blocks"
        ] > config.max_blocks - max(1, config.max_blocks // _SCARCE)
        if scarce and not self._closing:
            missing = max(missing, 1, config.max_slots // _STEP)
        return missing

    def closing_keys(self, slots: Records) -> Records:
        """Returns the keys of the slots that are reclaimed but not free yet. `slots` is Found.slots."""
        self._grow(len(slots), self.now_ns())
        return np.asarray(slots["key"][self._is_closing[: len(slots)]])

    def end(self, interfaces: Sequence[int], slots: Records) -> None:
        """Frees the slots of removed interfaces. All readers must have delivered the counts of the given interfaces.

        The program processes no packets of removed interfaces, so this method does not wait for GRACE_NS.

        interfaces  the identifiers of the interfaces
        slots       (rows,) the program's records of the slots in use. No slot may have been freed since they were read
        """
        rows = np.flatnonzero((states_of(slots) != FREE) & np.isin(slots["key"]["interface"], interfaces))
        rows = self._delete(rows, slots["key"][rows])
        if len(rows):
            counts = self._counters.sum_of(rows[states_of(slots[rows]) == NEWCOMER])
            self._free(rows)
            self.folded += counts

    # ---- steps

    def _grow(self, rows: int, now_ns: int) -> None:
        self._events = grow(self._events, rows)
        # A slot may already have an owner when a reader reads the slot for the first time. So the time of the last
        # change of a new slot is initialized to the current time.
        self._changed_ns = grow(self._changed_ns, rows, now_ns)
        self._is_closing = grow(self._is_closing, rows)

    def _delete(self, rows: Indexes, keys: Records) -> Indexes:
        """Deletes the keys of the given rows. Returns the rows whose key was deleted.

        A row whose key was not deleted keeps its owner.
        """
        rows = rows[self._tables.delete_keys(keys)]
        # The epoch is increased after the keys are deleted. So a CPU that reads the new epoch cannot find the deleted
        # keys.
        self._control.begin_epoch()
        self.since(len(self._is_closing))[rows] = self._control.epoch
        self._is_closing[rows] = True
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
        histograms = self._tables.free(slots)
        self.owners(len(self._is_closing))[slots] += 1
        if len(histograms):
            self.histogram_owners(max(len(self._histogram_owners), int(histograms.max()) + 1))[histograms] += 1
        self._is_closing[slots] = False
        # At the next reading, the new owner may have exactly as many events as the old owner had. take_back() would not
        # notice the change. So the time of the last change is set when the slot is freed.
        self._changed_ns[slots] = self.now_ns()
        # If no slot was free for a flow, the flow has cached a shared slot for the present epoch. In a new epoch, the
        # program looks up the flow's slot again.
        self._control.begin_epoch()
