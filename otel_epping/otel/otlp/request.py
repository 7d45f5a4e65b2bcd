# SPDX-License-Identifier: Apache-2.0
"""From data points to a request: ours, put behind what the official encoder makes of all the rest."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricsData, ResourceMetrics, ScopeMetrics

from otel_epping.otel import metric_table
from otel_epping.otel.otlp.points import Points
from otel_epping.otel.otlp.protobuf import field


class Metric(NamedTuple):
    """A metric as a field of its scope, in parts, and how many points it has."""

    parts: list[bytes]
    points: int


class Request(NamedTuple):
    """An ExportMetricsServiceRequest, serialized, and how many points it has."""

    body: bytes
    points: int


def _metric(metric: metric_table.Metric, data: list[bytes], points: Points) -> Metric:
    head = metrics_pb2.Metric(name=metric.name, description=metric.description, unit=metric.unit)
    return Metric(field(metrics_pb2.ScopeMetrics.METRICS_FIELD_NUMBER, head.SerializeToString(), *data), points.number)


def _temporality(temporality: AggregationTemporality) -> "metrics_pb2.AggregationTemporality.ValueType":
    return metrics_pb2.AggregationTemporality.Value(f"AGGREGATION_TEMPORALITY_{temporality.name}")


def sum_metric(
    metric: metric_table.Metric, points: Points, temporality: AggregationTemporality, is_monotonic: bool = True
) -> Metric:
    """A counter, or an up-down counter, of number_points()."""
    rest = metrics_pb2.Sum(aggregation_temporality=_temporality(temporality), is_monotonic=is_monotonic)
    return _metric(metric, field(metrics_pb2.Metric.SUM_FIELD_NUMBER, rest.SerializeToString(), points.body), points)


def rtt_metric(points: Points, temporality: AggregationTemporality) -> Metric:
    """The metric of all histograms, of histogram_points()."""
    rest = metrics_pb2.ExponentialHistogram(aggregation_temporality=_temporality(temporality))
    data = field(metrics_pb2.Metric.EXPONENTIAL_HISTOGRAM_FIELD_NUMBER, rest.SerializeToString(), points.body)
    return _metric(metric_table.RTT, data, points)


def request(theirs: Sequence[ResourceMetrics], ours: ScopeMetrics, metrics: Iterable[Metric]) -> Request:
    """All that is `theirs`; and under the first of their resources our scope, with `metrics` behind those of `ours`.

    Metrics without points are left off. Raises what the official encoder does: EncodingException for a metric that it
    can't encode.
    """
    metrics = [metric for metric in metrics if metric.points]
    first, *others = theirs
    merged = ResourceMetrics(first.resource, [*first.scope_metrics, ours], first.schema_url)
    encoded = encode_metrics(MetricsData([merged, *others]))
    resource = encoded.resource_metrics.pop(0)
    scope = resource.scope_metrics.pop()
    body = field(
        ExportMetricsServiceRequest.RESOURCE_METRICS_FIELD_NUMBER,
        resource.SerializeToString(),
        *field(
            metrics_pb2.ResourceMetrics.SCOPE_METRICS_FIELD_NUMBER,
            scope.SerializeToString(),
            *(part for metric in metrics for part in metric.parts),
        ),
    )
    return Request(
        b"".join([*body, encoded.SerializeToString()]),
        sum(metric.points for metric in metrics) + _count([merged, *others]),
    )


def encoded(data: MetricsData) -> Request:
    """A request by the official encoder alone. Raises EncodingException for a metric that it can't encode."""
    return Request(encode_metrics(data).SerializeToString(), _count(data.resource_metrics))


def _count(resources: Sequence[ResourceMetrics]) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in resources
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
