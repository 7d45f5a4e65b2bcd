# SPDX-License-Identifier: Apache-2.0
"""A reading: all that the kernel program has counted until one moment, as arrays."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.sparse import SparseHistograms

OVERFLOW_SLOT = 0


class Gone(NamedTuple):
    """An interface that went away: its identifier, and when it went, by CLOCK_MONOTONIC."""

    identifier: int
    gone_ns: int


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
    min_ns     (rows,) least RTT since this reader's previous reading; NO_MIN_NS if there was none
    max_ns  (rows,) greatest RTT since then; 0 if there was none
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
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts
    counters: npt.NDArray[Any]
    active: Counts
    flows: int
    flows_evicted: int
    names: dict[int, str]
    interfaces: npt.NDArray[Any]
    interfaces_since_ns: npt.NDArray[np.int64]
    gone: frozenset[Gone]
