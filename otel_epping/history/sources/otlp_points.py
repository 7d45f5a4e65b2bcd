# SPDX-License-Identifier: Apache-2.0
"""Sorts the data points of OTLP requests by agent and time. One agent and time give one slice."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from msgspec import Raw

from otel_epping.history.columns import ColumnKey, Numbering, Numbers
from otel_epping.history.line import split_attributes
from otel_epping.history.sources.otlp_increments import Stored, Unusable
from otel_epping.history.sources.otlp_json import (
    CUMULATIVE,
    MAX_COUNT,
    NO_RECORDED_VALUE,
    Explicit,
    ExplicitPoint,
    Exponential,
    ExponentialPoint,
    MetricData,
    NotOtlpError,
    NumberPoint,
    attributes_of,
)
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.buckets import SCALES
from otel_epping.otel import semconv
from otel_epping.otel.metric_table import METRICS

AGENT_LINE = -1
CURRENT_KINDS = ("updowncounter", "gauge")
_METRICS = {metric.name: metric for metric in METRICS}
_MAX_SCALE = 20
# Histograms of higher scales are converted to this scale, which is the highest scale of otel-epping's own histograms.
_MAX_KEPT_SCALE = max(SCALES)
_AS_NUMBER_DIGITS = 10
# An RTT is between 2^-_MAX_POWER and 2^_MAX_POWER seconds.
_MAX_POWER = 64

_Point = TypeVar("_Point", bound=NumberPoint | ExponentialPoint | ExplicitPoint)


class Series:
    """The series of one agent, with a number for each series.

    `places` has two numbers for each series: the line, or AGENT_LINE; and the column or the method. The column of
    AGENT_LINE is a number of `agent_columns`. `agent` is the value of Line.agent.
    """

    def __init__(self, numbering: Numbering, agent: str) -> None:
        self.places: list[tuple[int, int]] = []
        self.agent_columns = Numbers[ColumnKey]()
        self._numbering, self._agent = numbering, agent
        self._known: dict[str, dict[Hashable, int]] = {}
        self._found: dict[str, tuple[list[Raw], list[int | None]]] = {}  # the latest arguments and result of find()

    def of(self, metric: str) -> dict[Hashable, int]:
        """Returns the numbers of the known series of a metric, by attributes."""
        return self._known.setdefault(metric, {})

    def find(self, metric: str, raws: list[Raw], unusable: Unusable) -> list[int | None]:
        """Returns the number of each series, or None if its attributes are invalid. Gives numbers to new series.

        Most requests have the series of the previous request. A comparison with these series is faster than a search,
        and does not copy the attributes.
        """
        latest, numbers = self._found.get(metric, ([], []))
        if raws != latest:
            known, keys = self.of(metric), map(bytes, raws)
            numbers = [number if (number := known.get(key)) is not None else self._new(metric, key) for key in keys]
            unusable.invalid_attributes += numbers.count(None)
            self._found[metric] = raws, numbers
        return numbers

    def _new(self, metric: str, raw: bytes) -> int | None:
        try:
            attributes = attributes_of(raw)
        except NotOtlpError:
            return None
        # The same attributes in another order, or with other spaces, are the same series.
        known, key = self.of(metric), frozenset(attributes.items())
        number = known.get(key)
        number = known[raw] = self.new(metric, key, attributes) if number is None else number
        return number

    def new(self, metric: str, key: Hashable, attributes: Mapping[str, Any]) -> int:
        """Gives a number to a series. `key` identifies the series among the series of the metric."""
        known = _METRICS[metric]
        attributes = {name: _typed(name, value) for name, value in attributes.items()}
        if semconv.SUBNET not in known.keys:
            place = AGENT_LINE, self.agent_columns.find(ColumnKey.of(metric, attributes))
        else:
            line, rest = split_attributes(attributes, self._agent)
            number = self._numbering.lines.find(line)
            if known.kind == "exponential histogram":
                place = number, self._numbering.methods.find(str(rest.get(semconv.METHOD, "")))
            else:
                place = number, self._numbering.columns.find(ColumnKey.of(metric, rest))
        number = self.of(metric)[key] = len(self.places)
        self.places.append(place)
        return number


class PointColumn(NamedTuple):
    """n points: for each point, the number of the series, the start time, and the value."""

    series: list[int]
    start_ns: list[int]
    values: list[Any]

    def extend(self, other: "PointColumn") -> None:
        """Adds the points of another object."""
        for ours, theirs in zip(self, other, strict=True):
            ours += theirs


def _column() -> PointColumn:
    return PointColumn([], [], [])


def _typed(name: str, value: Any) -> Any:
    """Returns the value of an attribute, converted to the type of otel-epping's attribute."""
    if name in semconv.AGGREGATES:
        return str(value).lower() == "true"
    if name == semconv.AS_NUMBER:
        text = str(value)
        return int(text) if text.isdecimal() and len(text) <= _AS_NUMBER_DIGITS else None
    return str(value)


