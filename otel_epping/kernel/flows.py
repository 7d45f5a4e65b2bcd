# SPDX-License-Identifier: Apache-2.0
"""How many TCP flows are active, and which ended in silence.

The program counts what opens, and what FIN or RST closes (bpf/conduct.h). Nobody tells it of a flow that is never heard
of again, or that had to make room in its table; but such a flow isn't found active any more when the table is looked
through, once for each reading. So what was opened, less what was closed, less what is active, ended in silence.
"""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import libbpf, memory
from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.loader import Map

# bpf/maps.h
IDLE_NS = 300_000_000_000
_CLOSED = 3
_NO_SLOT = 0  # as what a flow has cached: of an epoch before all


def _times_and_slots(flows: npt.NDArray[Any]) -> tuple[Counts, Counts]:
    """Entries of the table: time of the last packet, (flows,), and what both ends have cached, (flows, 2)."""
    cached = flows["half"]["cached"].copy()
    cached[flows["state"] == _CLOSED] = _NO_SLOT
    return flows["last_ns"].copy(), cached


class FlowTable:
    """The program's table of flows.

    The clock of `last_ns` is one of the kernel's own (bpf/clock.h), so the latest packet tells what time it is there:
    it is then, and later by as much as passed since that was first found. With the packet's clock nothing passes.
    """

    def __init__(self, flows: Map, *, packet_clock: bool) -> None:
        assert flows.layout is not None
        self._fd = flows.fd
        self._key = np.dtype((np.void, memory.map_info(flows.fd)["key_size"]))
        self._value = memory.dtype_of(flows.layout)
        self._packet_clock = packet_clock
        self._latest_ns = 0
        self._found_ns = 0

    def _now_ns(self, latest_ns: int) -> int:
        if latest_ns != self._latest_ns:
            self._latest_ns, self._found_ns = latest_ns, time.monotonic_ns()
        return self._latest_ns + (0 if self._packet_clock else time.monotonic_ns() - self._found_ns)

    def active(self, since: npt.NDArray[np.uint32]) -> tuple[Counts, int]:
        """Ends of active flows in the subnets of the first slots: (rows,), as is `since`, the epoch in which each was
        last given out. What a flow has cached of an epoch before that was somebody else's.

        And how many places of the table are taken, by flows active or not.
        """
        # What time it is, is known when all have been seen: until then, 24 bytes of each are kept.
        found = [_times_and_slots(flows) for _, flows in libbpf.map_batches(self._fd, self._key, self._value)]
        last_ns, cached = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # A packet may have come since the clock was read: then `last_ns` is ahead, and wraps around.
        silent_ns = (np.uint64(self._now_ns(int(last_ns.max(initial=0)))) - last_ns).view(np.int64)
        cached = cached[silent_ns <= IDLE_NS].ravel()
        slots = (cached & np.uint64(0xFFFFFFFF)).view(np.int64)
        slots = slots[cached >> np.uint64(32) >= since.take(slots, mode="clip")]
        # A slot beyond the last came into use since the rows were counted.
        return np.bincount(slots, minlength=len(since))[: len(since)].view(np.uint64), len(last_ns)
