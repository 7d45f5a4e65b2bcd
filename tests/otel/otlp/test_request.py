# SPDX-License-Identifier: Apache-2.0
"""Compares our requests with requests of the official encoder.

Our request has all fields of the official request in the same places. Our request also has our own metrics.
"""

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from otel_epping.otel import agent_metrics, metric_table, sdk_points, semconv
from otel_epping.otel.otlp.message_columns import Column
from otel_epping.otel.otlp.points import number_attributes, number_points
from otel_epping.otel.otlp.request import request, sum_metric
from otel_epping.otel.scope import SCOPE

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


CUMULATIVE = AggregationTemporality.CUMULATIVE
ATTRIBUTES = {semconv.SUBNET: "10.0.0.0/24"}
OURS = sdk_points.sum_metric(metric_table.SUBNET_PACKETS, [NumberDataPoint(ATTRIBUTES, 1, 2, 3)], CUMULATIVE)
WRITTEN = sum_metric(
    metric_table.SUBNET_PACKETS,
    number_points([Column.of([number_attributes(ATTRIBUTES)])], np.array([1]), 2, np.array([3], np.uint64)),
    CUMULATIVE,
)
SMALL = sdk_points.sum_metric(
    agent_metrics.SUBNET_LIMIT, [NumberDataPoint({}, 1, 2, 16384)], CUMULATIVE, is_monotonic=False
)


def scope(*metrics: Metric) -> ScopeMetrics:
    return ScopeMetrics(SCOPE, metrics, SCOPE.schema_url or "")


@pytest.fixture
def theirs() -> list[ResourceMetrics]:
    """Metrics as an SDK passes them to an exporter: two scopes, with a counter, a histogram and a gauge."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource({"service.name": "shop"}, "https://example.com/1"))
    shop = provider.get_meter("shop", "1.2", "https://example.com/2", {"region": "Zürich"})
    shop.create_counter("orders", "{order}", "Orders.").add(7, {"paid": True})
    shop.create_histogram("order.value", "EUR").record(12.5)
    provider.get_meter("till").create_gauge("drawer").set(3.25)
    data = reader.get_metrics_data()
    assert data
    return list(data.resource_metrics)


def test_a_request_has_the_sdks_metrics_and_ours(theirs: list[ResourceMetrics]) -> None:
    other = ResourceMetrics(Resource({"service.name": "other"}), [scope(SMALL)], "")
    made = request([*theirs, other], scope(SMALL), [WRITTEN])
    (first,) = theirs
    merged = ResourceMetrics(first.resource, [*first.scope_metrics, scope(SMALL, OURS)], first.schema_url)
    assert ExportMetricsServiceRequest.FromString(made.body) == encode_metrics(MetricsData([merged, other]))
    assert made.points == 3 + 1 + 1 + 1


def test_a_request_with_our_metrics_only(theirs: list[ResourceMetrics]) -> None:
    alone = ResourceMetrics(theirs[0].resource, [], theirs[0].schema_url)
    made = request([alone], scope(), iter([WRITTEN]))
    merged = ResourceMetrics(theirs[0].resource, [scope(OURS)], theirs[0].schema_url)
    assert ExportMetricsServiceRequest.FromString(made.body) == encode_metrics(MetricsData([merged]))
    assert made.points == 1


def test_metrics_without_points_are_left_out(theirs: list[ResourceMetrics]) -> None:
    none = number_points([Column.of([])], np.zeros(0, np.int64), 2, np.zeros(0, np.uint64))
    empty = sum_metric(metric_table.ACTIVE_FLOWS, none, CUMULATIVE)
    assert request(theirs, scope(), [empty, WRITTEN]) == request(theirs, scope(), [WRITTEN])


def test_a_metric_that_cannot_be_encoded_is_an_error(theirs: list[ResourceMetrics]) -> None:
    """If one metric cannot be encoded, encoding raises an error, as in the official encoder.

    Without the error, the request would be sent without the metric that cannot be encoded.
    """
    broken = NumberDataPoint({}, 1, 2, "three")  # type: ignore[arg-type]
    metric = Metric("broken", "", "", Sum([broken], CUMULATIVE, is_monotonic=True))
    with pytest.raises(Exception, match="broken"):
        request(theirs, scope(metric), [WRITTEN])
