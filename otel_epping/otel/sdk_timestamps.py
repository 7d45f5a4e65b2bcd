# SPDX-License-Identifier: Apache-2.0
"""Replaces the timestamps of the SDK's points with times of the collector's clock, which never runs backwards."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, ResourceMetrics


def move_timestamps(resources: Sequence[ResourceMetrics], since_ns: int, now_ns: int) -> list[ResourceMetrics]:
    """Returns the metrics with the timestamp `now_ns`. Points with delta temporality start at `since_ns` or later.

    `now_ns` is the time of the reading on the collector's clock, which is never behind the wall clock. So a start time
    that is later than `now_ns` was taken after the reading, and is replaced by `now_ns`.
    """
    return [
        replace(
            resource,
            scope_metrics=[
                replace(scope, metrics=[_move(metric, since_ns, now_ns) for metric in scope.metrics])
                for scope in resource.scope_metrics
            ],
        )
        for resource in resources
    ]


def _move(metric: Metric, since_ns: int, now_ns: int) -> Metric:
    data: Any = metric.data
    is_delta = getattr(data, "aggregation_temporality", None) is AggregationTemporality.DELTA

    def moved(point: Any) -> Any:
        start_ns = point.start_time_unix_nano
        if start_ns is not None:  # a gauge has no start time
            start_ns = min(max(start_ns, since_ns) if is_delta else start_ns, now_ns)
        return replace(point, start_time_unix_nano=start_ns, time_unix_nano=now_ns)

    return replace(metric, data=replace(data, data_points=[moved(point) for point in data.data_points]))
