# SPDX-License-Identifier: Apache-2.0
"""Builds a request from two parts: the SDK's metrics, which the official encoder encodes, and our encoded points."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricsData, ResourceMetrics, ScopeMetrics

from otel_epping.otel import metric_table
from otel_epping.otel.metric import Metric
from otel_epping.otel.otlp.points import Points
from otel_epping.otel.otlp.protobuf import field


class EncodedMetric(NamedTuple):
    """A metric, encoded as a field of its scope. `parts` are not joined yet; `points` is the number of data points."""

    parts: list[bytes]
    points: int


class Request(NamedTuple):
    """A serialized ExportMetricsServiceRequest. `points` is the number of its data points."""

    body: bytes
    points: int


def _metric(metric: Metric, data: list[bytes], points: Points) -> EncodedMetric:
    head = metrics_pb2.Metric(name=metric.name, description=metric.description, unit=metric.unit)
    parts = field(metrics_pb2.ScopeMetrics.METRICS_FIELD_NUMBER, head.SerializeToString(), *data)
    return EncodedMetric(parts, points.number)


def _temporality(temporality: AggregationTemporality) -> "metrics_pb2.AggregationTemporality.ValueType":
    return metrics_pb2.AggregationTemporality.Value(f"AGGREGATION_TEMPORALITY_{temporality.name}")


def sum_metric(
    metric: Metric, points: Points, temporality: AggregationTemporality, is_monotonic: bool = True
) -> EncodedMetric:
    """Encodes a counter, or an up-down counter if `is_monotonic` is false. `points` come from number_points()."""
    rest = metrics_pb2.Sum(aggregation_temporality=_temporality(temporality), is_monotonic=is_monotonic)
    return _metric(metric, field(metrics_pb2.Metric.SUM_FIELD_NUMBER, rest.SerializeToString(), points.body), points)


def rtt_metric(points: Points, temporality: AggregationTemporality) -> EncodedMetric:
    """Encodes the metric of the RTT histograms. `points` come from histogram_points()."""
    rest = metrics_pb2.ExponentialHistogram(aggregation_temporality=_temporality(temporality))
    data = field(metrics_pb2.Metric.EXPONENTIAL_HISTOGRAM_FIELD_NUMBER, rest.SerializeToString(), points.body)
    return _metric(metric_table.RTT, data, points)


def request(resources: Sequence[ResourceMetrics], ours: ScopeMetrics, metrics: Iterable[EncodedMetric]) -> Request:
    """Encodes `resources`, and adds our scope to the first resource. Our scope has the metrics of `ours` and `metrics`.

    Omits metrics without points. Raises the exceptions of the official encoder, for example EncodingException if the
    encoder rejects a metric.
    """
    metrics = [metric for metric in metrics if metric.points]
    first, *others = resources
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
        sum(metric.points for metric in metrics) + count_points([merged, *others]),
    )


def encode_sdk_metrics(data: MetricsData) -> Request:
    """Encodes a request with the official encoder. Raises EncodingException if the encoder rejects a metric."""
    return Request(encode_metrics(data).SerializeToString(), count_points(data.resource_metrics))


def count_points(resources: Sequence[ResourceMetrics]) -> int:
    """Returns the number of data points in objects of the SDK."""
    return sum(
        len(metric.data.data_points)
        for resource in resources
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