@dataclass
class TimePoints:
    """The points of one agent and time. The values of histograms have the type Stored. Other values are numbers.

    deltas, totals          the counts of delta and cumulative counters
    current                 current values
    delta_rtts, total_rtts  delta and cumulative histograms
    """

    deltas: PointColumn = field(default_factory=_column)
    totals: PointColumn = field(default_factory=_column)
    current: PointColumn = field(default_factory=_column)
    delta_rtts: PointColumn = field(default_factory=_column)
    total_rtts: PointColumn = field(default_factory=_column)

    def __len__(self) -> int:
        return sum(len(each.series) for each in self._all())

    @property
    def is_cumulative(self) -> bool:
        """True if there are cumulative counts."""
        return bool(self.totals.series or self.total_rtts.series)

    @property
    def cumulative_series(self) -> set[int]:
        """The numbers of the series that have cumulative counts."""
        return {*self.totals.series, *self.total_rtts.series}

    def extend(self, other: "TimePoints") -> None:
        """Adds the points of another object."""
        for ours, theirs in zip(self._all(), other._all(), strict=True):
            ours.extend(theirs)

    def _all(self) -> tuple[PointColumn, ...]:
        return self.deltas, self.totals, self.current, self.delta_rtts, self.total_rtts


Times = dict[int, TimePoints]


def sort_metric(metric: MetricData, series: Series, times: Times, unusable: Unusable) -> None:
    """Adds each point of a metric to the points of the same time."""
    data = metric.data
    if data is None or not data.dataPoints:
        return
    known = _METRICS.get(metric.name)
    is_histogram = isinstance(data, (Exponential, Explicit))
    if not known or metric.summary is data or is_histogram != (known.kind == "exponential histogram"):
        unusable.foreign[metric.name] = unusable.foreign.get(metric.name, 0) + len(data.dataPoints)
        return
    is_current = known.kind in CURRENT_KINDS
    temporality = 0 if metric.gauge is data else data.temporality  # type: ignore[union-attr]
    if not temporality and not is_current:
        unusable.without_temporality += len(data.dataPoints)
        return
    if isinstance(data, (Exponential, Explicit)):
        name = "total_rtts" if temporality == CUMULATIVE else "delta_rtts"
        _sort_histograms(data.dataPoints, metric.name, name, series, times, unusable)
    else:
        name = "current" if is_current else "totals" if temporality == CUMULATIVE else "deltas"
        _sort_numbers(data.dataPoints, metric.name, name, series, times, unusable)  # type: ignore[arg-type]


def _sort_numbers(
    points: Sequence[NumberPoint], metric: str, name: str, series: Series, times: Times, unusable: Unusable
) -> None:
    values = [each.asInt for each in points]
    if None in values:
        points = _with_values(points, unusable)
        values = [each.value for each in points]
    _sort(points, values, metric, name, series, times, unusable)


def _sort_histograms(
    points: Sequence[ExponentialPoint | ExplicitPoint],
    metric: str,
    name: str,
    series: Series,
    times: Times,
    unusable: Unusable,
) -> None:
    stored = [_stored(point) for point in points]
    if None in stored:
        points = _with_values(points, unusable)
        possible = [point for point in points if point.count <= MAX_COUNT]
        unusable.impossible_counts += len(points) - len(possible)
        points = possible
        stored = [_stored(point) for point in points]
        points = [point for point, each in zip(points, stored, strict=True) if each is not None]
        unusable.odd_buckets += len(stored) - len(points)
        stored = [each for each in stored if each is not None]
    _sort(points, stored, metric, name, series, times, unusable)


def _with_values(points: Sequence[_Point], unusable: Unusable) -> list[_Point]:
    """Returns the points that have a value, and counts the others."""
    found = [point for point in points if not point.flags & NO_RECORDED_VALUE]
    unusable.without_value += len(points) - len(found)
    return found


