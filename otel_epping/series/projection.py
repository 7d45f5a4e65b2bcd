# SPDX-License-Identifier: Apache-2.0
"""Merges series that differ only in attributes that are not exported.

A projection defines which attributes of rows the series of some metrics keep. Placement (placement.py) chooses a placed
series for each row: a subnet, a covering prefix, or a shared series. A projection maps each placed series to one of its
own series. Several placed series may be mapped to the same series of a projection. The increments of rows are added
directly to the merged series, so a merged series is exact even if a placed series ends. A merged series exists as long
as at least one placed series belongs to the merged series.

No projection merges the two shared series with other series.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Times, Words, grow
from otel_epping.kernel.count_table import CounterTable
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import SHARED_SLOTS, Reading, RowOwners, RttTable, has_owner
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of
from otel_epping.series.details import DetailsNumbers
from otel_epping.series.prefixes import SubnetKeys
from otel_epping.series.registry import SeriesRegistry

# Columns of up to _ROWS_AT_ONCE rows are added up in one step, so that no copy of all counters is needed.
_ROWS_AT_ONCE = 512


class ColumnSums(NamedTuple):
    """Adds up columns of a table of counters.

    columns  the columns of all sums, one sum after the other; no sum is empty
    starts   (sums,) the position in `columns` where each sum starts
    """

    columns: Indexes
    starts: Indexes

    @classmethod
    def joined(cls, parts: Sequence["ColumnSums"]) -> "ColumnSums":
        """Returns the sums of all parts, one part after the other."""
        begins = starts_of(np.array([len(part.columns) for part in parts]))
        return cls(
            np.concatenate([part.columns for part in parts]),
            np.concatenate([part.starts + begin for part, begin in zip(parts, begins[:-1], strict=True)]),
        )

    def of(self, counters: Counts) -> Counts:
        """Returns the sums of each row of `counters`: (rows, sums)."""
        sums = np.empty((len(counters), len(self.starts)), np.uint64)
        for begin in range(0, len(counters), _ROWS_AT_ONCE):
            selected = np.take(counters[begin : begin + _ROWS_AT_ONCE], self.columns, axis=1)
            is_merged = len(self.starts) != len(self.columns)
            sums[begin : begin + len(selected)] = np.add.reduceat(selected, self.starts, 1) if is_merged else selected
        return sums


@dataclass(frozen=True)
class Projection:
    """Describes how series are made from rows.

    has_subnet     series of different subnets, and of subnets and covering prefixes, are not merged
    has_family     series of IPv4 and IPv6 are not merged. With `has_subnet`, they are never merged
    has_interface  series of different interfaces are not merged
    details        the fields of Details that are kept. Series that differ only in other details are merged
    sums           the counters of a series
    methods        for each method, the number of the method under which its RTTs are added up; None if the series have
                   no RTTs
    has_active     whether the series have the number of active flows
    """

    has_subnet: bool
    has_family: bool
    has_interface: bool
    details: frozenset[str]
    sums: ColumnSums
    methods: tuple[int, ...] | None
    has_active: bool

    def keys(self, keys: Records, numbers: DetailsNumbers) -> Records:
        """Converts keys of placed series to keys of the projection's series.

        Fields that the projection leaves out are 0. `numbers` are the numbers of details.
        """
        keys = keys.copy()
        if not self.has_subnet:
            keys["prefix"]["half"] = 0
            keys["shorter"] = 0
            if not self.has_family:
                keys["family"] = 0
        if not self.has_interface:
            keys["interface"] = 0
        keys["details"] = numbers.only(keys["details"], self.details)
        return keys


@dataclass(frozen=True)
class SeriesReading:
    """The counts of all series of a projection at one moment. Arrays have one row per series, or as stated in RttTable.

    The counts of a series are the sums of the counts of all rows that belong to the series. Row 0 is the overflow
    point, and row 1 is the aggregate of subnets that have not answered. slots["key"] are the keys of the series, and
    `details` are the details in these keys. The other fields are described in Reading.
    """

    time_ns: int
    names: dict[int, str]
    slots: Records
    created_ns: Times
    generation: Words
    rtts: RttTable
    counts: CounterTable
    active: Counts
    details: DetailsNumbers


class ProjectedSeries:
    """The series of one projection.

    `registry` contains the keys of the series, and `counts` contains the counters of the series.
    """

    def __init__(self, projection: Projection, keys: SubnetKeys, details: DetailsNumbers) -> None:
        self.projection = projection
        self.registry = SeriesRegistry(keys)
        self.counts = CounterTable.empty(len(projection.sums.starts))
        self._details = details
        self._owners = RowOwners()
        # (placed series,) the projection's series for each placed series
        self._series: Indexes = np.arange(SHARED_SLOTS)

    def has_pending(self) -> Flags:
        """Returns an array that is true for each placed series whose series in the projection has undelivered counts.

        The shape is (placed series,), for the placed series of the latest update().
        """
        return np.asarray(self.registry.pending[self._series])

    def update(self, placed: SeriesRegistry) -> Indexes:
        """Updates the series for the placed series of a reading. Returns the series that have ended."""
        changed = self._owners.update(placed.generation)
        self._series = grow(self._series, len(placed))
        is_placed = has_owner(placed.generation)
        new = changed[is_placed[changed]]
        keys = self.projection.keys(placed.slots["key"][new], self._details)
        for number, key, since_ns in zip(new.tolist(), keys, placed.since_ns[new].tolist(), strict=True):
            self._series[number] = self.registry.find(key.tobytes(), since_ns)
        ended = self.registry.end_unused(np.bincount(self._series[is_placed], minlength=len(self.registry)))
        self.counts.grow(len(self.registry))
        self.counts.reset(ended)
        return ended

    def of(self, placed: Indexes) -> Indexes:
        """Returns the projection's series for each given placed series."""
        return np.asarray(self._series[placed])

    def add(self, placed: Indexes, increments: CounterTable) -> None:
        """Adds the increments of n rows.

        placed      (n,) the placed series of each of these rows
        increments  the increments of the sums of the projection
        """
        counted = np.flatnonzero(increments.is_counted())
        series = self.of(placed[counted])
        # If all rows have counts, which is usual, the increments are not copied.
        self.counts.add(series, increments if len(counted) == increments.rows else increments.select(counted))
        self.registry.pending[series] = True

    def reading(self, reading: Reading, rows: Indexes, placed: Indexes, rtts: RttTable) -> SeriesReading:
        """Returns the counts of all series.

        rows    (n,) the rows of the reading that belong to a series
        placed  (n,) the placed series of each of these rows
        rtts    the histograms of the series
        """
        registry = self.registry
        active = np.zeros(len(registry), np.uint64)
        if self.projection.has_active:
            np.add.at(active, self.of(placed), reading.active[rows])
        return SeriesReading(
            time_ns=reading.time_ns,
            names=reading.names,
            slots=registry.slots,
            created_ns=registry.since_ns,
            generation=registry.generation,
            rtts=rtts,
            counts=self.counts,
            active=active,
            details=self._details,
        )


def no_rtts() -> RttTable:
    """Returns a table that contains only an empty overflow histogram."""
    number = np.zeros(1, np.int64)
    none: Counts = np.zeros(1, np.uint64)
    return RttTable(
        rows=number,
        methods=number,
        generation=np.zeros(1, np.uint32),
        buckets=SparseHistograms.empty(1),
        sum_ns=none,
        min_ns=np.full(1, NO_MIN_NS, np.uint64),
        max_ns=none,
    )
