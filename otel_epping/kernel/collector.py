# SPDX-License-Identifier: Apache-2.0
"""The collector consists of the loaded program, the watched interfaces, and the readers of the program's counts.

The program only increases its counts, and readers do not reset the counts. So any number of readers can read the counts
at any time, and no counts are lost if an export fails. The counts of an interval are the difference between two
readings.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from otel_epping.errors import EppingError
from otel_epping.kernel import buckets, libbpf, map_array
from otel_epping.kernel.attach.attachments import Attachments
from otel_epping.kernel.attach.hook_monitor import HookMonitor, check_in_background
from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.config import IDLE_TIMEOUT_NS, IDLE_TIMEOUTS_NS, EppingConfig, possible_cpus
from otel_epping.kernel.load import loader
from otel_epping.kernel.read.control import Control
from otel_epping.kernel.read.directions import Directions
from otel_epping.kernel.read.flow_table import FlowTable
from otel_epping.kernel.read.interface_counters import InterfaceCounters
from otel_epping.kernel.read.named_networks import NamedNetworks
from otel_epping.kernel.read.reader import READ, Interval, Reader
from otel_epping.kernel.read.rows_in_use import RowsInUse
from otel_epping.kernel.read.slot_tables import SlotTables
from otel_epping.kernel.read.slots import Slots
from otel_epping.kernel.read.subnet_counters import SubnetCounters
from otel_epping.kernel.read.waiting_rtts import count_waiting
from otel_epping.kernel.reading import SHARED_SLOTS
from otel_epping.kernel.wall_clock import Clock
from otel_epping.networks.network import Networks

_log = logging.getLogger(__name__)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _check_idle_timeout(idle_timeout_ns: int) -> None:
    least, greatest = IDLE_TIMEOUTS_NS
    if not least <= idle_timeout_ns <= greatest:
        raise EppingError(f"idle_timeout_ns is {idle_timeout_ns}: it must be from {least} to {greatest}")


class EppingCollector:
    """Loads the program. At the end of a `with` block, the collector detaches and closes the program.

    `directions` contains the flows that readers have found and whose RTTs cannot be measured. `started_ns` is the Unix
    time in ns when the program was loaded. If nothing was counted for a subnet during `idle_timeout_ns`, its slots are
    freed. If `idle_timeout_ns` is 0, the slots of idle subnets are freed only when the table of slots is nearly full.
    `networks` are the named networks in use. Call change_networks() to change them.

    Raises EppingError if the program cannot be loaded.
    """

    def __init__(
        self,
        config: EppingConfig | None = None,
        idle_timeout_ns: int = IDLE_TIMEOUT_NS,
        networks: Networks | None = None,
    ) -> None:
        self.config = config or EppingConfig()
        if networks is not None:
            self.config = replace(self.config, named_networks=True, named_prefixes=len(networks.prefixes))
        self.networks = Networks()
        _check_idle_timeout(idle_timeout_ns)
        self.program = loader.load(self.config)
        close_maps = weakref.finalize(self, _close, [entry.fd for entry in self.program.maps.values()])
        self._close_program = weakref.finalize(self, _close, list(self.program.entry_points.values()))
        # The finalizers do not run when the interpreter exits, because other exit handlers may still read the maps. The
        # kernel closes the descriptors when the process ends.
        close_maps.atexit = self._close_program.atexit = False
        self.directions = Directions()
        self._control = Control(self.program.maps["control"])
        self.attachments = Attachments(self.program, self.config.hook, self._control.begin_epoch)
        self._clock = Clock()
        self.started_ns = self._clock()
        # A slot is freed when all readers have read its final counts. The set contains weak references. So a reader
        # that is no longer used does not delay the freeing of slots.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._end_monitor: Callable[[], None] | None = None
        self._cpus = possible_cpus()
        self._lock = threading.Lock()
        self._arrays = {name: map_array.Array(name, self.program.maps[name]) for name in READ}
        counters = SubnetCounters(self._arrays["traffic"], self._arrays["flow_counters"], self._cpus)
        tables = SlotTables(self.program.maps, self._arrays, self.config)
        self.slots = Slots(tables, counters, self._control, self.config, idle_timeout_ns)
        self._networks = NamedNetworks(self.program.maps, self._control, self.config)
        self._slots_in_use = RowsInUse(self._arrays["slots"], "state", SHARED_SLOTS)
        self._histograms_in_use = RowsInUse(self._arrays["histograms"], "slot", 1)
        self._fill(tables)
        if networks is not None:
            self.change_networks(networks)

    def __enter__(self) -> "EppingCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, interface: str, role: Literal["wan", "lan", "mirror"] = "wan") -> None:
        """Attaches the program to both hooks of an interface. The program is the first program on each hook.

        A thread checks the hooks each second, and calls fold_newcomers(). If another process has detached the program,
        the thread attaches the program again. If another program may run before the collector's program, the thread
        moves the collector's program to the front. If the program does not receive all packets, the thread logs the
        cause. `role` is the position of the interface in the network:

            wan     incoming packets come from the external side
            lan     incoming packets come from the internal side
            mirror  a mirror, SPAN or TAP port: packets of both directions arrive, and the program does not know from
                    which side a packet comes. If packets can arrive twice, set `copies` in the configuration

        Raises EppingError if the interface does not exist, is down or does not carry IP, or if the kernel refuses to
        attach the program.
        """
        self.attachments.attach(interface, Role[role.upper()])
        if self._end_monitor is None:
            monitor = HookMonitor(self.attachments, self.interface_packets)
            self._end_monitor = check_in_background(monitor, self.fold_newcomers)

    def detach(self, interface: str) -> None:
        """Detaches the program from an interface. The interface's counts stay readable until they are exported."""
        self.attachments.detach(interface)

    def _fill(self, tables: SlotTables) -> None:
        """Writes the table of cells, the blocks of the overflow histogram and the first epoch.

        Call this method before the program is attached.
        """
        maps = self.program.maps
        for row, cell in enumerate(buckets.cells(self.config.scale)):
            libbpf.map_update(maps["cells"].fd, np.uint32(row).tobytes(), cell.tobytes())
        tables.prepare_overflow()
        self._control.write()

    @property
    def idle_timeout_ns(self) -> int:
        """The time in ns after which the slots of an idle subnet are freed; 0 if there is no such time."""
        return self.slots.idle_ns

    def change_idle_timeout(self, idle_timeout_ns: int) -> None:
        """Sets the idle timeout in ns, from the next reading on. Raises EppingError for a value out of range."""
        _check_idle_timeout(idle_timeout_ns)
        with self._lock:
            self.slots.idle_ns = idle_timeout_ns

    def change_networks(self, networks: Networks) -> None:
        """Replaces the named networks, all at once. Takes up to 2 s for 100,000 prefixes.

        A network with the same name and the same tags keeps its slots, even if its prefixes have changed. The slots of
        all other earlier networks, and the slots of subnets that are now inside a named network, are freed when all
        readers have read their final counts. The size of the slot cache does not change. So if there are many more
        prefixes than at the start, packets may take longer. Raises EppingError if the collector was created without
        named networks.
        """
        if not self.config.named_networks:
            raise EppingError("the kernel program was loaded without named networks: set named_networks in the config")
        with self._lock:
            self._networks.change(networks)
            self.networks = networks

    def now_ns(self) -> int:
        """Returns the current Unix time in ns, as the time of a reading.

        Each result is later than the previous result.
        """
        return self._clock()

    def reader(self) -> Reader:
        """Returns a new reader. Each reader keeps its own state, so readers do not affect each other."""
        with self._lock:
            flows = FlowTable(self._arrays["flows"], self._arrays["flow_sets"], packet_clock=self.config.packet_clock)
            counters, numbers = self._arrays["interface_counters"], self.attachments.numbers
            interfaces = InterfaceCounters(counters, numbers, self._cpus, self.started_ns)
            reader = Reader(
                self._arrays, flows, interfaces, self.config, self._next_interval, self.now_ns, self.started_ns
            )
            self._readers.add(reader)
        return reader

    def fold_newcomers(self) -> None:
        """Reclaims the slots of subnets that have not answered for some seconds. Call this method once per second.

        Does nothing while a reader reads, because each reading also reclaims these slots.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self.slots.has_newcomers:
                rows = self._arrays["slots"].rows(0, self._slots_in_use.count())
                self.slots.fold_newcomers(rows, list(self._readers))
        except (OSError, MemoryError) as error:  # numpy raises MemoryError
            _log.warning("cannot reclaim the slots of subnets without an RTT (%s): trying again in 1 s", error)
        finally:
            self._lock.release()

    @contextmanager
    def _next_interval(self, reader: Reader) -> Iterator[Interval]:
        """Ends the program's current interval, and lets one reader use the new interval (bpf/histogram.h).

        No other reader gets an interval before the `with` block ends. The collector first ends the old interval, and
        then counts the rows in use. So the counted rows include each slot that has an RTT in the old interval.

        Benign race: while the interval ends, a CPU may be recording an RTT. The CPU may then update the minimum or
        maximum of the old interval after the reader has read the old interval. The late update is lost, because no
        reader reads the old interval again. The RTT itself is counted in its bucket.
        """
        with self._lock:
            self._control.begin_interval()
            yield Interval(
                self._control.interval,
                self._slots_in_use.count(),
                self._histograms_in_use.count(),
                reader,
                list(self._readers),  # strong references, so that no reader is freed while two threads read
                self.slots,
                self._networks,
                self.directions,
                self.attachments,
            )

    def waiting(self) -> int:
        """Returns the number of RTT samples that wait for a reply."""
        return count_waiting(self._arrays["flows"], self.program.maps["transactions"])

    def interface_packets(self, numbers: Sequence[int]) -> npt.NDArray[np.int64]:
        """Returns how many packets each interface has received and transmitted. The shape is (len(numbers), 2).

        numbers  the numbers of the interfaces
        """
        rows = self._arrays["interface_counters"].rows(0, (max(numbers) + 1) * self._cpus)
        counts = [rows[direction]["packets"].sum(axis=1, dtype=np.int64) for direction in ("received", "transmitted")]
        return np.stack([count.reshape(-1, self._cpus)[numbers].sum(axis=1) for count in counts], axis=1)

    @property
    def kernel_bytes(self) -> dict[str, int]:
        """The memory in bytes that the kernel reports for each map, by the name of the map."""
        return {name: map_array.map_info(entry.fd)["memlock"] for name, entry in self.program.maps.items()}

    def run_stats(self) -> dict[str, tuple[int, int]]:
        """Returns (number of runs, total run time in ns) of each entry point, by name. Returns {} after close().

        The kernel counts runs and run time only while the sysctl kernel.bpf_stats_enabled is 1.
        """
        if not self._close_program.alive:
            return {}
        infos = {name: map_array.map_info(fd) for name, fd in self.program.entry_points.items()}
        return {name: (info["run_cnt"], info["run_time_ns"]) for name, info in infos.items()}

    @property
    def verified_instructions(self) -> dict[str, int] | None:
        """The number of instructions that the verifier processed for each entry point, by name.

        The kernel's limit is one million instructions. The result is None if the kernel does not report the number
        (before Linux 5.16).
        """
        infos = {name: map_array.map_info(fd) for name, fd in self.program.entry_points.items()}
        if not all("verified_insns" in info for info in infos.values()):
            return None
        return {name: info["verified_insns"] for name, info in infos.items()}

    def close(self) -> None:
        """Detaches the program from every interface, and closes it.

        The maps exist as long as the collector or one of its readers is referenced.
        """
        if self._end_monitor:
            self._end_monitor()
            self._end_monitor = None
        self.attachments.detach_all()
        self._close_program()
