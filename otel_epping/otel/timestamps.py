# SPDX-License-Identifier: Apache-2.0
"""Puts the SDK's own points on the collector's clock, which doesn't run backwards, as the SDK's does when it is set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, ResourceMetrics


def retimed(theirs: Sequence[ResourceMetrics], since_ns: int, now_ns: int) -> list[ResourceMetrics]:
    """The same metrics, as collected now; those of delta temporality count since `since_ns` at the earliest.

    The collector's clock is never behind the one on the wall, so no start can be later than `now_ns` but one that was
    taken since the reading that has this time.
    """
    return [
        replace(
            resource,
            scope_metrics=[
                replace(scope, metrics=[_retimed(metric, since_ns, now_ns) for metric in scope.metrics])
                for scope in resource.scope_metrics
            ],
        )
        for resource in theirs
    ]


def _retimed(metric: Metric, since_ns: int, now_ns: int) -> Metric:
    data: Any = metric.data
    is_delta = getattr(data, "aggregation_temporality", None) is AggregationTemporality.DELTA

    def moved(point: Any) -> Any:
        start_ns = point.start_time_unix_nano
        if start_ns is not None:  # as a gauge's is
            start_ns = min(max(start_ns, since_ns) if is_delta else start_ns, now_ns)
        return replace(point, start_time_unix_nano=start_ns, time_unix_nano=now_ns)

    return replace(metric, data=replace(data, data_points=[moved(point) for point in data.data_points]))