def _sort(
    points: Sequence[NumberPoint | ExponentialPoint | ExplicitPoint],
    values: list[Any],
    metric: str,
    name: str,
    series: Series,
    times: Times,
    unusable: Unusable,
) -> None:
    numbers = series.find(metric, [point.attributes for point in points], unusable)
    starts = [point.startTimeUnixNano for point in points]
    ends = [point.timeUnixNano for point in points]
    if len(ends) and ends[0] and None not in numbers and ends.count(ends[0]) == len(ends):
        # Nearly always, all points of a request have the same time.
        column: PointColumn = getattr(times.setdefault(ends[0], TimePoints()), name)
        column.extend(PointColumn(numbers, starts, values))  # type: ignore[arg-type]
        return
    for number, start_ns, end_ns, value in zip(numbers, starts, ends, values, strict=True):
        if number is None:
            continue
        if not end_ns:
            unusable.without_time += 1
            continue
        column = getattr(times.setdefault(end_ns, TimePoints()), name)
        column.extend(PointColumn([number], [start_ns], [value]))


def _stored(point: ExponentialPoint | ExplicitPoint) -> Stored | None:
    """Returns a histogram of RTTs, or None if the point has no value, or if its buckets are not usable."""
    if point.flags & NO_RECORDED_VALUE:
        return None
    if isinstance(point, ExponentialPoint):
        scale, positive = point.scale, point.positive
        first, counts = (positive.offset, positive.bucketCounts) if positive else (0, [])
        if not -10 <= scale <= _MAX_SCALE:
            return None
    else:
        found = _exponential_bounds(tuple(point.explicitBounds))
        if not found or len(point.bucketCounts) != len(point.explicitBounds) + 1 or point.bucketCounts[-1]:
            return None
        (scale, first), counts = found, point.bucketCounts[:-1]
    # Values outside of the buckets are zeros and negative values (exponential). No RTT has such a value.
    if sum(counts) != point.count or point.count > MAX_COUNT:
        return None
    if not -_MAX_POWER <= first / 2**scale <= (first + len(counts)) / 2**scale <= _MAX_POWER:
        return None
    if scale > _MAX_KEPT_SCALE:
        first, counts = _downscaled(first, counts, scale - _MAX_KEPT_SCALE)
        scale = _MAX_KEPT_SCALE
    return scale, first, counts, point.sum or 0.0, point.min or 0.0, point.max or 0.0


def _downscaled(first: int, counts: list[int], halvings: int) -> tuple[int, list[int]]:
    merged = [0] * (((first + len(counts) - 1) >> halvings) - (first >> halvings) + 1 if counts else 0)
    for place, count in enumerate(counts, first):
        merged[(place >> halvings) - (first >> halvings)] += count
    return first >> halvings, merged


@lru_cache(64)
def _exponential_bounds(bounds: tuple[float, ...]) -> tuple[int, int] | None:
    """Returns the scale and the index of the first bucket if the bounds are consecutive bounds of exponential buckets.

    The bounds of otel-epping's histograms with explicit buckets are of this kind (otel/explicit_buckets.py).
    """
    if len(bounds) < 2 or not all(0 < low < high < math.inf for low, high in pairwise(bounds)):
        return None
    powers = np.log2(np.array(bounds))
    scale = round(-math.log2(float(powers[1] - powers[0]))) if powers[1] > powers[0] else _MAX_SCALE + 1
    indexes = powers * 2.0**scale
    first = round(float(indexes[0]))
    if scale > _MAX_SCALE or np.abs(indexes - first - np.arange(len(bounds))).max() > 1e-6:
        return None
    return scale, first - 1


def count_arrays(points: PointColumn, unusable: Unusable) -> tuple[Indexes, Indexes, Indexes]:
    """Returns the series, the start times and the rounded values of points. Points with impossible counts are dropped.

    The values of many points are compared at once, because a comparison of each value takes longer.
    """
    series, start_ns = np.array(points.series, np.int64), np.array(points.start_ns, np.int64)
    values = np.array(points.values)
    possible = (values >= 0) & (values <= MAX_COUNT)  # false for a NaN
    if not possible.all():
        unusable.impossible_counts += int(np.count_nonzero(~possible))
        series, start_ns, values = series[possible], start_ns[possible], values[possible]
    return series, start_ns, (values if values.dtype == np.int64 else np.rint(values)).astype(np.int64)
