# SPDX-License-Identifier: Apache-2.0
"""Limits cardinality: turns the rows of a reading into a limited number of series.

A subnet can be exported individually, in series of its own. Subnets beyond the limit are aggregated, either in a
covering prefix or on the overflow point. The new counts of a row are added to the series that the row belongs to at
the time of the reading. So totals are exact even when subnets move between series, the counts of a series never
decrease, and no count is in two series. A slot can get a new owner even if the counts of the former owner are not
delivered yet, because these counts are stored in the former owner's series.

The rules:

- A subnet is a newcomer until an RTT is measured for it. Newcomers are aggregated in one series, and do not count
  toward `max_series`. When a newcomer answers, its former counts stay in the aggregate.
- The most active subnets are exported individually (ranking.py). A subnet that is exported individually keeps its own
  series until another subnet is more than twice as active as this subnet.
- A series ends when no row belongs to the series any more and all counts of the series are delivered. If a subnet comes
  back after its series has ended, the subnet gets a new series. The new series starts at the time of the previous
  reading.
- At most `max_series` subnets and covering prefixes have series. A series with undelivered counts cannot end. If no
  series can end, new subnets are counted on the overflow point.
- With `roll_up`, a quarter of `max_series` is reserved for covering prefixes as soon as there are more subnets than
  `max_series`. An aggregated subnet is put in the longest covering prefix that exists or may be created (placement.py).
  A covering prefix has one of three lengths. The longest prefixes are created until half of the reserved quarter is in
  use. Prefixes of medium length are created until three quarters of the reserved quarter are in use. The shortest
  prefixes are created until the whole reserved quarter is in use.
- Named networks and groups (grouping.py) follow the same rules as subnets. But they have no covering prefixes, so they
  are counted on the overflow point if they are not exported individually.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.count_table import CounterTable
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.read.subnet_counters import packet_columns
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, SHARED_SLOTS, UNANSWERED_SLOT, Reading, RowOwners, has_owner
from otel_epping.networks.network import Networks
from otel_epping.series.grouping import Grouping, SeriesKeys
from otel_epping.series.histogram_series import HistogramSeries
from otel_epping.series.increments import Increments
from otel_epping.series.limits import Limits
from otel_epping.series.placement import NO_SUBNET, Budget, Placement
from otel_epping.series.prefixes import SubnetKeys
from otel_epping.series.projection import ColumnSums, ProjectedSeries, Projection, SeriesReading, no_rtts
from otel_epping.series.ranking import Ranking, Weights
from otel_epping.series.registry import OVERFLOW_SERIES, SeriesRegistry

_PACKETS = -1  # the last sum is the number of packets


class CardinalityLimiter:
    """Converts the readings of one reader to readings with a limited number of series, for one exporter.

    max_series  the maximum number of subnets and covering prefixes that have series, as set at the latest reading

    `started_ns` is the Unix time in ns when counting started. The limits apply to the series that placement.py chooses,
    before the projections merge series. At most one of the projections has RTTs. `grouping` says what a series stands
    for.
    """

    def __init__(
        self,
        config: EppingConfig,
        reader: Reader,
        started_ns: int,
        projections: Sequence[Projection],
        grouping: Grouping,
    ) -> None:
        self.max_series = config.max_slots
        self._config = config
        self._previous_ns = started_ns  # time of the previous reading
        keys = SubnetKeys(config)
        self._grouping = grouping
        self._series_keys = SeriesKeys(grouping, config)
        self._owners = RowOwners()
        self._ranking = Ranking()
        self._registry = SeriesRegistry(keys)
        self._placement = Placement(keys, self._series_keys, self._registry)
        self._projected = [ProjectedSeries(each, keys, self._series_keys.details) for each in projections]
        packets = ColumnSums(packet_columns(reader.counters_dtype), np.zeros(1, np.int64))
        # The exported counters of each row are summed before the increments are computed. With the default settings,
        # the previous sums need a third of the memory that the previous counters would need.
        self._sums = ColumnSums.joined([*(each.sums for each in projections), packets])
        self._increments = Increments(CounterTable.empty(len(self._sums.starts)))
        with_rtts = (each for each in self._projected if each.projection.methods is not None)
        self._with_rtts: ProjectedSeries | None = next(with_rtts, None)
        # Even if no projection has RTTs, the RTTs are counted, because subnets are ranked by their RTTs.
        methods = self._with_rtts.projection.methods if self._with_rtts else None
        self._histograms = HistogramSeries(methods or range(len(METHODS)))

    @property
    def exported(self) -> int:
        """Number of subnets and covering prefixes that have series."""
        return len(self._registry.numbers)

    @property
    def overflowed(self) -> int:
        """Number of subnets on the overflow point."""
        return self._placement.overflowed

    @property
    def rolled_up(self) -> int:
        """Number of subnets in covering prefixes."""
        return self._placement.rolled_up

    def limit(self, reading: Reading, limits: Limits, networks: Networks) -> list[SeriesReading]:
        """Returns the series of each projection. `networks` are the named networks in use.

        The result is valid until the next call. The minima and maxima cover the time since the previous call.
        """
        self.max_series = limits.max_series or self._config.max_slots
        if not self._grouping.has_subnets:
            limits = replace(limits, roll_up=False)
        self._free_details()
        counts = CounterTable(self._sums.of(reading.counts.counters))
        self._start(reading, counts, networks)
        owned = has_owner(reading.generation)
        owned[:SHARED_SLOTS] = True
        rows = np.flatnonzero(owned)
        self._place(rows, limits)
        series_of = self._placement.series_of
        self._add_counters(counts, owned, series_of)
        self._add_rtts(reading, series_of)
        self._previous_ns = reading.time_ns
        placed = series_of[rows]
        return [
            each.reading(reading, rows, placed, self._histograms.table() if each is self._with_rtts else no_rtts())
            for each in self._projected
        ]

    def acknowledge(self, projection: int, series: Indexes) -> None:
        """Records that the receiver has all counts of the given series of a projection, up to the latest reading."""
        self._projected[projection].registry.pending[series] = False

    def _free_details(self) -> None:
        """Frees the numbers of details that no subnet and no series has any more."""
        details = self._series_keys.details
        if details.is_crowded:
            registries = [self._registry, *(each.registry for each in self._projected)]
            used = [self._placement.details(), *(each.slots["key"]["details"] for each in registries)]
            details.keep(np.concatenate(used))

    def _start(self, reading: Reading, counts: CounterTable, networks: Networks) -> None:
        """Finds the subnets of the reading's rows, and updates the ranking of subnets."""
        self._registry.pending[:] = False
        for each in self._projected:
            self._registry.pending |= each.has_pending()
        changed = self._owners.update(reading.generation)
        self._increments.move(self._placement.newcomers(changed), UNANSWERED_SLOT)
        self._increments.start(counts, changed)
        self._histograms.start(reading.rtts)
        self._ranking.reset(self._placement.update(reading, changed, regroup=self._series_keys.refresh(networks)))
        subnets = self._placement.subnet_of
        self._ranking.update(
            len(self._placement.exists),
            Weights(subnets[reading.rtts.rows], self._histograms.new_rtts(reading.rtts)),
            Weights(subnets, counts.counters[:, _PACKETS] - self._increments.previous.counters[:, _PACKETS]),
        )

    def _place(self, rows: Indexes, limits: Limits) -> None:
        """Chooses the series of all rows, and ends series that are not needed any more."""
        eligible = self._ranking.eligible(self._placement.exists, limits.min_samples)
        budget = Budget(self.max_series, max(1, self.max_series // 4) if limits.roll_up else 0)
        is_rolling_up = limits.roll_up and (len(eligible) > budget.total or self._registry.covering)
        individual = budget.total - budget.covering if is_rolling_up else budget.total
        wanted = self._ranking.busiest(eligible, self._placement.is_individual, individual)
        self._placement.aggregate(wanted, budget)
        self._registry.end_unused(np.bincount(self._placement.series_of[rows], minlength=len(self._registry)))
        self._placement.individualize(wanted, budget, self._previous_ns)
        if limits.roll_up:
            self._placement.roll_up(budget, self._previous_ns)
        ended: Indexes = np.zeros(0, np.int64)
        for each in self._projected:
            gone = each.update(self._registry)
            if each is self._with_rtts:
                ended = gone
        self._histograms.start_series(len(self._with_rtts.registry) if self._with_rtts else SHARED_SLOTS, ended)

    def _add_counters(self, counts: CounterTable, owned: Flags, series_of: Indexes) -> None:
        rows = np.flatnonzero(owned & self._increments.increased(counts))
        placed = series_of[rows]
        for some, increments in self._increments.take(counts, rows):
            begin = 0
            for each in self._projected:
                end = begin + len(each.projection.sums.starts)
                each.add(placed[some], CounterTable(increments.counters[:, begin:end]))
                begin = end

    def _add_rtts(self, reading: Reading, series_of: Indexes) -> None:
        rtts = reading.rtts
        is_placed = has_owner(rtts.generation) & (self._placement.subnet_of[rtts.rows] != NO_SUBNET)
        is_placed[OVERFLOW_HISTOGRAM] = True
        if self._with_rtts:
            series = self._with_rtts.of(series_of[rtts.rows])
            self._with_rtts.registry.pending[self._histograms.add(rtts, series, is_placed)] = True
        else:
            self._histograms.add(rtts, np.full(len(rtts.rows), OVERFLOW_SERIES), is_placed)
