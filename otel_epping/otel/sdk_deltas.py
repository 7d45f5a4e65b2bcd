# SPDX-License-Identifier: Apache-2.0
"""Keeps the counts of the SDK's delta counters if an export fails, and adds these counts to the next export.

When the SDK collects a delta counter, the SDK resets the counter, even if the export then fails. For example, each
failed export would also lose the count of failed exports.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

_log = logging.getLogger(__name__)

# Maximum number of points that are kept. Without this limit, an application that creates new attribute sets while
# exports fail could use any amount of memory.
_MAX_POINTS = 10_000


class _Key(NamedTuple):
    scope: object
    metric: str
    attributes: frozenset[tuple[str, object]]


class _Kept(NamedTuple):
    scope: ScopeMetrics
    metric: Metric
    point: NumberDataPoint


def _key(scope: ScopeMetrics, metric: Metric, point: NumberDataPoint) -> _Key:
    return _Key(scope.scope, metric.name, frozenset((point.attributes or {}).items()))


def _deltas(resources: Sequence[ResourceMetrics]) -> Iterator[_Kept]:
    for resource in resources[:1]:  # all metrics of a provider have the same resource
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if isinstance(metric.data, Sum) and metric.data.aggregation_temporality is AggregationTemporality.DELTA:
                    points = (point for point in metric.data.data_points if isinstance(point, NumberDataPoint))
                    yield from (_Kept(scope, metric, point) for point in points)


def _with_points(metric: Metric, points: list[NumberDataPoint] | None) -> Metric:
    return (
        replace(metric, data=replace(metric.data, data_points=points))
        if isinstance(metric.data, Sum) and points
        else metric
    )


class UndeliveredDeltas:
    """The delta points that the receiver does not have yet."""

    def __init__(self) -> None:
        self._kept: dict[_Key, _Kept] = {}

    def acknowledge(self) -> None:
        """Forgets all points. Call acknowledge() when the receiver has received the metrics from the last add_to()."""
        self._kept.clear()

    def add_to(self, resources: Sequence[ResourceMetrics]) -> Sequence[ResourceMetrics]:
        """Adds all kept deltas to the metrics of an export.

        Keeps the sum of old and new deltas until acknowledge() is called.
        """
        kept = self._kept
        self._kept = {_key(*each): each for each in _deltas(resources)}
        for key, old in kept.items():
            new = self._kept.get(key)
            self._kept[key] = new._replace(point=_sum(old.point, new.point)) if new else old
        if len(self._kept) > _MAX_POINTS:
            _log.warning("the SDK's pending counts were dropped: more than %d points waited for an export", _MAX_POINTS)
            self._kept.clear()
            return resources
        return self._merged(resources) if kept else resources

    def _merged(self, resources: Sequence[ResourceMetrics]) -> list[ResourceMetrics]:
        first, *others = resources
        scopes = {
            scope.scope: (scope, {metric.name: metric for metric in scope.metrics}) for scope in first.scope_metrics
        }
        points: dict[tuple[object, str], list[NumberDataPoint]] = {}
        for scope, metric, point in self._kept.values():
            scopes.setdefault(scope.scope, (scope, {}))[1].setdefault(metric.name, metric)
            points.setdefault((scope.scope, metric.name), []).append(point)
        merged = [
            replace(
                scope,
                metrics=[_with_points(metric, points.get((scope.scope, name))) for name, metric in metrics.items()],
            )
            for scope, metrics in scopes.values()
        ]
        return [replace(first, scope_metrics=merged), *others]


def _sum(old: NumberDataPoint, new: NumberDataPoint) -> NumberDataPoint:
    return replace(new, start_time_unix_nano=old.start_time_unix_nano, value=old.value + new.value)
