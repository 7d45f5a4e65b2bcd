# SPDX-License-Identifier: Apache-2.0
"""Readings: the program's arrays, added up over CPUs and carried from 32 to 64 bits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import buckets
from otel_epping.kernel.attachments import Attachments
from otel_epping.kernel.config import KernelConfig, possible_cpus
from otel_epping.kernel.extremes import Counts, Extremes
from otel_epping.kernel.flows import FlowTable
from otel_epping.kernel.memory import Array
from otel_epping.kernel.subnet_counters import SubnetCounters

READ = ("slots", "histograms", "traffic", "flow_counters", "interface_counters")
OVERFLOW_SLOT = 0
EPOCH = 1  # the program takes 0 for "nothing cached yet"

# Rows of histograms copied at a time: a bound on memory, and about what a cache holds.
_CHUNK = 512
_TRIES = 16


@dataclass(frozen=True)
class Reading:
    """What the program has counted since it was loaded. Arrays have one row per slot; they are the reader's own, and
    good until its next reading.

    Row 0 is the overflow slot; any other row counts for the subnet of its key if `live` is set.

    time_ns      when it was read, Unix time
    slots        (rows,) fields key (prefix, interface, family, side, method), created_ns, live
    created_ns   (rows,) Unix time at which the slot was made; 0 if it isn't live
    buckets      (rows, buckets) RTTs; bucket 0 has the OTLP index `buckets.first_index(scale)`
    sum_ns       (rows,) sum of RTTs
    least_ns     (rows,) least RTT since this reader's previous reading; NO_LEAST_NS if there was none
    greatest_ns  (rows,) greatest RTT since then; 0 if there was none
    counters     (rows,) records of SubnetCounters
    active       (rows,) ends of active TCP flows
    flows        places taken in the table of flows
    names        number of an interface, as in slots["key"]["interface"] -> its name; '' for all that were not named
    interfaces   (len(names),) records of the program's struct interface_counters, in the order of `names`
    """

    time_ns: int
    slots: npt.NDArray[Any]
    created_ns: npt.NDArray[np.int64]
    buckets: Counts
    sum_ns: Counts
    least_ns: Counts
    greatest_ns: Counts
    counters: npt.NDArray[Any]
    active: Counts
    flows: int
    names: dict[int, str]
    interfaces: npt.NDArray[Any]


class Reader:
    """One consumer's place in the program's arrays. Not for two threads at once; made by Collector.reader()."""

    def __init__(
        self,
        arrays: dict[str, Array],
        flows: FlowTable,
        config: KernelConfig,
        attachments: Attachments,
        end_interval: Callable[[], tuple[int, int]],
        now_ns: Callable[[], int],
    ) -> None:
        self.extremes = Extremes()
        self._attachments = attachments
        self._end_interval = end_interval
        self._now_ns = now_ns
        self._packet_clock = config.packet_clock
        self._cpus = possible_cpus()
        self._slots, self._histograms = arrays["slots"], arrays["histograms"]
        self._interface_counters = arrays["interface_counters"]
        self._counters = SubnetCounters(arrays["traffic"], arrays["flow_counters"], flows, self._cpus)
        self._buckets = np.zeros((0, buckets.bucket_count(config.scale)), np.uint64)
        self._sum_ns = np.zeros(0, np.uint64)
        self._ended = np.zeros(0, np.uint64)
        self._created_ns = np.zeros(0, np.int64)

    @property
    def counters_dtype(self) -> np.dtype[Any]:
        """That of the records in Reading.counters."""
        return self._counters.dtype

    @property
    def interfaces_dtype(self) -> np.dtype[Any]:
        """That of the records in Reading.interfaces."""
        return self._interface_counters.dtype

    def _grow(self, rows: int) -> None:
        """Makes room for rows in use for the first time, by a quarter at least, so that it is done rarely."""
        have = len(self._buckets)
        if rows <= have:
            return
        more = min(max(rows, have + have // 4, 64), self._slots.length) - have
        self._buckets = np.concatenate([self._buckets, np.zeros((more, self._buckets.shape[1]), np.uint64)])
        self._sum_ns = np.concatenate([self._sum_ns, np.zeros(more, np.uint64)])
        self._ended = np.concatenate([self._ended, np.zeros(more, np.uint64)])
        self._created_ns = np.concatenate([self._created_ns, np.zeros(more, np.int64)])

    def _read_histograms(self, rows: int) -> None:
        """Takes in what is new. A 32-bit bucket may have wrapped around, so the difference is taken modulo 2^32.

        A row is read again while RTTs are being counted into it, so that buckets and sum are of the same RTTs. One that
        never holds still is taken as it is: a few RTTs are in the buckets and not yet in the sum. Benign: the next
        reading has them.
        """
        histograms = self._histograms.first(rows)
        changed = np.flatnonzero(histograms["ended"] != self._ended[:rows])
        for start in range(0, len(changed), _CHUNK):
            chunk = changed[start : start + _CHUNK]
            for _ in range(_TRIES):
                self._ended[chunk] = histograms["ended"][chunk]
                self._sum_ns[chunk] = histograms["sum_ns"][chunk]
                seen = self._buckets[chunk]
                self._buckets[chunk] = seen + (histograms["buckets"][chunk] - seen.astype(np.uint32))
                chunk = chunk[histograms["began"][chunk] != self._ended[chunk]]
                if not len(chunk):
                    break

    def _read_created(self, slots: npt.NDArray[Any], now_ns: int) -> None:
        """Puts the birth of new slots, which the kernel gives in time since boot, on the clock on the wall, once."""
        offset_ns = 0 if self._packet_clock else now_ns - time.monotonic_ns()
        new = np.flatnonzero((slots["live"] != 0) & (self._created_ns[: len(slots)] == 0))
        # A packet without a time, as a capture may have, makes a slot at 0, which is the mark of one that isn't live.
        self._created_ns[new] = np.maximum(slots["created_ns"][new].astype(np.int64) + offset_ns, 1)

    def _read_interfaces(self, numbers: list[int]) -> npt.NDArray[Any]:
        """Records of some interfaces, added up over CPUs: structs of nothing but 64-bit counters."""
        rows = max(numbers) + 1
        counters = self._interface_counters.first(rows * self._cpus).view(np.uint64).reshape(rows, self._cpus, -1)
        records: npt.NDArray[Any] = counters.sum(1)[numbers].view(self._interface_counters.dtype)[:, 0]
        return records

    def read(self) -> Reading:
        """What the program has counted up to now."""
        now_ns = self._now_ns()
        rows, interval = self._end_interval()
        slots = self._slots.first(rows).copy()
        self._grow(rows)
        self._read_histograms(rows)
        # What was counted since the interval ended is in the buckets just read. Its extremes are, so, in two readings
        # rather than in none: min and max may be a little too wide, and never too narrow for the buckets.
        words = self._histograms.first(rows)
        self.extremes.merge(interval, words["min_word"][:, interval & 1], words["max_word"][:, interval & 1])
        self._read_created(slots, now_ns)
        least_ns, greatest_ns = self.extremes.take(rows)
        counters, active, flows = self._counters.read(rows, EPOCH)
        names = dict(self._attachments.names)
        return Reading(
            time_ns=now_ns,
            slots=slots,
            created_ns=self._created_ns[:rows],
            buckets=self._buckets[:rows],
            sum_ns=self._sum_ns[:rows].copy(),
            least_ns=least_ns,
            greatest_ns=greatest_ns,
            counters=counters,
            active=active,
            flows=flows,
            names=names,
            interfaces=self._read_interfaces(list(names)),
        )
