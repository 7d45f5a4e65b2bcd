# SPDX-License-Identifier: Apache-2.0
"""How many TCP flows are active, and which ended in silence.

The program counts what opens, and what FIN or RST closes (bpf/conduct.h). Nobody tells it of a flow that is never heard
of again, or that had to make room in its table; but such a flow isn't found active any more when the table is looked
through, now and then. So what was opened, less what was closed, less what is active, ended in silence.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.memory import Array

# bpf/maps.h
IDLE_NS = 300_000_000_000
_CLOSED = 3
_NO_SLOT = 0  # as what a flow has cached: of an epoch before all
# Least time between two looks through the table, which take as long as all else of a reading does. What ends in silence
# did so IDLE_NS ago: it shows a tenth later.
_LOOKS_NS = IDLE_NS // 10


def _times_and_slots(flows: npt.NDArray[Any]) -> tuple[Counts, Counts]:
    """Rows of the table: time of the last packet, (flows,), and what both ends have cached, (flows, 2)."""
    cached: Counts = flows["cached"].copy()
    cached[flows["state"] == _CLOSED] = _NO_SLOT
    return flows["last_ns"].copy(), cached


class FlowTable:
    """The program's table of flows.

    The clock of `last_ns` is one of the kernel's own (bpf/clock.h), so the latest packet tells what time it is there:
    it is then, and later by as much as passed since that was first found. With the packet's clock nothing passes.
    """

    def __init__(self, flows: Array, sets: Array, *, packet_clock: bool) -> None:
        self._flows, self._sets = flows, sets
        self._packet_clock = packet_clock
        self._latest_ns = 0
        self._found_ns = 0
        self._looked_ns = -_LOOKS_NS

    def _now_ns(self, latest_ns: int) -> int:
        if latest_ns != self._latest_ns:
            self._latest_ns, self._found_ns = latest_ns, time.monotonic_ns()
        return self._latest_ns + (0 if self._packet_clock else time.monotonic_ns() - self._found_ns)

    def _parts(self, taken: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
        """The table, and which rows of it are taken, in parts."""
        for begin, rows in self._flows.windows(self._flows.length):
            first, last = np.searchsorted(taken, (begin, begin + len(rows)))
            yield rows, taken[first:last] - begin

    def active(self, since: npt.NDArray[np.uint32]) -> tuple[Counts | None, int]:
        """Ends of active flows in the subnets of the first slots: (rows,), as is `since`, the epoch in which each was
        last given out. What a flow has cached of an epoch before that was somebody else's.

        None if it isn't time to look again. And how many places of the table are taken, by flows active or not.
        """
        taken = np.flatnonzero(
            self._sets.rows(0, self._sets.length)["tags"] != 0
        )  # of what changes meanwhile, numpy wants a copy
        now_ns = time.monotonic_ns()
        if now_ns < self._looked_ns + _LOOKS_NS and not self._packet_clock:
            return None, len(taken)
        self._looked_ns = now_ns
        # What time it is, is known when all have been seen: until then, 24 bytes of each are kept.
        found = [_times_and_slots(flows[of]) for flows, of in self._parts(taken)]
        last_ns, cached = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # A packet may have come since the clock was read: then `last_ns` is ahead, and wraps around.
        silent_ns = (np.uint64(self._now_ns(int(last_ns.max(initial=0)))) - last_ns).view(np.int64)
        cached = cached[silent_ns <= IDLE_NS].ravel()
        slots = (cached & np.uint64(0xFFFFFFFF)).view(np.int64)
        slots = slots[cached >> np.uint64(32) >= since.take(slots, mode="clip")]
        # A slot beyond the last came into use since the rows were counted.
        return np.bincount(slots, minlength=len(since))[: len(since)].view(np.uint64), len(taken)
