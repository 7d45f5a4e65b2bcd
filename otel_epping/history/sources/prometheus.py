# SPDX-License-Identifier: Apache-2.0
"""Reads slices from Prometheus' HTTP API, with native histograms. Mimir and Thanos have the same API.

The source reads the values of counters and histograms at each step of a range query, and computes the differences of
consecutive values, as for cumulative counts in OTLP files. PromQL's increase() is not used. This
function extrapolates, so the results differ from the counts. docs/recordings.md describes the limits of this method.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.agent_slices import AgentSlices, label_of, notes_of, with_names
from otel_epping.history.sources.otlp_increments import Stored, Unusable
from otel_epping.history.sources.otlp_json import MAX_COUNT
from otel_epping.history.sources.otlp_points import CURRENT_KINDS, PointColumn, TimePoints
from otel_epping.history.sources.prometheus_api import FoundSeries, NativeHistogram, PrometheusApi
from otel_epping.history.sources.prometheus_names import METRIC_OF, LabelSet, label_set, split_labels
from otel_epping.history.sources.reading import RANGE_SIZE, Progress
from otel_epping.otel.metric import Metric
from otel_epping.otel.metric_table import RTT

_S = 10**9
# The possible default steps. By default, there are at most _MAX_STEPS steps.
_STEPS_S = (60, 300, 600, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400)
_MAX_STEPS = 300
# A query has at most _STEPS_AT_ONCE steps, and about _HISTOGRAMS_AT_ONCE histograms. A native histogram of Prometheus
# has 2 to 3 kB of JSON, which needs 12 kB of memory. By default, Prometheus allows 11,000 steps in a query.
_STEPS_AT_ONCE, _HISTOGRAMS_AT_ONCE = 24, 10_000
# The scales of Prometheus' native histograms. An RTT is between 2^-_MAX_POWER and 2^_MAX_POWER seconds.
_MIN_SCALE, _MAX_SCALE = -4, 8
_MAX_POWER = 64
# A greater sum of RTTs in seconds is damaged.
_MAX_SUM_S = 1e10
# The rule of a bucket that excludes its lower bound and includes its upper bound.
_LOWER_OPEN = 0
# The start time of a series that existed before the range of time, and the first start time of other series.
_BEFORE_NS, _FIRST_NS = 1, 2
_RTTS = "exponential histogram"


class _Range:
    """Reads one range of time from one API."""

    def __init__(self, api: PrometheusApi, progress: Progress) -> None:
        self._api, self._progress = api, progress
        self._history = History()
        self._unusable = Unusable()
        self._agents: dict[LabelSet, AgentSlices] = {}
        self._used: dict[tuple[str, int], LabelSet] = {}  # labels of the latest point of each series of an agent
        self._repeated = 0
        self._latest: dict[str, dict[int, tuple[float, int]]] = {}  # value and start time of each series of an agent
        self._waiting: dict[str, set[int]] = {}  # series of a restarted agent that have no new value yet
        self._resets = 0

    def read(self) -> History:
        """Returns the history."""
        api = self._api
        names = api.names(f'{{__name__=~"epping[._].*"{"," if api.match else ""}{api.match}}}')
        metrics: dict[str, list[str]] = {}
        for name in names:
            if name in METRIC_OF:
                metrics.setdefault(METRIC_OF[name].name, []).append(name)
        classic = [name for name in names if name.endswith("_bucket") and name.removesuffix("_bucket") in METRIC_OF]
        if not metrics and not classic:
            raise EppingError(
                f"{api.name}: no metrics of otel-epping in the range of time: check start, end and match, and that the "
                "agent exports to this database"
            )
        span_s = api.end_s - api.start_s
        step_s = api.step_s or next((s for s in _STEPS_S if span_s / s <= _MAX_STEPS), _STEPS_S[-1])
        start_s, steps, most, done = api.start_s, 1, 1, 0
        while start_s <= api.end_s:
            end_s = min(start_s + step_s * (steps - 1), api.end_s)
            most = max(most, self._read_steps(metrics, start_s, end_s, step_s) // steps)
            start_s, steps = start_s + step_s * steps, min(max(_HISTOGRAMS_AT_ONCE // most, 1), _STEPS_AT_ONCE)
            share = RANGE_SIZE * (end_s - api.start_s) // span_s
            self._progress(share - done)
            done = share
        history = with_names(self._history, list(self._agents.values()))
        history.notes += notes_of(self._unusable)
        if self._repeated:
            history.notes.append(
                "data points that are not used, because the same series with another name has a point of this "
                f"time: {self._repeated:,}"
            )
        if self._resets:
            history.notes.append(f"{self._resets:,} values decreased, for example because the agent was restarted")
        if classic:
            history.notes.append(f"{classic[0]} is a classic histogram: only native histograms are used")
        elif RTT.name not in metrics:
            history.notes.append(f"{api.name} has no histograms of RTTs: it must store native histograms")
        history.notes += [f"{api.name} warns: {warning}" for warning in api.warnings]
        if not len(history):
            causes = ": " + "; ".join(history.notes) if history.notes else ""
            raise EppingError(f"{api.name}: no increase of metrics of otel-epping in the range of time{causes}")
        return history

    def _read_steps(self, metrics: dict[str, list[str]], start_s: int, end_s: int, step_s: int) -> int:
        """Adds the slices of some steps. Returns the number of histograms. `metrics` has the names of each metric."""
        histograms = 0
        times: dict[tuple[int, AgentSlices], TimePoints] = {}
        for names in metrics.values():
            found: dict[tuple[AgentSlices, int], list[FoundSeries]] = {}
            for name in names:
                selector = f'{{__name__="{name}"{"," if self._api.match else ""}{self._api.match}}}'
                for series in self._api.values(selector, start_s, end_s, step_s):
                    histograms += len(series.histograms or ())
                    found.setdefault(self._find(series, METRIC_OF[name]), []).append(series)
            metric = METRIC_OF[names[0]]
            for (agent, number), several in found.items():
                for time_ns, value, stored in self._points(agent, number, several, metric):
                    points = times.setdefault((time_ns, agent), TimePoints())
                    if metric.kind in CURRENT_KINDS:
                        points.current.extend(PointColumn([number], [0], [value]))
                        continue
                    column = points.total_rtts if stored else points.totals
                    column.extend(PointColumn([number], [0], [stored or value]))
        for time_ns, agent in sorted(times, key=lambda each: each[0]):
            self._add_slice(agent, time_ns, times[time_ns, agent])
        return histograms

    def _find(self, series: FoundSeries, metric: Metric) -> tuple[AgentSlices, int]:
        """Returns the agent and the number of a series. Series of several translation strategies have one number."""
        attributes, others = split_labels(series.metric)
        key = label_set(others)
        agent = self._agents.get(key) or self._new_agent(key, others)
        labels = label_set(series.metric)
        number = agent.series.of(metric.name).get(labels)
        return agent, agent.series.new(metric.name, labels, attributes) if number is None else number

    def _points(
        self, agent: AgentSlices, number: int, several: list[FoundSeries], metric: Metric
    ) -> Iterator[tuple[int, float, Stored | None]]:
        """Yields the points of a series of an agent.

        Prometheus has several series with the same labels if the translation strategy was changed, or if two strategies
        are in use. The latest used series is used until it ends, and then the next series continues.
        """
        latest, latest_ns = self._used.get((agent.key, number)), 0
        several.sort(key=lambda each: (frozenset(each.metric.items()) != latest, _first_s(each)))
        for series in several:
            for point in _points(series, metric, self._unusable):
                if point[0] <= latest_ns:
                    self._repeated += 1
                    continue
                latest_ns = point[0]
                self._used[agent.key, number] = frozenset(series.metric.items())
                yield point

    def _new_agent(self, key: LabelSet, labels: dict[str, str]) -> AgentSlices:
        text = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
        label = label_of(len(self._agents))
        agent = AgentSlices(text, labels.get("instance", ""), label, self._history.numbering, self._unusable)
        agent.first_ns = _FIRST_NS
        self._agents[key] = agent
        return agent

    def _add_slice(self, agent: AgentSlices, time_ns: int, points: TimePoints) -> None:
        """Adds the slice of a step. The first step of an agent has only baselines, so this step gives no slice."""
        columns = points.totals, points.total_rtts
        values = [(series, _count(value)) for column in columns for series, value in zip(*column[::2], strict=True)]
        starts = self._start_ns(agent, values)
        for column in columns:
            column.start_ns[:] = [starts[series] for series in column.series]
        is_first = not agent.ended_ns
        slice = agent.slice(time_ns, points)
        if not is_first:
            self._history.add(slice)

    def _start_ns(self, agent: AgentSlices, values: list[tuple[int, float]]) -> dict[int, int]:
        """Returns start times for CumulativeSeries, by series. Prometheus stores no start times.

        A series without a value at an earlier step of the agent is a new series. A series whose value is smaller than
        at an earlier step was reset. If most changed values are smaller, the agent was restarted, so all series were
        reset. For up to 5 minutes, Prometheus still returns the old value of a series that has no new value. So a
        series of a restarted agent begins when its value changes.
        """
        latest, waiting = self._latest.setdefault(agent.key, {}), self._waiting.setdefault(agent.key, set())
        changed = [(series, value) for series, value in values if series in latest and value != latest[series][0]]
        begun = {series for series, _ in changed if series in waiting}
        others = [(series, value) for series, value in changed if series not in waiting]
        smaller = {series for series, value in others if value < latest[series][0]}
        self._resets += len(smaller)
        if len(smaller) > len(others) / 2:
            waiting.update(latest)
            begun.update(series for series, _ in others)
        begun |= smaller
        waiting -= begun
        starts = {}
        for series, value in values:
            is_new = series not in latest or series in begun
            starts[series] = (agent.ended_ns or _BEFORE_NS) if is_new else latest[series][1]
            latest[series] = value, starts[series]
        return starts


def _count(value: Any) -> float:
    """Returns a value of a counter, or the number of RTTs of a histogram."""
    return float(sum(value[2]) if isinstance(value, tuple) else value)


def _first_s(series: FoundSeries) -> float:
    return min(points[0][0] for points in (series.values, series.histograms, [(math.inf,)]) if points)


def _points(series: FoundSeries, metric: Metric, unusable: Unusable) -> Iterator[tuple[int, float, Stored | None]]:
    """Yields time, value and histogram of each step. The value of a histogram is the number of RTTs."""
    is_rtts = metric.kind == _RTTS
    for time_s, text in series.values or ():
        value = float(text)
        if is_rtts or not 0 <= value <= MAX_COUNT:  # a NaN is not greater than 0
            unusable.odd_buckets += is_rtts
            unusable.impossible_counts += not is_rtts
            continue
        yield round(time_s * _S), value, None
    for time_s, histogram in series.histograms or ():
        if not (0 <= float(histogram.count) <= MAX_COUNT and 0 <= float(histogram.sum) <= _MAX_SUM_S):
            unusable.impossible_counts += 1
            continue
        stored = _stored(histogram) if is_rtts else None
        if stored is None:
            unusable.odd_buckets += 1
            continue
        yield round(time_s * _S), float(histogram.count), stored


def _stored(histogram: NativeHistogram) -> Stored | None:
    """Returns the histogram, or None if it does not have exponential buckets of RTTs."""
    scale, counts = _MAX_SCALE, dict[int, int]()
    for rule, lower, upper, count in histogram.buckets or ():
        place = _place(lower, upper)
        value = float(count)
        if rule != _LOWER_OPEN or place is None or (counts and place[0] != scale) or not 0 <= value <= MAX_COUNT:
            return None
        scale, index = place
        counts[index] = round(value)
    if not counts:
        return None if float(histogram.count) else (_MAX_SCALE, 0, [], 0.0, 0.0, 0.0)
    first = min(counts)
    row = [counts.get(index, 0) for index in range(first, max(counts) + 1)]
    if sum(row) != round(float(histogram.count)):
        return None
    return scale, first, row, float(histogram.sum), 0.0, 0.0


@lru_cache(4096)
def _place(lower: str, upper: str) -> tuple[int, int] | None:
    """Returns the scale and the index of a bucket from its bounds in seconds."""
    low, high = float(lower), float(upper)
    if not 2.0**-_MAX_POWER <= low < high <= 2.0**_MAX_POWER:
        return None
    width = math.log2(high) - math.log2(low)
    if not width > 0:
        return None
    scale = round(-math.log2(width))
    if not _MIN_SCALE <= scale <= _MAX_SCALE:
        return None
    index = math.log2(high) * 2.0**scale
    if abs(width * 2.0**scale - 1) > 1e-6 or abs(index - round(index)) > 1e-4:
        return None
    return scale, round(index) - 1


def read_prometheus(urls: Sequence[str], progress: Progress = lambda _: None) -> History:
    """Returns the history of a range of time in Prometheus (PrometheusApi). Raises EppingError without any counts."""
    if len(urls) != 1:
        raise EppingError("several ranges of Prometheus cannot be added up: name one URL")
    api = PrometheusApi(urls[0])
    try:
        return _Range(api, progress).read()
    except (ValueError, OverflowError) as error:  # a value is not a number
        raise EppingError(f"{api.name}: the answer is not of Prometheus' HTTP API: {error}") from None
