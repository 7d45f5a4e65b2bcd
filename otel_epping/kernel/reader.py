# SPDX-License-Identifier: Apache-2.0
"""Readings: the program's arrays, added up over CPUs and carried from 32 to 64 bits."""

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.attachments import Attachments
from otel_epping.kernel.beside import beside
from otel_epping.kernel.config import KernelConfig, possible_cpus
from otel_epping.kernel.directions import Directions, Traffic
from otel_epping.kernel.extremes import Counts, Extremes
from otel_epping.kernel.flows import FlowTable
from otel_epping.kernel.histograms import Histograms
from otel_epping.kernel.interface_numbers import Gone
from otel_epping.kernel.memory import Array
from otel_epping.kernel.rows import longer
from otel_epping.kernel.runs import Runs
from otel_epping.kernel.slots import OVERFLOW_SLOT, Found, Slots
from otel_epping.kernel.subnet_counters import SubnetCounters

# Of enum packet_kind (bpf/maps.h): TCP; UDP and ICMP.
_TRAFFIC_KINDS = (slice(0, 1), slice(1, 3))
READ = ("slots", "histograms", "traffic", "flow_counters", "interface_counters", "flows", "flow_sets", "slot_cache")

__all__ = ["OVERFLOW_SLOT", "READ", "Interval", "Reader", "Reading"]


@dataclass(frozen=True)
class Reading:
    """What the program has counted: since it was loaded, or since the slot was given out. Arrays have one row per slot;
    they are the reader's own, and good until its next reading.

    Row 0 is the overflow slot; any other row counts for the subnet of its key if `live` is set.

    time_ns      when it was read, Unix time
    slots        (rows,) fields key (prefix, interface, family, side, method), created_ns, live
    created_ns   (rows,) Unix time at which the slot was made; 0 if it isn't live
    buckets      (rows,) RTTs; bucket 0 has the OTLP index `buckets.first_index(scale)`
    sum_ns       (rows,) sum of RTTs
    least_ns     (rows,) least RTT since this reader's previous reading; NO_LEAST_NS if there was none
    greatest_ns  (rows,) greatest RTT since then; 0 if there was none
    counters     (rows,) records of SubnetCounters
    active       (rows,) ends of active TCP flows
    flows        places taken in the table of flows
    flows_evicted  flows that had to make room there for others: so many, or a few more
    names        identifier of an interface, as in slots["key"]["interface"] -> its name; '' for all that have no number
    interfaces   (len(names),) records of the program's struct interface_counters, in the order of `names`
    interfaces_since_ns  (len(names),) Unix time from which on these count
    gone         interfaces among these that went away, whose counts are final; they end when they are delivered
    """

    time_ns: int
    slots: npt.NDArray[Any]
    created_ns: npt.NDArray[np.int64]
    buckets: Runs
    sum_ns: Counts
    least_ns: Counts
    greatest_ns: Counts
    counters: npt.NDArray[Any]
    active: Counts
    flows: int
    flows_evicted: int
    names: dict[int, str]
    interfaces: npt.NDArray[Any]
    interfaces_since_ns: npt.NDArray[np.int64]
    gone: frozenset[Gone]


class Interval(NamedTuple):
    """The program's current interval, begun by a reader that has `rows` rows to read; and all readers there are."""

    number: int
    rows: int
    readers: "Collection[Reader]"
    slots: Slots
    directions: Directions


