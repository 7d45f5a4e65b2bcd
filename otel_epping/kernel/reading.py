# SPDX-License-Identifier: Apache-2.0
"""A reading: a snapshot of the kernel program's maps, as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Times, Words, as_matrix, grow
from otel_epping.kernel.count_table import CounterTable, HistogramTable
from otel_epping.kernel.sparse_histograms import SparseHistograms
from otel_epping.networks.network import Network

# The slots that have no owner, because many subnets share each of them (bpf/maps.h).
OVERFLOW_SLOT = 0
UNANSWERED_SLOT = 1
SHARED_SLOTS = 2

OVERFLOW_HISTOGRAM = 0

# The family in the key of a named network (bpf/maps.h). The first half of the key's prefix is the network's number.
FAMILY_NAMED = 0


class Gone(NamedTuple):
    """The identifier of a removed interface, and the CLOCK_MONOTONIC time in ns at which the interface was removed."""

    identifier: int
    gone_ns: int


@dataclass(frozen=True)
class RttTable:
    """All histograms of RTTs at one moment. A histogram belongs to one row of the reading and to one method.

    A row has a histogram for each method by which an RTT was measured. Histograms are numbered independently of rows.
    Histogram 0 is the overflow histogram, which always exists. The overflow histogram belongs to row 0, and has RTTs of
    all methods. Any other histogram is in use if its generation is odd.

    rows        (histograms,) the row of the reading to which the histogram belongs. When a row loses its owner, its
                histograms lose their owner, too. If a histogram is not in use, its row can be any row of the reading
    methods     (histograms,) the number of the method; 0 for the overflow histogram
    generation  (histograms,) a number like Reading.generation, for the owner of the histogram
    buckets     (histograms,) number of RTTs in each bucket. Bucket 0 has the OTLP index `buckets.first_index(scale)`
    sum_ns      (histograms,) sum of RTTs, ns
    min_ns      (histograms,) minimum RTT since this reader's previous reading, ns; NO_MIN_NS if there was no RTT
    max_ns      (histograms,) maximum RTT since this reader's previous reading, ns; 0 if there was no RTT
    """

    rows: Indexes
    methods: Indexes
    generation: Words
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts

    @property
    def counts(self) -> HistogramTable:
        """A table of `buckets` and `sum_ns`. The table shares the memory of the two arrays."""
        return HistogramTable(self.buckets, self.sum_ns)


@dataclass(frozen=True)
class Reading:
    """All counts of the program at one moment.

    The counts of a slot start when the slot gets its owner. All other counts start when the program is loaded. Arrays
    have one row per slot. The arrays belong to the reader and are valid until the reader's next reading.

    Row 0 is the overflow slot. Row 1 has the counts of subnets for which no RTT was measured. Any other row has an
    owner if its generation is odd. The owner is the subnet in the row's key. An owner for which no RTT was measured yet
    is a newcomer. A newcomer may lose its row at any time. The newcomer's counts are then added to row 1. Any other
    owner loses its row only after every reader has read its final counts.

    time_ns      Unix time of the reading, ns
    slots        (rows,) the program's struct slot. Its field `key` has the prefix, interface, family and side
    created_ns   (rows,) Unix time at which the owner got the slot, ns; 0 if the row has no owner
    generation   (rows,) number that is increased by 1 whenever the row gets or loses an owner. The number is odd if
                 the row has an owner, and even otherwise. A consumer that keeps state for a row must reset this state
                 when the generation of the row has changed; see RowOwners
    answered     (rows,) true if an RTT was measured for the owner. The value stays true until the owner loses the row
    unanswered   estimated number of subnets that sent or received packets since this reader's previous reading, and for
                 which no RTT was ever measured
    rtts         the histograms of RTTs
    counters     (rows,) records of SubnetCounters
    active       (rows,) number of ends of active TCP flows. A flow has two ends, one for each address
    flows        number of flow table entries in use
    flows_evicted  number of flows evicted from the flow table. The number may be slightly too high
    names        name of each interface, by the identifier in slots["key"]["interface"]. The name '' stands for all
                 interfaces without a number
    interfaces   (len(names),) records of the program's struct interface_counters, in the order of `names`
    interfaces_since_ns  (len(names),) Unix time in ns at which the counts of each interface start
    gone         the removed interfaces in `names`. The counts of removed interfaces do not change any more. When all
                 readers have delivered the counts of a removed interface, the number of the interface is freed
    networks     the named networks by their numbers. If slots["key"]["family"] is FAMILY_NAMED, the owner of the row is
                 a named network, and slots["key"]["prefix"]["half"][:, 0] is the number of this network. The networks
                 include networks that are no longer in use, as long as a row has their number. Do not change the
                 mapping
    """

    time_ns: int
    slots: Records
    created_ns: Times
    generation: Words
    answered: Flags
    unanswered: int
    rtts: RttTable
    counters: Records
    active: Counts
    flows: int
    flows_evicted: int
    names: dict[int, str]
    interfaces: Records
    interfaces_since_ns: Times
    gone: frozenset[Gone]
    networks: Mapping[int, Network] = field(default_factory=dict)

    @property
    def counts(self) -> CounterTable:
        """A table of `counters`. The table shares the memory of `counters`."""
        return CounterTable(as_matrix(self.counters))


def has_owner(generation: Words) -> Flags:
    """Returns an array that is true for each row that has an owner. The generation of such a row is odd."""
    return np.asarray(generation & np.uint32(1) == 1)


class RowOwners:
    """Finds the rows that have a new owner or have lost their owner. Keeps the previous generation of each row."""

    def __init__(self) -> None:
        self._generation: Words = np.zeros(0, np.uint32)

    def update(self, generation: Words) -> Indexes:
        """Returns the rows whose generation has changed since the previous call.

        The first call returns the rows whose generation is not 0.

        generation  (rows,) as in Reading. The number of rows must not be lower than in the previous call
        """
        self._generation = grow(self._generation, len(generation))
        changed = np.flatnonzero(generation != self._generation)
        self._generation[changed] = generation[changed]
        return changed
