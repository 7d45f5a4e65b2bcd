# SPDX-License-Identifier: Apache-2.0
"""The running collector: the loaded program, the interfaces it watches, and readers of what it counts.

The kernel only ever adds, so reading takes nothing away: any number of readers read whenever they like, a failed export
costs nothing, and what happened between two readings is their difference.
"""

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import buckets, libbpf, loader, memory
from otel_epping.kernel.attachments import Attachments
from otel_epping.kernel.clock import Clock
from otel_epping.kernel.config import KernelConfig, possible_cpus
from otel_epping.kernel.control import Control
from otel_epping.kernel.directions import Directions
from otel_epping.kernel.flows import FlowTable
from otel_epping.kernel.limits import Limits
from otel_epping.kernel.reader import READ, Interval, Reader
from otel_epping.kernel.slots import Slots
from otel_epping.kernel.waiting import count_waiting

# Slots are given out in order, but for some that two CPUs fought over: where so many are free, all behind them are.
_SLOTS_AHEAD = 1024


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Collector:
    """Loads the program; a context manager that detaches and frees it. Raises EppingError if it cannot be loaded.

    `directions` is what readers found of flows that can't be measured. `started_ns` is when counting could begin, Unix
    time. `limits` say when a slot goes to another subnet, and what the exporters tell.
    """

    def __init__(self, config: KernelConfig | None = None, limits: Limits | None = None) -> None:
        self.config = config or KernelConfig()
        self._limits = limits or Limits()
        self.program = loader.load(self.config)
        maps_gone = weakref.finalize(self, _close, [entry.fd for entry in self.program.maps.values()])
        self._program_gone = weakref.finalize(self, _close, list(self.program.entry_points.values()))
        # At exit the kernel closes them, and what is called before that may read still.
        maps_gone.atexit = self._program_gone.atexit = False
        self.directions = Directions()
        self.attachments = Attachments(self.program, self.config.hook)
        self._clock = Clock()
        self.started_ns = self._clock()
        # Nobody waits for a reader that is no more.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._control = Control(self.program.maps["control"])
        self._rows = 1
        self._cpus = possible_cpus()
        self._lock = threading.Lock()
        self.slots = Slots(self.program.maps, self._control, self._limits.idle_timeout_ns)
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
        self.slots.give(np.arange(1, self.config.max_subnets + 1))
        self._control.tell()

    @property
    def limits(self) -> Limits:
        """The bounds that hold."""
        return self._limits

    def limit(self, limits: Limits) -> None:
        """Has other bounds hold from the next readings on; not for a collector that had none when a reader was made."""
        with self._lock:
            self._limits, self.slots.idle_ns = limits, limits.idle_timeout_ns

    def now_ns(self) -> int:
        """Unix time of a reading that is taken now; each is later than the one before."""
        return self._clock()

    def reader(self) -> Reader:
        """A new reader; each keeps its own place."""
        with self._lock:
            flows = FlowTable(self._arrays["flows"], self._arrays["flow_sets"], packet_clock=self.config.packet_clock)
            reader = Reader(
                self._arrays, flows, self.config, self.attachments, self._next_interval, self.now_ns, self.started_ns
            )
            self._readers.add(reader)
        return reader

    def _count_rows(self) -> int:
        """How many rows have, or had, a live slot among them; row 0 is in use always."""
        slots = self._arrays["slots"]
        while self._rows < slots.length:
            ahead = slots.rows(self._rows, min(self._rows + _SLOTS_AHEAD, slots.length))
            live = np.flatnonzero(ahead["live"] != 0)
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
            self._control.interval += 1
            self._control.tell()
            yield Interval(self._control.interval, self._count_rows(), self._readers, self.slots, self.directions)

    def waiting(self) -> int:
        """Packets that were timed and wait for their reply."""
        return count_waiting(self._arrays["flows"], self.program.maps["transactions"])

    def packets(self, numbers: Sequence[int]) -> npt.NDArray[np.int64]:
        """Packets received and transmitted on interfaces, by their numbers: (len(numbers), 2)."""
        rows = self._arrays["interface_counters"].rows(0, (max(numbers) + 1) * self._cpus)
        ways = [rows[way]["packets"].sum(axis=1, dtype=np.int64) for way in ("received", "transmitted")]
        return np.stack([way.reshape(-1, self._cpus)[numbers].sum(axis=1) for way in ways], axis=1)

    @property
    def kernel_bytes(self) -> dict[str, int]:
        """Kernel memory of each map, as the kernel accounts it."""
        return {name: memory.map_info(entry.fd)["memlock"] for name, entry in self.program.maps.items()}

    def runs(self) -> dict[str, tuple[int, int]]:
        """How often each entry point ran, and for how long, ns; both count while the sysctl kernel.bpf_stats_enabled
        is 1. Nothing after close().
        """
        if not self._program_gone.alive:
            return {}
        infos = {name: memory.map_info(fd) for name, fd in self.program.entry_points.items()}
        return {name: (info["run_cnt"], info["run_time_ns"]) for name, info in infos.items()}

    @property
    def verified_instructions(self) -> dict[str, int] | None:
        """How many instructions the verifier went through for each entry point (of a million it allows); None if the
        kernel doesn't say, as before Linux 5.16.
        """
        infos = {name: memory.map_info(fd) for name, fd in self.program.entry_points.items()}
        if not all("verified_insns" in info for info in infos.values()):
            return None
        return {name: info["verified_insns"] for name, info in infos.items()}

    def close(self) -> None:
        """Detaches from every interface and lets the program go. Its maps stay until the last reader is gone."""
        self.attachments.detach_all()
        self._program_gone()
