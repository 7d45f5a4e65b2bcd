# SPDX-License-Identifier: Apache-2.0
"""How many TCP flows are active, and which ended in silence.

The program counts what opens, and what FIN or RST closes (bpf/conduct.h). Nobody tells it of a flow that is never heard
of again, or that had to make room in its table; but such a flow isn't found active any more when the table is looked
through, once for each reading. So what was opened, less what was closed, less what is active, ended in silence.
"""

import time

import numpy as np

from otel_epping.kernel import libbpf, memory
from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.loader import Map

# bpf/maps.h
IDLE_NS = 300_000_000_000
_CLOSED = 3


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

    def _find_latest(self) -> None:
        batches = libbpf.map_batches(self._fd, self._key, self._value)
        latest_ns = max((int(flows["last_ns"].max(initial=0)) for _, flows in batches), default=0)
        if latest_ns != self._latest_ns:
            self._latest_ns, self._found_ns = latest_ns, time.monotonic_ns()

    def _now_ns(self) -> int:
        self._find_latest()
        return self._latest_ns + (0 if self._packet_clock else time.monotonic_ns() - self._found_ns)

    def active(self, rows: int, epoch: int) -> tuple[Counts, int]:
        """Ends of active flows in the subnets of the first `rows` slots: (rows,). Slots of other epochs don't count.

        And how many places of the table are taken, by flows active or not.
        """
        now_ns = self._now_ns()
        found = np.zeros(rows, np.uint64)
        taken = 0
        for _, flows in libbpf.map_batches(self._fd, self._key, self._value):
            taken += len(flows)
            # A packet may have come since the clock was read: then `last_ns` is ahead, and wraps around.
            silent_ns = (np.uint64(now_ns) - flows["last_ns"]).view(np.int64)
            is_active = (flows["state"] != _CLOSED) & (silent_ns <= IDLE_NS)
            cached = flows["half"]["cached"][is_active].ravel()
            slots = (cached & np.uint64(0xFFFFFFFF))[cached >> np.uint64(32) == epoch]
            found += np.bincount(slots[slots < rows].astype(np.int64), minlength=rows).astype(np.uint64)
        return found, taken
