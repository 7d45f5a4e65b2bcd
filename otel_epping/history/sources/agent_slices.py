# SPDX-License-Identifier: Apache-2.0
"""Builds the slices of agents from the data points of their exports."""

from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np

from otel_epping.history.columns import Numbering
from otel_epping.history.history import History
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.history.sources.otlp_increments import CumulativeSeries, HistogramRows, Unusable, histogram_rows
from otel_epping.history.sources.otlp_points import AGENT_LINE, PointColumn, Series, TimePoints, Times, count_arrays
from otel_epping.history.sources.slice_builder import counter_matrix
from otel_epping.kernel.arrays import Flags, Indexes, grow

EARLIEST_NS = 1
"""If first_ns has this value, the counts of the first point of each series are used."""


class AgentSlices:
    """The state of an agent. An agent is a resource with a service.instance.id that no other resource has.

    key       identifies the agent
    host      the name of its host, or ""
    label     the value of Line.agent until all agents are known
    first_ns  earliest start time of the series whose first point is used; None until this time is known. A series that
              started earlier has counts from before the time of the source
    """

    def __init__(self, key: str, host: str, label: str, numbering: Numbering, unusable: Unusable) -> None:
        self.key, self.host, self.label = key, host, label
        self.series = Series(numbering, label)
        self.increments = CumulativeSeries(unusable)
        self._unusable = unusable
        self._places: Indexes = np.zeros((0, 2), np.int64)  # series.places
        self.times: Times = {}
        self.touched: dict[int, int] = {}  # the number of the latest line with points of a time
        self.first: list[tuple[int, TimePoints]] = []  # slices that wait until first_ns is known
        self.first_ns: int | None = None
        self.ended_ns = 0
        self._has_deltas: Flags = np.zeros(0, np.bool_)  # by series

    def slice(self, time_ns: int, points: TimePoints) -> Slice:
        """Returns the slice of all points of a time. Call this method in the order of time."""
        first_ns = self.first_ns or EARLIEST_NS
        series, start_ns, values = count_arrays(points.deltas, self._unusable)
        single = self._without_totals(series, start_ns, time_ns)
        series, start_ns, values = series[single], start_ns[single], values[single]
        rtts = histogram_rows(*points.delta_rtts)
        rtts = rtts.take(self._without_totals(rtts.series, rtts.start_ns, time_ns))
        rtts = rtts.take(rtts.buckets.totals() != 0)
        self._has_deltas = grow(self._has_deltas, len(self.series.places))
        self._has_deltas[np.concatenate([series, rtts.series])] = True
        totals = count_arrays(self._without_deltas(points.totals), self._unusable)
        totals = self.increments.counters(*totals, time_ns, first_ns)
        current, _, latest = count_arrays(points.current, self._unusable)
        total_rtts = self._without_deltas(points.total_rtts)
        grown, grown_start_ns = self.increments.histograms(
            histogram_rows(*total_rtts), total_rtts.values, time_ns, first_ns
        )
        starts = np.concatenate([start_ns, rtts.start_ns, totals[2], grown_start_ns])
        starts = starts[starts > 0]
        begin_ns = self.ended_ns or time_ns
        if len(starts):
            distinct, numbers = np.unique(starts, return_counts=True)
            begin_ns = int(distinct[numbers.argmax()])
        self.ended_ns = max(self.ended_ns, time_ns)
        if len(self._places) < len(self.series.places):  # the conversion takes 5 % of the reading time
            self._places = np.array(self.series.places, np.int64)
        places = self._places
        of_counters = places[np.concatenate([series, totals[0], current])]
        values = np.concatenate([values, totals[1], latest])
        on_line = of_counters[:, 0] != AGENT_LINE
        own: AgentValues = {}
        for (_, column), value in zip(of_counters[~on_line].tolist(), values[~on_line].tolist(), strict=True):
            key = self.series.agent_columns[column]
            own[key] = own.get(key, 0) + value
        of_lines = of_counters[on_line]
        lines, counters = counter_matrix(of_lines[:, 0], of_lines[:, 1], values[on_line].astype(np.uint64))
        tables = [_as_rtts(each, places) for each in (rtts, grown) if len(each.series)]
        return Slice(min(begin_ns, time_ns), time_ns, lines, counters, Rtts.joined(tables), own)

    def _without_totals(self, series: Indexes, start_ns: Indexes, time_ns: int) -> Flags:
        """Returns false for deltas whose time has cumulative counts of the same series, which are the same counts."""
        doubled = self.increments.overlap(series, start_ns, time_ns)
        self._unusable.doubled += int(np.count_nonzero(doubled))
        return ~doubled

    def _without_deltas(self, points: PointColumn) -> PointColumn:
        """Removes cumulative points of series that have deltas. The points and the deltas have the same counts."""
        kept = ~self._has_deltas[np.array(points.series, np.int64)]
        if kept.all():
            return points
        self._unusable.doubled += int(np.count_nonzero(~kept))
        return PointColumn(*(list(compress(each, kept.tolist())) for each in points))


def _as_rtts(rows: HistogramRows, places: Indexes) -> Rtts:
    lines, methods = places[rows.series].T
    return Rtts(lines, methods, rows.scales, rows.buckets, rows.sum_ns, rows.min_ns, rows.max_ns)


def label_of(number: int) -> str:
    """Returns the label of an agent. Most sources have one agent, so the first label is empty."""
    return f"agent {number}" if number else ""


def with_names(history: History, agents: Sequence[AgentSlices]) -> History:
    """Replaces the label of each agent by the name of the host if no other agent has this name, or else by the key."""
    if len(agents) <= 1:
        return history
    hosts = Counter(agent.host for agent in agents)
    names = {each.label: each.host if each.host and hosts[each.host] == 1 else each.key for each in agents}
    return history.group(lambda line: line._replace(agent=names[line.agent]))


def notes_of(unusable: Unusable) -> list[str]:
    """Returns a sentence for each cause for which data points are not used."""
    found = []
    if unusable.foreign:
        names = sorted(unusable.foreign)
        named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        found.append(f"data points of other metrics, which are not used: {sum(unusable.foreign.values()):,} ({named})")
    for number, cause in (
        (unusable.without_time, "have no time"),
        (unusable.without_value, "have no value"),
        (unusable.without_temporality, "are neither deltas nor cumulative"),
        (unusable.invalid_attributes, "have invalid attributes"),
        (unusable.odd_buckets, "have buckets that cannot be converted"),
        (unusable.impossible_counts, "have an impossible count"),
        (unusable.doubled, "have the same counts as other points, which are deltas or cumulative"),
        (unusable.late, "are not later than the previous point of their series"),
    ):
        if number:
            found.append(f"data points that are not used, because they {cause}: {number:,}")
    if unusable.decreased:
        found.append(
            f"cumulative counts that decreased without a restart, each of which is a baseline: {unusable.decreased:,}"
        )
    if unusable.resets:
        found.append(f"series that were reset, for example because the agent was restarted: {unusable.resets:,}")
    if unusable.baselines:
        found.append(
            f"series that began earlier than the source, so that earlier counts are not used: {unusable.baselines:,}"
        )
    return found
