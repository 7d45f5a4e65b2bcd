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
from otel_epping.kernel.memory import Array

READ = ("slots", "histograms", "traffic", "interface_counters")
OVERFLOW_SLOT = 0

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
    traffic      (rows, 2, classes, 2) from and to the subnet; by traffic class; packets and bytes
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
    traffic: Counts
    names: dict[int, str]
    interfaces: npt.NDArray[Any]


def _tallies(tallies: npt.NDArray[Any]) -> Counts:
    """(rows, 1, classes) of struct tally as (rows, classes, 2): packets, bytes."""
    return np.stack([tallies["packets"][:, 0], tallies["bytes"][:, 0]], axis=-1)


class Reader:
    """One consumer's place in the program's arrays. Not for two threads at once; made by Collector.reader()."""

    def __init__(
        self,
        arrays: dict[str, Array],
        config: KernelConfig,
        attachments: Attachments,
        end_interval: Callable[[], tuple[int, int]],
    ) -> None:
        self.extremes = Extremes()
        self._attachments = attachments
        self._end_interval = end_interval
        self._packet_clock = config.packet_clock
        self._cpus = possible_cpus()
        self._slots, self._histograms, self._traffic, self._interface_counters = (arrays[name] for name in READ)
        self._buckets = np.zeros((0, buckets.bucket_count(config.scale)), np.uint64)
        self._sum_ns = np.zeros(0, np.uint64)
        self._ended = np.zeros(0, np.uint64)
        self._created_ns = np.zeros(0, np.int64)

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
        self._created_ns[new] = slots["created_ns"][new].astype(np.int64) + offset_ns

    def _sum_over_cpus(self, array: Array, rows: int) -> Counts:
        """Structs of nothing but 64-bit counters: (rows, counters)."""
        counters = array.first(rows * self._cpus).view(np.uint64).reshape(rows, self._cpus, -1)
        total: Counts = counters.sum(1)
        return total

    def read(self) -> Reading:
        """What the program has counted up to now."""
        now_ns = time.time_ns()
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
        traffic = self._sum_over_cpus(self._traffic, rows).view(self._traffic.dtype)
        names = dict(self._attachments.names)
        interfaces = self._sum_over_cpus(self._interface_counters, max(names) + 1)[list(names)]
        return Reading(
            time_ns=now_ns,
            slots=slots,
            created_ns=self._created_ns[:rows],
            buckets=self._buckets[:rows],
            sum_ns=self._sum_ns[:rows].copy(),
            least_ns=least_ns,
            greatest_ns=greatest_ns,
            traffic=np.stack([_tallies(traffic[way]) for way in ("from", "to")], axis=1),
            names=names,
            interfaces=interfaces.view(self._interface_counters.dtype)[:, 0],
        )
