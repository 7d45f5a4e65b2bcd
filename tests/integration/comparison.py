# SPDX-License-Identifier: Apache-2.0
"""Splits OTLP requests into points, so that two sets of requests can be compared even if their points are grouped
differently."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, MetricsData

Series = tuple[str, tuple[tuple[str, Any], ...]]  # the name of the metric, and the sorted attributes
CUMULATIVE = 2


def read(path: Path) -> list[MetricsData]:
    """Returns the requests that the Collector's file exporter wrote as JSON, one request per line."""
    return [json_format.Parse(line, MetricsData()) for line in path.read_text().splitlines()]


def _plain(attributes: Iterable[Any]) -> tuple[tuple[str, Any], ...]:
    pairs = [(pair.key, getattr(pair.value, pair.value.WhichOneof("value"))) for pair in attributes]
    return tuple(sorted(pairs))


def metrics(requests: Iterable[Any]) -> Iterator[tuple[tuple[Any, ...], Metric, Any]]:
    """Yields each metric with its resource and scope, and with its data."""
    for request in requests:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    around = (
                        (_plain(resource.resource.attributes), resource.schema_url),
                        (scope.scope.name, scope.scope.version, _plain(scope.scope.attributes), scope.schema_url),
                    )
                    yield around, metric, getattr(metric, metric.WhichOneof("data"))


def points(requests: Iterable[Any]) -> Counter[tuple[Any, ...]]:
    """Counts how often each point occurs. A point includes its resource, scope, metric and attributes. If the results
    for two sets of requests are equal, both sets have the same meaning."""
    found: Counter[tuple[Any, ...]] = Counter()
    for around, metric, data in metrics(requests):
        kind = metric.WhichOneof("data")
        said = (metric.name, metric.description, metric.unit, kind)
        meaning = (getattr(data, "aggregation_temporality", None), getattr(data, "is_monotonic", None))
        for point in data.data_points:
            attributes = _plain(point.attributes)
            bare = type(point)()
            bare.CopyFrom(point)
            bare.ClearField("attributes")
            if kind == "exponential_histogram" and not bare.negative.bucket_counts:
                bare.ClearField("negative")  # the agent writes this field only if there are negative buckets
            found[(around, said, meaning, attributes, bare.SerializeToString(deterministic=True))] += 1
    return found


def series(requests: Iterable[Any]) -> dict[Series, list[Any]]:
    """Returns the points of each series, sorted by time."""
    found: dict[Series, list[Any]] = {}
    for _, metric, data in metrics(requests):
        for point in data.data_points:
            found.setdefault((metric.name, _plain(point.attributes)), []).append(point)
    for one in found.values():
        one.sort(key=lambda point: int(point.time_unix_nano))
    return found


def buckets(point: Any) -> dict[int, int]:
    """Returns the non-empty buckets of a histogram: index of the bucket -> count."""
    first = point.positive.offset
    return {first + i: count for i, count in enumerate(point.positive.bucket_counts) if count}
