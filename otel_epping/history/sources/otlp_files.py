# SPDX-License-Identifier: Apache-2.0
"""Reads slices from OTLP files: lines of OTLP/JSON, as the Collector's file exporter and `run --record` write them.

docs/recordings.md describes which files and which data points are usable.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.history.sources.otlp_increments import HistogramRows, Increments, Unusable, histogram_rows
from otel_epping.history.sources.otlp_json import NotOtlpError, ResourceData, attributes_of, decode
from otel_epping.history.sources.otlp_points import AGENT_LINE, Column, Points, Series, Times, as_array, sort_metric
from otel_epping.history.sources.reading import InputFile
from otel_epping.history.sources.slice_builder import counter_matrix
from otel_epping.kernel.arrays import Indexes

# The points of one reading may be spread over many lines. A slice is built when no point was added to it for
# _SETTLED_LINES lines, or when more than _MAX_POINTS points wait.
_SETTLED_LINES = 16
_MAX_POINTS = 500_000
# Up to this number of intervals before the first export, a series that starts is a series that started in the time of
# the file: the file begins with the first interval of the agent.
_FIRST_INTERVALS = 2
_EARLIEST_NS = 1
# If the slices of a history need more than _MAX_BYTES, pairs of them are merged.
_MAX_BYTES = 400 << 20
_CHECK_SLICES = 64
_S = 10**9


class _Agent:
    """What is known of an agent: a resource with its own service.instance.id.

    label  the value of Line.agent until the end of the files
    """

    def __init__(self, key: str, host: str, label: str, history: History, unusable: Unusable) -> None:
        self.key, self.host, self.label = key, host, label
        self.series = Series(history.numbering, label)
        self.increments = Increments(unusable)
        self.times: Times = {}
        self.touched: dict[int, int] = {}  # the number of the latest line with points of a time
        self.first: list[tuple[int, Points]] = []  # slices that wait until first_ns is known
        self.first_ns: int | None = None
        self.ended_ns = 0


class OtlpReader:
    """Reads OTLP files into a history. Call read() for each file in the order of time, and then finish().

    The files may contain the measurements of several agents. Cumulative counts may continue from file to file.
    """

    def __init__(self) -> None:
        self._history = History()
        self._unusable = Unusable()
        self._agents: dict[bytes, _Agent] = {}
        self._by_key: dict[str, _Agent] = {}
        self._number = 0
        self._waiting = 0
        self._step_ns = 0

    def read(self, file: InputFile) -> None:
        """Reads a file, and closes it. Damaged lines are counted and skipped."""
        damaged: list[tuple[int, str]] = []
        number = 0
        for number, line in enumerate(file.lines(), 1):
            self._number += 1
            if not line.strip():
                continue
            try:
                self._add(decode(line))
            except NotOtlpError as error:
                damaged.append((number, str(error)))
            self._build_settled()
        file.close()
        notes = self._history.notes
        if damaged:
            first, cause = damaged[0]
            which = "1 line is" if len(damaged) == 1 else f"{len(damaged):,} lines are"
            notes.append(f"{file.name}: {which} not used, of {number:,}; line {first}: {cause}")
        if file.damage:
            notes.append(f"{file.name}: {file.damage}; only the data before the damage are used")

    def finish(self) -> History:
        """Returns the history, whose notes say what could not be used."""
        agents = list(self._by_key.values())
        for agent in agents:
            for time_ns in sorted(agent.times):
                self._build(agent, time_ns)
            self._build_first(agent, None)
        if len(agents) > 1:
            hosts = Counter(agent.host for agent in agents)
            names = {a.label: a.host if a.host and hosts[a.host] == 1 else a.key for a in agents}
            self._history = self._history.group(lambda line: line._replace(agent=names[line.agent]))
        self._history.notes.extend(_notes(self._unusable))
        if self._step_ns:
            self._history.notes.append(
                f"to save memory, the intervals of {self._step_ns / _S:g} s were merged, because there were many"
            )
        return self._history

    # ---- reading

    def _add(self, resources: list[ResourceData]) -> None:
        for resource in resources:
            raw = bytes(resource.resource.attributes) if resource.resource else b"[]"
            agent = self._agents.get(raw) or self._new_agent(raw)
            before = sum(map(len, agent.times.values()))
            seen: Times = {}
            for scope in resource.scopeMetrics:
                for metric in scope.metrics:
                    sort_metric(metric, agent.series, seen, self._unusable)
            for time_ns, points in seen.items():
                agent.touched[time_ns] = self._number
                whole = agent.times.setdefault(time_ns, points)
                if whole is not points:
                    whole.extend(points)
            self._waiting += sum(map(len, agent.times.values())) - before

    def _new_agent(self, raw: bytes) -> _Agent:
        attributes = attributes_of(raw)
        key = str(attributes.get("service.instance.id") or sorted(attributes.items()))
        agent = self._by_key.get(key)
        if not agent:
            host, label = str(attributes.get("host.name", "")), f"agent {len(self._by_key)}" if self._by_key else ""
            agent = self._by_key[key] = _Agent(key, host, label, self._history, self._unusable)
        self._agents[raw] = agent
        return agent

    # ---- building slices

    def _build_settled(self) -> None:
        for agent in self._by_key.values():
            for time_ns in sorted(agent.times):
                is_settled = self._number - agent.touched[time_ns] >= _SETTLED_LINES
                if is_settled or (self._waiting > _MAX_POINTS and time_ns < max(agent.times)):
                    self._build(agent, time_ns)

    def _build(self, agent: _Agent, time_ns: int) -> None:
        points = agent.times.pop(time_ns)
        del agent.touched[time_ns]
        self._waiting -= len(points)
        if agent.first_ns is None and points.is_cumulative:
            if agent.first:
                first_ns = agent.first[0][0]
                self._build_first(agent, first_ns - _FIRST_INTERVALS * (time_ns - first_ns))
            else:
                agent.first.append((time_ns, points))
                return
        self._append(agent, time_ns, points)

    def _build_first(self, agent: _Agent, first_ns: int | None) -> None:
        """Builds the slices that waited. A file with only one export has no interval, so all its counts are used."""
        agent.first_ns = _EARLIEST_NS if first_ns is None else first_ns
        for time_ns, points in agent.first:
            self._append(agent, time_ns, points)
        agent.first.clear()

    def _append(self, agent: _Agent, time_ns: int, points: Points) -> None:
        first_ns = agent.first_ns or _EARLIEST_NS
        series, start_ns, values = _columns(points.deltas)
        totals = agent.increments.counters(*_columns(points.totals), time_ns, first_ns)
        current, _, latest = _columns(points.current)
        rtts = histogram_rows(*points.delta_rtts)
        grown, grown_start_ns = agent.increments.histograms(
            histogram_rows(*points.total_rtts), points.total_rtts.values, time_ns, first_ns
        )
        starts = np.concatenate([start_ns, rtts.start_ns, totals[2], grown_start_ns])
        starts = starts[starts > 0]
        begin_ns = agent.ended_ns or time_ns
        if len(starts):
            distinct, numbers = np.unique(starts, return_counts=True)
            begin_ns = int(distinct[numbers.argmax()])
        agent.ended_ns = max(agent.ended_ns, time_ns)
        places = np.array(agent.series.places, np.int64).reshape(-1, 2)
        of_counters = places[np.concatenate([series, totals[0], current])]
        values = np.concatenate([values, totals[1], latest])
        on_line = of_counters[:, 0] != AGENT_LINE
        own: AgentValues = {}
        for (_, column), value in zip(of_counters[~on_line].tolist(), values[~on_line].tolist(), strict=True):
            key = agent.series.agent_columns[column]
            own[key] = own.get(key, 0) + value
        of_lines = of_counters[on_line]
        lines, counters = counter_matrix(of_lines[:, 0], of_lines[:, 1], values[on_line].astype(np.uint64))
        tables = [_as_rtts(each, places) for each in (rtts, grown) if len(each.series)]
        self._history.add(Slice(min(begin_ns, time_ns), time_ns, lines, counters, Rtts.joined(tables), own))
        if len(self._history) % _CHECK_SLICES == 0 and self._history.nbytes > _MAX_BYTES:
            self._step_ns = max(
                2 * self._step_ns, 2 * (self._history.end_ns - self._history.begin_ns) // len(self._history)
            )
            self._history.coarsen(self._step_ns)


def _columns(points: Column) -> tuple[Indexes, Indexes, Indexes]:
    return np.array(points.series, np.int64), np.array(points.start_ns, np.int64), as_array(points.values)


def _as_rtts(rows: HistogramRows, places: Indexes) -> Rtts:
    lines, methods = places[rows.series].T
    return Rtts(lines, methods, rows.scales, rows.buckets, rows.sum_ns, rows.min_ns, rows.max_ns)


def _notes(unusable: Unusable) -> list[str]:
    found = []
    if unusable.foreign:
        names = sorted(unusable.foreign)
        named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        found.append(f"{sum(unusable.foreign.values()):,} data points of other metrics are not used: {named}")
    for number, cause in (
        (unusable.without_time, "have no time"),
        (unusable.without_temporality, "are neither deltas nor cumulative"),
        (unusable.invalid_attributes, "have invalid attributes"),
        (unusable.odd_buckets, "have buckets that cannot be converted"),
        (unusable.late, "are not later than the previous point of their series"),
    ):
        if number:
            found.append(f"{number:,} data points are not used, because they {cause}")
    if unusable.decreased:
        found.append(f"{unusable.decreased:,} cumulative counts decreased without a restart; each is a new baseline")
    if unusable.resets:
        found.append(f"{unusable.resets:,} series were reset, for example because the agent was restarted")
    if unusable.baselines:
        found.append(f"{unusable.baselines:,} series began before the files: their earlier counts are not used")
    return found


def read_otlp(files: Sequence[InputFile]) -> History:
    """Returns the history of OTLP files, which are in the order of time.

    Raises EppingError if no file has usable counts.
    """
    reader = OtlpReader()
    for file in files:
        reader.read(file)
    history = reader.finish()
    if not len(history):
        causes = ": " + "; ".join(history.notes) if history.notes else ""
        raise EppingError(f"{', '.join(file.name for file in files)}: no counts of otel-epping{causes}")
    return history
