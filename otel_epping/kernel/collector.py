# SPDX-License-Identifier: Apache-2.0
"""The running collector: the loaded program, the interfaces it watches, and readers of what it counts.

The kernel only ever adds, so reading takes nothing away: any number of readers read whenever they like, a failed export
costs nothing, and what happened between two readings is their difference.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import buckets, libbpf, map_array
from otel_epping.kernel.attach.attachments import Attachments
from otel_epping.kernel.attach.hook_monitor import HookMonitor, look_in_background
from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.clock import Clock
from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.limits import Limits
from otel_epping.kernel.load import loader
from otel_epping.kernel.read.control import Control
from otel_epping.kernel.read.directions import Directions
from otel_epping.kernel.read.flow_table import FlowTable
from otel_epping.kernel.read.interface_counters import InterfaceCounters
from otel_epping.kernel.read.reader import READ, Interval, Reader
from otel_epping.kernel.read.slots import Slots
from otel_epping.kernel.read.waiting import count_waiting

# Slots are given out in order, but for some that two CPUs fought over: where so many are free, all behind them are.
_SLOTS_AHEAD = 1024


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class EppingCollector:
    """Loads the program; a context manager that detaches and frees it. Raises EppingError if it cannot be loaded.

    `directions` is what readers found of flows that can't be measured. `started_ns` is when counting could begin, Unix
    time. `limits` say when a slot goes to another subnet, and what the exporters tell.
    """

    def __init__(self, config: EppingConfig | None = None, limits: Limits | None = None) -> None:
        self.config = config or EppingConfig()
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
        self._end_monitor: Callable[[], None] | None = None
        self._rows = 1
        self._cpus = possible_cpus()
        self._lock = threading.Lock()
        self.slots = Slots(self.program.maps, self._control, self._limits.idle_timeout_ns)
        self._fill_tables()
        self._arrays = {name: map_array.Array(name, self.program.maps[name]) for name in READ}

    def __enter__(self) -> "EppingCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, interface: str, role: Literal["wan", "lan", "mirror"] = "wan") -> None:
        """Attaches the program to both hooks of an interface, and keeps it attached and first there.

        A thread looks at the hooks each second: it attaches the program again when another program took it away, and
        logs what hides packets from it. `role` is what the interface faces:

            wan     packets that arrive come from the external side
            lan     packets that arrive come from the internal side
            mirror  a mirror, SPAN or TAP port: packets of both directions arrive, and no side is known; set `copies` in
                    the configuration to recognize packets that the port shows twice

        Raises EppingError if there is no such interface, if it carries no IP, or if the kernel refuses the program.
        """
        self.attachments.attach(interface, Role[role.upper()])
        if self._end_monitor is None:
            self._end_monitor = look_in_background(HookMonitor(self.attachments, self.packets))

    def detach(self, interface: str) -> None:
        """Detaches the program from an interface. Its counts stay readable until they are exported."""
        self.attachments.detach(interface)

    def _fill_tables(self) -> None:
        """Gives the program the edges of its buckets, its free slots, and leave to count."""
        maps = self.program.maps
        for row, cell in enumerate(buckets.cells(self.config.scale)):
            libbpf.map_update(maps["cells"].fd, np.uint32(row).tobytes(), cell.tobytes())
        self.slots.give(np.arange(1, self.config.max_subnets + 1))
        self._control.write()

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
            counters, numbers = self._arrays["interface_counters"], self.attachments.numbers
            interfaces = InterfaceCounters(counters, numbers, self._cpus, self.started_ns)
            reader = Reader(
                self._arrays, flows, interfaces, self.config, self._next_interval, self.now_ns, self.started_ns
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
    def _next_interval(self, reader: Reader) -> Iterator[Interval]:
        """Ends the program's current interval, and lends the new one to a reader; see bpf/histogram.h.

        No other reader gets an interval meanwhile. Rows in use are counted after the interval ended, so that no slot
        with an RTT in that interval is left out. An RTT that is counted at this moment may update the minimum and the
        maximum of the interval just read, which no reader reads again. Benign: the RTT is in a bucket all the same.
        """
        with self._lock:
            self._control.interval += 1
            self._control.write()
            yield Interval(
                self._control.interval,
                self._count_rows(),
                reader,
                list(self._readers),  # strong references: a reader must not go while two threads read
                self.slots,
                self.directions,
                self.attachments,
            )

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
        return {name: map_array.map_info(entry.fd)["memlock"] for name, entry in self.program.maps.items()}

    def runs(self) -> dict[str, tuple[int, int]]:
        """How often each entry point ran, and for how long, ns; both count while the sysctl kernel.bpf_stats_enabled
        is 1. Nothing after close().
        """
        if not self._program_gone.alive:
            return {}
        infos = {name: map_array.map_info(fd) for name, fd in self.program.entry_points.items()}
        return {name: (info["run_cnt"], info["run_time_ns"]) for name, info in infos.items()}

    @property
    def verified_instructions(self) -> dict[str, int] | None:
        """How many instructions the verifier went through for each entry point (of a million it allows); None if the
        kernel doesn't say, as before Linux 5.16.
        """
        infos = {name: map_array.map_info(fd) for name, fd in self.program.entry_points.items()}
        if not all("verified_insns" in info for info in infos.values()):
            return None
        return {name: info["verified_insns"] for name, info in infos.items()}

    def close(self) -> None:
        """Detaches from all interfaces and releases the program. The maps stay until the last reader is gone."""
        if self._end_monitor:
            self._end_monitor()
            self._end_monitor = None
        self.attachments.detach_all()
        self._program_gone()
