# SPDX-License-Identifier: Apache-2.0
"""The running collector: the loaded program, the interfaces it watches, and readers of what it counts.

The kernel only ever adds, so reading takes nothing away: any number of readers read whenever they like, a failed export
costs nothing, and what happened between two readings is their difference.
"""

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from otel_epping.kernel import buckets, libbpf, loader, memory
from otel_epping.kernel.attachments import Attachments
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.flows import FlowTable
from otel_epping.kernel.reader import EPOCH, READ, Interval, Reader

# Slots are given out in order, but for some that two CPUs fought over: where so many are free, all behind them are.
_SLOTS_AHEAD = 1024


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Collector:
    """Loads the program; a context manager that detaches and frees it. Raises EppingError if it cannot be loaded.

    `started_ns` is when counting could begin, Unix time.
    """

    def __init__(self, config: KernelConfig | None = None) -> None:
        self.config = config or KernelConfig()
        self.program = loader.load(self.config)
        weakref.finalize(self, _close, [entry.fd for entry in self.program.maps.values()])
        self._program_gone = weakref.finalize(self, _close, list(self.program.entry_points.values()))
        self.attachments = Attachments(self.program)
        self.started_ns = time.time_ns()
        self._readers: list[Reader] = []
        self._interval = 0
        self._rows = 1
        self._lock = threading.Lock()
        self._fill_tables()
        self._arrays = {name: memory.Array(name, self.program.maps[name]) for name in READ}

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill_tables(self) -> None:
        """Gives the program the edges of its buckets, its free slots, and leave to count."""
        maps = self.program.maps
        for row, cell in enumerate(buckets.cells(self.config.scale)):
            libbpf.map_update(maps["cells"].fd, np.uint32(row).tobytes(), cell.tobytes())
        for slot in np.arange(1, self.config.max_subnets + 1, dtype=np.uint32):
            libbpf.map_update(maps["free_slots"].fd, None, slot.tobytes())
        self._write_control()

    def _write_control(self) -> None:
        value = np.array([EPOCH, self._interval], np.uint32)
        libbpf.map_update(self.program.maps["control"].fd, np.uint32(0).tobytes(), value.tobytes())

    def now_ns(self) -> int:
        """Unix time of a reading that is taken now."""
        return time.time_ns()

    def reader(self) -> Reader:
        """A new reader; each keeps its own place."""
        with self._lock:
            flows = FlowTable(self._arrays["flows"], self._arrays["flow_sets"], packet_clock=self.config.packet_clock)
            reader = Reader(self._arrays, flows, self.config, self.attachments, self._next_interval, self.now_ns)
            self._readers.append(reader)
        return reader

    def _count_rows(self) -> int:
        """How many rows have, or had, a live slot among them; row 0 is in use always."""
        slots = self._arrays["slots"]
        while self._rows < slots.length:
            ahead = slots.rows(self._rows, min(self._rows + _SLOTS_AHEAD, slots.length))
            live = np.flatnonzero(ahead["live"])
            if not len(live):
                break
            self._rows += int(live[-1]) + 1
        return self._rows

    @contextmanager
    def _next_interval(self) -> Iterator[Interval]:
        """Ends the program's current interval, whose extremes are to be handed to all readers; see bpf/histogram.h.

        No other reader ends the next one meanwhile. Rows in use are counted after the interval ended, so that no slot
        with an extreme in it is left out. An RTT being counted at this very moment may put its extreme into the
        interval just read, where nobody looks again. Benign: its count is in a bucket all the same.
        """
        with self._lock:
            self._interval += 1
            self._write_control()
            yield Interval(self._interval, self._count_rows(), self._readers)

    @property
    def kernel_bytes(self) -> dict[str, int]:
        """Kernel memory of each map, as the kernel accounts it."""
        return {name: memory.map_info(entry.fd)["memlock"] for name, entry in self.program.maps.items()}

    @property
    def verified_instructions(self) -> dict[str, int]:
        """How many instructions the verifier went through for each entry point (of a million it allows)."""
        return {name: memory.map_info(fd)["verified_insns"] for name, fd in self.program.entry_points.items()}

    def close(self) -> None:
        """Detaches from every interface and lets the program go. Its maps stay until the last reader is gone."""
        self.attachments.detach_all()
        self._program_gone()
