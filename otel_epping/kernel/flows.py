# SPDX-License-Identifier: Apache-2.0
"""How many TCP flows are active, and which ended in silence.

The program counts flows that open, and flows that a FIN or RST closes (bpf/tcp_counters.h). It does not notice a flow
that falls silent or is evicted from the table. This module scans the table now and then, and such a flow is no longer
active there. So flows opened, minus flows closed, minus active flows, are the flows that ended in silence.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import directions
from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.memory import Array

# bpf/flow_maps.h, bpf/flow_table.h
IDLE_NS = 300_000_000_000
_CLOSED = 3
_TAG_ANSWERED = 2
_NO_SLOT = 0  # as what a flow has cached: of an epoch before all
# Least time between two looks through the table, which take as long as all else of a reading does. What ends in silence
# did so IDLE_NS ago: it shows a tenth later.
_LOOKS_NS = IDLE_NS // 10
_SOON_NS = 1_000_000_000


class _Part(NamedTuple):
    """Some flows of the table.

    last_ns   (flows,) time of the last packet
    cached    (flows, 2) what both ends have cached; _NO_SLOT for a flow that is closed
    interface (flows,) identifier of the interface
    answered  (flows,) whether both ends were heard
    compared  (n,) flows of which one end was heard, as indexes; of many, some
    keys      (n,) their keys
    """

    last_ns: Counts
    cached: Counts
    interface: npt.NDArray[Any]
    answered: npt.NDArray[np.bool_]
    compared: npt.NDArray[np.int64]
    keys: npt.NDArray[Any]


def _part(flows: npt.NDArray[Any], answered: npt.NDArray[np.bool_], share: int) -> _Part:
    """What a look needs of rows of the table; `share` as in directions.pick()."""
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
    """The program's table of flows.

    The clock of `last_ns` is one of the kernel's own (bpf/clock.h), so the latest packet tells what time it is there:
    it is then, and later by as much as passed since that was first found. With the packet's clock nothing passes.

    gone        identifiers of interfaces that went away: their flows are not heard any more, so none of these is active
    directions  what the latest call of active() found of each interface, by identifier; None if it was no time to look
    """

    def __init__(self, flows: Array, sets: Array, *, packet_clock: bool) -> None:
        self._flows, self._sets = flows, sets
        self._packet_clock = packet_clock
        self._latest_ns = 0
        self._found_ns = 0
        self._looked_ns = -_LOOKS_NS
        self._due_ns = 0
        self.gone: frozenset[int] = frozenset()
        self.directions: dict[int, directions.Flows] | None = None

    def _now_ns(self, latest_ns: int) -> int:
        if latest_ns != self._latest_ns:
            self._latest_ns, self._found_ns = latest_ns, time.monotonic_ns()
        return self._latest_ns + (0 if self._packet_clock else time.monotonic_ns() - self._found_ns)

    def _parts(self, taken: npt.NDArray[np.int64], answered: npt.NDArray[np.bool_], share: int) -> Iterator[_Part]:
        """The rows of the table that are taken, in parts, of which there is at least one."""
        for begin, rows in self._flows.windows(self._flows.length):
            first, last = np.searchsorted(taken, (begin, begin + len(rows)))
            yield _part(rows[taken[first:last] - begin], answered[first:last], share)

    def end(self, gone: frozenset[int]) -> None:
        """Has flows of these interfaces end in silence; if that is news, active() looks at once."""
        if gone - self.gone:
            self._due_ns = 0
        self.gone = gone

    def look_soon(self) -> None:
        """Has active() look out of turn."""
        self._due_ns = min(self._due_ns, self._looked_ns + _SOON_NS)

    def active(self, since: npt.NDArray[np.uint32]) -> tuple[Counts | None, int]:
        """Ends of active flows in the subnets of the first slots: (rows,), as is `since`, the epoch in which each was
        last given out. What a flow has cached of an epoch before that was somebody else's.

        None if it isn't time to look again. And how many places of the table are taken, by flows active or not.
        """
        self.directions = None
        # Of what changes meanwhile, numpy wants a copy.
        tags = self._sets.rows(0, self._sets.length)["tags"].copy().ravel()
        taken = np.flatnonzero(tags)
        now_ns = time.monotonic_ns()
        if now_ns < self._due_ns and not self._packet_clock:
            return None, len(taken)
        self._looked_ns, self._due_ns = now_ns, now_ns + _LOOKS_NS
        # What time it is, is known when all have been seen: until then, some 30 bytes of each are kept.
        answered = tags[taken] & _TAG_ANSWERED != 0
        share = directions.share(int(np.count_nonzero(~answered)))
        parts = list(self._parts(taken, answered, share))
        last_ns, cached, interface, answered = (np.concatenate([part[field] for part in parts]) for field in range(4))
        # A packet may have come since the clock was read: then `last_ns` is ahead, and wraps around.
        silent_ns = (np.uint64(self._now_ns(int(last_ns.max(initial=0)))) - last_ns).view(np.int64)
        is_active = silent_ns <= IDLE_NS
        if self.gone:
            is_active &= ~np.isin(interface, list(self.gone))
        begins = np.cumsum([0, *(len(part.last_ns) for part in parts)])
        compared = np.concatenate([begin + part.compared for begin, part in zip(begins[:-1], parts, strict=True)])
        keys = np.concatenate([part.keys for part in parts])[is_active[compared]]
        self.directions = directions.count(interface[answered & is_active], keys, share)
        cached = cached[is_active].ravel()
        slots = (cached & np.uint64(0xFFFFFFFF)).view(np.int64)
        slots = slots[cached >> np.uint64(32) >= since.take(slots, mode="clip")]
        # A slot beyond the last came into use since the rows were counted.
        return np.bincount(slots, minlength=len(since))[: len(since)].view(np.uint64), len(taken)