class Reader:
    """One consumer's place in the program's arrays. Not for two threads at once; made by Collector.reader().

    delivered  to be set before read() by a consumer whose deliveries may fail: those of the latest reading's `gone` of
               which all is delivered; None: what was read is
    """

    def __init__(
        self,
        arrays: dict[str, Array],
        flows: FlowTable,
        config: KernelConfig,
        attachments: Attachments,
        next_interval: Callable[[], AbstractContextManager[Interval]],
        now_ns: Callable[[], int],
        started_ns: int,
    ) -> None:
        self.extremes = Extremes()
        self._attachments = attachments
        self._next_interval = next_interval
        self._now_ns = now_ns
        self._latest_ns = started_ns
        self._packet_clock = config.packet_clock
        self._cpus = possible_cpus()
        self._slots = arrays["slots"]
        self._interface_counters = arrays["interface_counters"]
        self._pairs = arrays["slot_cache"]
        self._flows = flows
        self._counters = SubnetCounters(arrays["traffic"], arrays["flow_counters"], flows, self._cpus)
        self._histograms = Histograms(arrays["histograms"])
        self._created_ns = np.zeros(0, np.int64)
        self._owners = np.zeros(0, np.uint32)
        self._interfaces_since_ns: dict[int, int] = {}
        self._read_ns = started_ns  # time of the latest reading
        self.delivered: frozenset[Gone] | None = None
        self._gone: frozenset[Gone] = frozenset()
        self._done: frozenset[Gone] = frozenset()

    @property
    def slots_dtype(self) -> np.dtype[Any]:
        """That of the records in Reading.slots."""
        return self._slots.dtype

    @property
    def counters_dtype(self) -> np.dtype[Any]:
        """That of the records in Reading.counters."""
        return self._counters.dtype

    @property
    def interfaces_dtype(self) -> np.dtype[Any]:
        """That of the records in Reading.interfaces."""
        return self._interface_counters.dtype

    def _forget(self, owners: npt.NDArray[np.uint32]) -> None:
        """Rows that are somebody else's than at the previous reading begin anew; `owners`: how many each has had."""
        changed = np.flatnonzero(self._owners != owners[: len(self._owners)])
        if len(changed):
            self._histograms.forget(changed)
            self._counters.forget(changed)
            self._created_ns[changed] = 0
        self._owners = owners.copy()

    def _read_all(self, interval: Interval) -> tuple[npt.NDArray[Any], Counts, int]:
        """Takes in what is new of all RTTs, and hands the extremes of the interval that ended to all readers.

        Returns what SubnetCounters.read() does. Two threads do it: one the counters first, the other histograms, and
        who has done helps with what is left of these.
        """
        ended, current = interval.number - 1, interval.number
        since = interval.slots.since(interval.rows)
        readers = list(interval.readers)  # weak references: two threads must not go through them

        def share_extremes(begin: int, histograms: npt.NDArray[Any]) -> None:
            least, greatest = histograms["min_word"], histograms["max_word"]
            for reader in readers:
                reader.extremes.merge(begin, ended, least[:, ended & 1], greatest[:, ended & 1])
            # What was counted since the interval ended is in the buckets just read. Its extremes are, so, in two
            # readings rather than in none: min and max may be a little too wide, and never too narrow for the buckets.
            self.extremes.merge(begin, current, least[:, current & 1], greatest[:, current & 1])

        def count_and_help() -> tuple[npt.NDArray[Any], Counts, int]:
            counted = self._counters.read(since)
            self._histograms.work(share_extremes)
            return counted

        for reader in readers:
            reader.extremes.grow(interval.rows)
        self._histograms.begin(interval.rows)
        with beside(count_and_help) as counting:
            self._histograms.work(share_extremes)
        self._histograms.finish(share_extremes)
        return counting.result()

    def _read_created(self, slots: npt.NDArray[Any], now_ns: int) -> None:
        """Puts the birth of new slots, which the kernel gives in time since boot, on the clock on the wall, once.

        Since this reader looked last: so neither a suspension, during which the kernel's clock stands still, nor a step
        of the clock on the wall gives a slot a time before that, or one to come.
        """
        self._created_ns = longer(self._created_ns, len(slots))
        new = np.flatnonzero((slots["live"] != 0) & (self._created_ns[: len(slots)] == 0))
        created_ns = slots["created_ns"][new].astype(np.int64)
        if not self._packet_clock:
            created_ns = np.clip(created_ns + (now_ns - time.monotonic_ns()), self._latest_ns, now_ns)
            self._latest_ns = now_ns
        # A packet without a time, as a capture may have, makes a slot at 0, which is the mark of one that isn't live.
        self._created_ns[new] = np.maximum(created_ns, 1)

    def _count_interfaces(self, numbers: list[int]) -> Counts:
        """All that the rows of some numbers ever counted, added up over CPUs: (numbers, n)."""
        rows = max(numbers) + 1
        counters = self._interface_counters.rows(0, rows * self._cpus).view(np.uint64).reshape(rows, self._cpus, -1)
        return np.asarray(counters[numbers].sum(1))

    def _records(self, numbers: list[int], counts: Counts) -> npt.NDArray[Any]:
        """What rows of some numbers count for the interfaces that have these numbers now; `counts` is all."""
        return np.asarray(self._attachments.numbers.counted(numbers, counts).view(self._interface_counters.dtype)[:, 0])

    def _read_interfaces(self, names: dict[int, str]) -> npt.NDArray[Any]:
        """Records of interfaces: structs of nothing but 64-bit counters."""
        numbers = self._attachments.numbers.numbers_of(list(names))
        return self._records(numbers, self._count_interfaces(numbers))

    def _flows_and_traffic(self) -> tuple[int, dict[int, Traffic]]:
        """How many flows ever were put into the table; what passed each interface, by identifier."""
        identifiers = list(self._attachments.names)
        counts = self._count_interfaces(list(range(self._attachments.numbers.used)))
        flows_created = int(counts.view(self._interface_counters.dtype)["flows_created"].sum())
        numbers = self._attachments.numbers.numbers_of(identifiers)
        records = self._records(numbers, counts[numbers])
        received, transmitted = (records[way]["packets"] for way in ("received", "transmitted"))
        counts = np.stack(
            [each[:, kinds].sum(1) for kinds in _TRAFFIC_KINDS for each in (received, transmitted)], axis=1
        )
        traffic = (Traffic((row[0], row[1]), (row[2], row[3])) for row in counts.tolist())
        return flows_created, dict(zip(identifiers, traffic, strict=True))

    def _look_at_directions(self, interval: Interval, names: dict[int, str], traffic: dict[int, Traffic]) -> None:
        roles = self._attachments.roles
        if self._flows.directions is not None:
            interval.directions.take(self._flows.directions, names, roles, traffic)
        interval.directions.take_pairs(
            lambda: self._pairs.rows(0, self._pairs.length), interval.slots.epoch, names, roles, traffic
        )

    def _since_ns(self, names: dict[int, str]) -> npt.NDArray[np.int64]:
        """Unix time from which on interfaces count: when this reader read before it first saw them."""
        since_ns = {each: self._interfaces_since_ns.get(each, self._read_ns) for each in names}
        self._interfaces_since_ns = since_ns
        return np.fromiter(since_ns.values(), np.int64, len(since_ns))

    def _end_interfaces(self, interval: Interval, slots: npt.NDArray[Any]) -> None:
        """Ends interfaces that are gone, if all readers have delivered what was counted there."""
        delivered = frozenset.intersection(*(reader._done for reader in list(interval.readers)))
        gone = self._attachments.numbers.gone() & delivered
        if gone:
            closing = set(interval.slots.being_closed(slots)["interface"].tolist())
            ending = [each for each in gone if each.identifier not in closing]
            if not ending:
                return
            raw = self._count_interfaces(self._attachments.numbers.numbers_of([each.identifier for each in ending]))
            ended = self._attachments.end(list(zip(ending, raw, strict=True)))
            if ended:
                interval.slots.end(ended, slots)

    def read(self) -> Reading:
        """What the program has counted up to now."""
        now_ns = self._now_ns()
        with self._next_interval() as interval:
            self._done = self._gone if self.delivered is None else self.delivered
            self._gone = self._attachments.numbers.gone()
            self._flows.end(frozenset(each.identifier for each in self._gone))
            # The program takes no flow out of its table but for another. So of those that came before the table is
            # looked at, those that aren't there then had to make room.
            flows_created, traffic = self._flows_and_traffic()
            rows, began_ns = interval.rows, interval.slots.now_ns()
            self._forget(interval.slots.owners(rows))
            if interval.directions.suspects(traffic):
                self._flows.look_soon()
            counters, active, flows = self._read_all(interval)
            slots = self._slots.rows(0, rows).copy()
            least_ns, greatest_ns = self.extremes.take(rows)
            self._read_created(slots, now_ns)
            names = dict(self._attachments.names)
            if not self._packet_clock:  # of a capture, an event is nothing to warn of now
                self._look_at_directions(interval, names, traffic)
            reading = Reading(
                time_ns=now_ns,
                slots=slots,
                created_ns=self._created_ns,
                buckets=self._histograms.runs,
                sum_ns=self._histograms.sum_ns,
                least_ns=least_ns,
                greatest_ns=greatest_ns,
                counters=counters,
                active=active,
                flows=flows,
                flows_evicted=max(flows_created - flows, 0),
                names=names,
                interfaces=self._read_interfaces(names),
                interfaces_since_ns=self._since_ns(names),
                gone=self._gone,
            )
            self._read_ns = now_ns
            # At last: from here on slots may go to others, so what was read of them must not be lost any more.
            if interval.slots.is_taking_back:
                packets = counters["classes"]["from"]["packets"].sum(axis=1) + counters["classes"]["to"]["packets"].sum(
                    axis=1
                )
                found = Found(slots, self._histograms.ended + packets, active != 0)
                interval.slots.take_back(self, interval.readers, began_ns, found)
            self._end_interfaces(interval, slots)
        return reading
