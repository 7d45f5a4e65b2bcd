# SPDX-License-Identifier: Apache-2.0
"""A reading: a snapshot of the kernel program's maps, as arrays."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Indexes, Records, Times, Words, as_matrix, grow
from otel_epping.kernel.count_table import CountTable
from otel_epping.kernel.sparse_histograms import SparseHistograms

OVERFLOW_SLOT = 0


class Gone(NamedTuple):
    """An interface that went away: its identifier, and the time, ns of CLOCK_MONOTONIC."""

    identifier: int
    gone_ns: int


@dataclass(frozen=True)
class Reading:
    """Everything that the program has counted until one moment: since it was loaded, or since a slot got its owner.

    Arrays have one row per slot. They belong to the reader and are valid until its next reading.
    Row 0 is the overflow slot. Any other row has an owner, the subnet in its key, if its generation is odd.

    time_ns      Unix time of the reading, ns
    slots        (rows,) the program's struct slot: key (prefix, interface, family, side, method), created_ns, live
    created_ns   (rows,) Unix time at which the owner got the slot, ns; 0 without owner
    generation   (rows,) changes whenever the row gets an owner or loses it: odd with an owner, even without. A consumer
                 that keeps anything per row must reset a row whose generation has changed; see RowOwners
    buckets      (rows,) RTTs; bucket 0 has the OTLP index `buckets.first_index(scale)`
    sum_ns       (rows,) sum of RTTs, ns
    min_ns       (rows,) minimum RTT since this reader's previous reading, ns; NO_MIN_NS if there was no RTT
    max_ns       (rows,) maximum RTT since then, ns; 0 if there was no RTT
    counters     (rows,) records of SubnetCounters
    active       (rows,) ends of active TCP flows
    flows        flow table entries in use
    flows_evicted  flows evicted from the flow table, or a few more
    names        name of each interface by its identifier, as in slots["key"]["interface"]; '' is all interfaces without
                 a number
    interfaces   (len(names),) records of the program's struct interface_counters, in the order of `names`
    interfaces_since_ns  (len(names),) Unix time from which on these count, ns
    gone         interfaces in `names` that went away. Their counts are final. An interface ends when all readers have
                 delivered its counts
    """

    time_ns: int
    slots: Records
    created_ns: Times
    generation: Words
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts
    counters: Records
    active: Counts
    flows: int
    flows_evicted: int
    names: dict[int, str]
    interfaces: Records
    interfaces_since_ns: Times
    gone: frozenset[Gone]

    @property
    def counts(self) -> CountTable:
        """Buckets, sums and counters as one table: a view."""
        return CountTable(self.buckets, self.sum_ns, as_matrix(self.counters))


class RowOwners:
    """Remembers which generation each row had, and so finds rows that have another owner, or none any more."""

    def __init__(self) -> None:
        self._generation: Words = np.zeros(0, np.uint32)

    def update(self, generation: Words) -> Indexes:
        """Returns the rows whose generation has changed since the previous call. Rows are 0 before the first call.

        generation  (rows,) as in Reading; never fewer rows than before
        """
        self._generation = grow(self._generation, len(generation))
        changed = np.flatnonzero(generation != self._generation)
        self._generation[changed] = generation[changed]
        return changed
