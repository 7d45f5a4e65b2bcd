# SPDX-License-Identifier: Apache-2.0
"""Readers. A reader reads the program's maps, sums the counts over CPUs, and extends 32-bit counts to 64 bits."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_epping.kernel.arrays import Counts, Records, Times, Words, grow
from otel_epping.kernel.attach.attachments import Attachments
from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.directions import Directions, Traffic
from otel_epping.kernel.read.flow_table import FlowTable
from otel_epping.kernel.read.interface_counters import InterfaceCounters
from otel_epping.kernel.read.min_max import MinMax, decode
from otel_epping.kernel.read.named_networks import NamedNetworks
from otel_epping.kernel.read.parallel import run_parallel
from otel_epping.kernel.read.rtt_reader import RttReader
from otel_epping.kernel.read.sketch import Sketch, ranks_of
from otel_epping.kernel.read.slot_tables import ANSWERED, FREE, NEWCOMER, sketch_of, states_of
from otel_epping.kernel.read.slots import Found, Slots
from otel_epping.kernel.read.subnet_counters import SubnetCounters, packets_of
from otel_epping.kernel.read.unanswered import UnansweredCounts
from otel_epping.kernel.reading import UNANSWERED_SLOT, Gone, Reading, RowOwners

# The names of the maps that readers read.
READ = (
    "slots",
    "claims",
    "unanswered_sketch",
    "histograms",
    "blocks",
    "traffic",
    "flow_counters",
    "interface_counters",
    "flows",
    "flow_sets",
    "slot_cache",
)


@dataclass(frozen=True)
class Interval:
    """The interval of the program that starts with a reading, and the objects that all readers of a collector share.

    For each reading, the collector ends the previous interval, and lets one reader use the new interval
    (EppingCollector._next_interval()). The methods of this class do the parts of a reading that affect other readers.

    number       the number of the new interval. The interval with the number `number` - 1 has just ended
    rows         the number of slots that are in use
    histograms   the number of histograms that are in use
    reader       the reader that makes this reading
    readers      all readers, including `reader`
    slots        the program's slots
    networks     the named networks
    directions   the directions of the flows of each interface
    attachments  the interfaces that are or were watched
    """

    number: int
    rows: int
    histograms: int
    reader: "Reader"
    readers: list["Reader"]
    slots: Slots
    networks: NamedNetworks
    directions: Directions
    attachments: Attachments

    def hand_out_min_max(self, begin: int, histograms: Records) -> None:
        """Passes the minima and maxima of the ended interval to every reader.

        `histograms` contains consecutive rows of the program. `begin` is the number of the first row in `histograms`.

        Some RTTs are counted after the old interval has ended and before `reader` reads the buckets. So `reader` gets
        the minima and maxima of the new interval with this reading, and again with its next reading. Therefore the
        range from minimum to maximum may also include RTTs that the buckets do not contain. But the range always
        includes all RTTs that the buckets contain.
        """
        for number, readers in ((self.number - 1, self.readers), (self.number, [self.reader])):
            parity = number & 1
            rows, min_ns, max_ns = decode(number, histograms["min_word"][:, parity], histograms["max_word"][:, parity])
            if len(rows):
                for reader in readers:
                    reader.min_max.merge(rows + begin, min_ns, max_ns)

    def hand_out_sketch(self, words: Counts) -> None:
        """Passes the sketch of unanswered subnets to the readers, as hand_out_min_max() passes the minima and maxima.

        words  (registers, 2) the program's registers
        """
        for number, readers in ((self.number - 1, self.readers), (self.number, [self.reader])):
            ranks = ranks_of(number, words[:, number & 1])
            for reader in readers:
                reader.sketch.merge(ranks)

    def update_directions(
        self, flows: FlowTable, pairs: Array, names: dict[int, str], traffic: dict[int, Traffic]
    ) -> None:
        """Searches the scanned flows and the slot cache for interfaces that packets pass in only one direction."""
        roles = self.attachments.roles
        if flows.directions is not None:
            self.directions.update(flows.directions, names, roles, traffic)
        self.directions.update_pairs(lambda: pairs.rows(0, pairs.length), self.slots.epoch, names, roles, traffic)

    def end_interfaces(self, interfaces: InterfaceCounters, table: Array) -> None:
        """Frees the number and the slots of each removed interface when all readers have delivered its counts.

        table  the program's slots
        """
        gone = interfaces.gone() & frozenset.intersection(*(reader.done for reader in self.readers))
        if not gone:
            return
        slots = table.rows(0, self.rows).copy()  # slots may have been freed after the reading copied its records
        closing = set(self.slots.closing_keys(slots)["interface"].tolist())
        ending = [each for each in gone if each.identifier not in closing]
        if not ending:
            return
        ended = self.attachments.end(list(zip(ending, interfaces.totals(ending), strict=True)))
        if ended:
            self.slots.end(ended, slots)


class Reader:
    """One consumer's view of the program's counts. EppingCollector.reader() makes readers.

    Only one thread at a time may use a reader.

    delivered  the interfaces in the latest reading's `gone` whose counts the receiver has. Set this attribute before
               each read() if exports may fail. If `delivered` is None, counts are considered delivered when they are
               read
    done       the removed interfaces whose counts were delivered before the latest reading
    min_max    minimum and maximum RTTs since this reader's latest reading. The readings of all readers update the
               minima and maxima
    sketch     the subnets that have not answered since this reader's latest reading. All readers update the sketch
    """

    def __init__(
        self,
        arrays: dict[str, Array],
        flows: FlowTable,
        interfaces: InterfaceCounters,
        config: EppingConfig,
        next_interval: Callable[["Reader"], AbstractContextManager[Interval]],
        now_ns: Callable[[], int],
        started_ns: int,
    ) -> None:
        self.min_max = MinMax()
        self.sketch = Sketch()
        self.delivered: frozenset[Gone] | None = None
        self.done: frozenset[Gone] = frozenset()
        self._gone: frozenset[Gone] = frozenset()
        self._next_interval = next_interval
        self._now_ns = now_ns
        self._latest_ns = started_ns
        self._packet_clock = config.packet_clock
        self._slots = arrays["slots"]
        self._pairs = arrays["slot_cache"]
        self._flows, self._interfaces = flows, interfaces
        self._sketch = arrays["unanswered_sketch"]
        self._counters = SubnetCounters(arrays["traffic"], arrays["flow_counters"], possible_cpus())
        self._counts = self._counters.empty_table()
        self._unanswered = UnansweredCounts(self._counters)
        self._rtts = RttReader(arrays["histograms"], arrays["blocks"])
        self._created_ns: Times = np.zeros(0, np.int64)
        self._is_newcomer = np.zeros(0, np.bool_)
        self._owners = RowOwners()

    @property
    def slots_dtype(self) -> np.dtype[Any]:
        """The type of the records in Reading.slots."""
        return self._slots.dtype

    @property
    def counters_dtype(self) -> np.dtype[Any]:
        """The type of the records in Reading.counters."""
        return self._counters.dtype

    @property
    def interfaces_dtype(self) -> np.dtype[Any]:
        """The type of the records in Reading.interfaces."""
        return self._interfaces.dtype

    def read(self) -> Reading:
        """Returns the program's counts until now. Raises OSError if a map cannot be read."""
        now_ns = self._now_ns()
        with self._next_interval(self) as interval:
            self.done = self._gone if self.delivered is None else self.delivered
            self._gone = self._interfaces.gone()
            self._flows.end(frozenset(each.identifier for each in self._gone))
            # The program removes an entry from the flow table only to make room for another flow. So if an entry was
            # created before this scan and the scan does not find the entry, the flow of the entry was evicted.
            flows_created, traffic = self._interfaces.flows_and_traffic()
            began_ns = interval.slots.now_ns()
            owners = interval.slots.owners(interval.rows)
            self._prepare(owners)
            self._rtts.prepare(interval.slots.histogram_owners(interval.histograms))
            if interval.directions.suspects(traffic):
                self._flows.scan_soon()
            active, flows = self._read_counts(interval)
            slots = self._slots.rows(0, interval.rows).copy()
            self._read_created(slots, now_ns)
            states = states_of(slots)
            answered = states == ANSWERED
            self._is_newcomer = (states == NEWCOMER) & (self._created_ns != 0)
            interval.hand_out_sketch(self._sketch.rows(0, self._sketch.length)["word"].copy())
            self.sketch.add(*sketch_of(slots[self._is_newcomer]))
            names = self._interfaces.names()
            if not self._packet_clock:  # in a capture, a missing direction causes no warning
                interval.update_directions(self._flows, self._pairs, names, traffic)
            interfaces, interfaces_since_ns = self._interfaces.read(names, now_ns)
            reading = Reading(
                time_ns=now_ns,
                slots=slots,
                created_ns=self._created_ns,
                generation=owners << 1 | (self._created_ns != 0),
                answered=answered,
                unanswered=self.sketch.take(),
                rtts=self._rtts.table(answered & (self._created_ns != 0), self.min_max),
                counters=self._counters.records(self._counts),
                active=active,
                flows=flows,
                flows_evicted=max(flows_created - flows, 0),
                names=names,
                interfaces=interfaces,
                interfaces_since_ns=interfaces_since_ns,
                gone=self._gone,
                networks=interval.networks.by_number,
            )
            # The following steps may give slots to new owners. So the reading must already contain all data of the
            # slots.
            interval.slots.fold_newcomers(slots, interval.readers)
            obsolete = interval.networks.obsolete(slots, owners)
            found = Found(slots, packets_of(reading.counters), active != 0, obsolete)
            interval.slots.take_back(self, interval.readers, began_ns, found)
            interval.end_interfaces(self._interfaces, self._slots)
            interval.networks.tidy(slots)
        return reading

    def _prepare(self, owners: Words) -> None:
        """Makes room for all rows, and resets the rows whose slots were reclaimed since the previous reading.

        owners  (rows,) the number of times that each slot was reclaimed
        """
        rows = len(owners)
        self._counts.grow(rows)
        self._created_ns = grow(self._created_ns, rows)
        self._is_newcomer = grow(self._is_newcomer, rows)
        changed = self._owners.update(owners)
        self._unanswered.forget(self._counts.counters[changed[self._is_newcomer[changed]]])
        self._counts.reset(changed)
        self._created_ns[changed] = 0

    def _read_counts(self, interval: Interval) -> tuple[Counts, int]:
        """Updates the table of counts, and passes minima and maxima to all readers.

        Returns the result of SubnetCounters.read(). Two threads share the work. One thread reads first counters and
        then histograms. The other thread reads only histograms.
        """
        for reader in interval.readers:
            reader.min_max.grow(interval.histograms)
        since = interval.slots.since(interval.rows)
        histograms = self._rtts.histograms
        histograms.begin(interval.histograms)

        def read_counters_then_histograms() -> tuple[Counts, int]:
            row = self._counts.counters[UNANSWERED_SLOT]
            self._unanswered.subtract_from(row)
            active, flows = self._counters.read(self._counts, self._flows, since)
            self._unanswered.add_to(row, interval.slots.folded)
            histograms.work(interval.hand_out_min_max)
            return active, flows

        with run_parallel(read_counters_then_histograms) as counting:
            histograms.work(interval.hand_out_min_max)
        histograms.finish(interval.hand_out_min_max)
        return counting.result()

    def _read_created(self, slots: Records, now_ns: int) -> None:
        """Converts the creation times of new slots from ns since boot to Unix time, once per owner.

        The Unix time is limited to the range from this reader's previous reading to `now_ns`. The limit is needed if
        the system clock was set. The limit is also needed if the machine was suspended, because the kernel's clock
        stops while the machine is suspended.
        """
        new = np.flatnonzero((states_of(slots) != FREE) & (self._created_ns == 0))
        created_ns = slots["created_ns"][new].astype(np.int64)
        if not self._packet_clock:
            created_ns = np.clip(created_ns + (now_ns - time.monotonic_ns()), self._latest_ns, now_ns)
            self._latest_ns = now_ns
        # If a packet of a capture has no timestamp and creates a slot, the creation time is 0. In `_created_ns`, 0
        # means "no owner". So a creation time of 0 is changed to 1.
        self._created_ns[new] = np.maximum(created_ns, 1)
