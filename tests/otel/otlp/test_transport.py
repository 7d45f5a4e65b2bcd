# SPDX-License-Identifier: Apache-2.0
"""Tests that our encoded requests are sent with the same settings as requests of the official exporters."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.environment_variables import OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_epping.lab.collectors import collector
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table, sdk_points, semconv
from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.message_columns import Column
from otel_epping.otel.otlp.points import number_attributes, number_points
from otel_epping.otel.otlp.request import Request, request, sum_metric
from otel_epping.otel.otlp.retries import RequestSender
from otel_epping.otel.otlp.transport import sender
from tests.support.otlp_receiver import GRPC, HTTP, Receiver, receiver, relay
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.unit


SUCCESS = Answer()
CUMULATIVE = AggregationTemporality.CUMULATIVE
RESOURCE = ResourceMetrics(Resource({"service.name": "otel-epping"}), [], "")
# The points are invented. So these points must not have the scope of otel-epping (tests/support/contract.py).
SCOPE = InstrumentationScope("invented", "1", "https://example.com/schemas/1")
OURS = ScopeMetrics(SCOPE, [], SCOPE.schema_url or "")
TIMEOUT_S = 5
TRANSIENT = {GRPC: grpc.StatusCode.UNAVAILABLE, HTTP: 503}
FINAL = {GRPC: grpc.StatusCode.INVALID_ARGUMENT, HTTP: 400}

Build = Callable[..., Any]


def counters(count: int) -> Request:
    """Return a request with `count` points."""
    attributes = Column.of(number_attributes({semconv.SUBNET: f"10.{i // 256}.{i % 256}.0/24"}) for i in range(count))
    written = number_points([attributes], np.full(count, 1), 2, np.arange(count))
    return request([RESOURCE], OURS, [sum_metric(metric_table.SUBNET_PACKETS, written, CUMULATIVE)])


@pytest.fixture(params=[GRPC, HTTP])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build() -> Iterator[Build]:
    """Return a function that creates an exporter for a protocol and an endpoint.

    At the end, all exporters are shut down.
    """
    with ExitStack() as undo:

        def build(protocol: str, endpoint: str, timeout: float = TIMEOUT_S, **options: Any) -> MetricExporter:
            made = GrpcExporter if protocol == GRPC else HttpExporter
            exporter: MetricExporter = made(endpoint, timeout=timeout, **options)
            undo.callback(exporter.shutdown)
            return exporter

        yield build


@pytest.fixture
def server(protocol: str) -> Iterator[Receiver]:
    with receiver(protocol) as one:
        yield one


def sender_of(exporter: MetricExporter) -> RequestSender:
    found = sender(exporter)
    assert found
    return found


def test_a_collector_receives_our_requests(build: Build) -> None:
    """The collector is another implementation of OTLP. The test uses both protocols, with and without compression."""
    sent = counters(1000)
    gzip = {GRPC: grpc.Compression.Gzip, HTTP: HttpCompression.Gzip}
    with Sink() as sink, collector(sink) as forwarder:
        for protocol, endpoint in ((GRPC, forwarder.grpc_endpoint), (HTTP, forwarder.http_endpoint)):
            for options in ({}, {"compression": gzip[protocol]}):
                sink.clear()
                answer = sender_of(build(protocol, endpoint, **options)).send(sent)
                assert answer == SUCCESS
                (received,) = sink.wait_for(lambda sink: sink.requests, PATIENCE_S)
                assert received == ExportMetricsServiceRequest.FromString(sent.body)


@pytest.mark.parametrize("compressed", [False, True])
def test_compression_and_headers_are_those_of_the_exporter(protocol: str, build: Build, compressed: bool) -> None:
    gzip = {GRPC: grpc.Compression.Gzip, HTTP: HttpCompression.Gzip}
    options = {"compression": gzip[protocol]} if compressed else {}
    sent = counters(1000)
    with Sink() as sink, relay(sink.grpc_port if protocol == GRPC else sink.http_port) as wire:
        endpoint = f"http://127.0.0.1:{wire.port}" + ("/v1/metrics" if protocol == HTTP else "")
        exporter = build(protocol, endpoint, headers={"x-tenant": "blue"}, **options)
        assert sender_of(exporter).send(sent) == SUCCESS
    (received,) = sink.received
    assert received.request == ExportMetricsServiceRequest.FromString(sent.body)
    assert received.headers["x-tenant"] == "blue"
    assert "OTel-OTLP-Exporter-Python" in received.headers["user-agent"]
    assert (wire.bytes < len(sent.body) / 5) is compressed


def test_a_request_is_sent_again_after_a_transient_error(protocol: str, server: Receiver, build: Build) -> None:
    """The request is sent again without changes. The gRPC exporter reconnects after the first error."""
    sent = counters(3)
    server.errors = [TRANSIENT[protocol]] * 2
    assert sender_of(build(protocol, server.endpoint)).send(sent) == SUCCESS
    assert server.bodies == [sent.body] * 3


def test_a_rejected_request_fails_at_once(protocol: str, server: Receiver, build: Build) -> None:
    sending = sender_of(build(protocol, server.endpoint))
    server.errors = [FINAL[protocol]]
    assert sending.send(counters(3)).failure
    assert len(server.bodies) == 1
    assert sending.send(counters(3)) == SUCCESS, "the next request succeeds"


def test_a_silent_receiver_takes_no_more_than_the_timeout(protocol: str, build: Build) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sending = sender_of(build(protocol, f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5))
        began = time.monotonic()
        assert sending.send(counters(3)).failure
        assert 0.4 < time.monotonic() - began < 2


def test_points_that_the_receiver_rejects_are_reported(protocol: str, server: Receiver, build: Build) -> None:
    partial = ExportMetricsPartialSuccess(rejected_data_points=2, error_message="too old")
    server.response = ExportMetricsServiceResponse(partial_success=partial).SerializeToString()
    sending = sender_of(build(protocol, server.endpoint))
    assert sending.send(counters(3)) == Answer(None, 2, "too old")
    server.response = b""
    assert sending.send(counters(3)) == SUCCESS, "no points of the next request are rejected"


def test_a_response_that_is_not_otlp_is_a_failure(protocol: str, server: Receiver, build: Build) -> None:
    server.response = b"OK"
    failure = sender_of(build(protocol, server.endpoint)).send(counters(3)).failure
    assert failure
    assert "the response is not OTLP" in failure.text


def test_a_request_over_the_http_exporters_limit_is_not_sent(build: Build) -> None:
    with receiver(HTTP) as server:
        sending = sender_of(build(HTTP, server.endpoint, max_request_size=1000))
        assert sending.send(counters(3)) == SUCCESS
        assert sending.send(counters(300)).failure
        assert len(server.bodies) == 1


def test_a_request_over_the_limit_of_a_grpc_receiver_fails(build: Build) -> None:
    """The limit of a gRPC receiver is 4 MiB. The receiver rejects a larger request, and the exporter does not send the
    request again.

    The exporter would send the request again only if the rejection contained a time to wait.
    """
    large = Request(counters(1000).body * 70, 70_000)
    assert len(large.body) > 4 * 2**20
    with receiver(GRPC) as server:
        assert sender_of(build(GRPC, server.endpoint, timeout=0.5)).send(large).failure
        assert not server.bodies


def test_nothing_is_sent_after_shutdown(protocol: str, server: Receiver, build: Build) -> None:
    exporter = build(protocol, server.endpoint)
    sending = sender_of(exporter)
    assert sending.send(counters(3)) == SUCCESS
    exporter.shutdown()
    assert sending.send(counters(3)).failure
    assert len(server.bodies) == 1


def test_shutdown_ends_a_wait_between_two_tries(protocol: str, build: Build) -> None:
    with Sink() as sink:
        sink.fail_with(503)  # Retry-After is not set, so the exporter waits for 1 s, and then for 2 s.
        exporter = build(protocol, sink.grpc_endpoint if protocol == GRPC else sink.http_endpoint, timeout=30)
        answers: list[Answer] = []
        sending = threading.Thread(target=lambda: answers.append(sender_of(exporter).send(counters(3))))
        sending.start()
        sink.wait_for(lambda sink: sink.rejected, PATIENCE_S)
        exporter.shutdown()
        sending.join(0.7)
        (answer,) = answers
        assert answer.failure


def test_the_exporters_own_metrics_count_the_points(
    protocol: str, server: Receiver, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED, "true")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    sending = sender_of(build(protocol, server.endpoint, meter_provider=provider))
    sending.send(counters(300))
    server.errors = [FINAL[protocol]]
    sending.send(counters(7))
    data = reader.get_metrics_data()
    assert data
    (exported,) = (
        metric
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if metric.name == "otel.sdk.exporter.metric_data_point.exported"
    )
    exported_points: Any = exported.data.data_points
    assert sum(point.value for point in exported_points) == 307
    provider.shutdown()


def test_the_exporter_itself_still_exports(protocol: str, server: Receiver, build: Build) -> None:
    exporter = build(protocol, server.endpoint)
    for sending in (sender_of(exporter), sender_of(exporter)):  # the second sender takes the place of the first sender
        sending.send(counters(3))
    metric = sdk_points.sum_metric(
        agent_metrics.SUBNET_LIMIT, [NumberDataPoint({}, 1, 2, 3)], CUMULATIVE, is_monotonic=False
    )
    scope = ScopeMetrics(SCOPE, [metric], "")
    server.errors = [TRANSIENT[protocol]]
    assert exporter.export(MetricsData([ResourceMetrics(RESOURCE.resource, [scope], "")])) is MetricExportResult.SUCCESS
    assert server.bodies[:2] == [counters(3).body] * 2
    assert "limit" in str(ExportMetricsServiceRequest.FromString(server.bodies[-1]))


class OwnGrpcExporter(GrpcExporter):
    """An exporter class that a user has written. The user's class may override export()."""


class OwnHttpExporter(HttpExporter):
    """An exporter class for HTTP that a user has written."""


def test_exporters_that_need_sdk_objects_get_no_sender(build: Build, protocol: str) -> None:
    assert sender(ConsoleMetricExporter()) is None
    assert sender(build(protocol, "http://127.0.0.1:9", max_export_batch_size=100)) is None
    own = OwnGrpcExporter("http://127.0.0.1:9") if protocol == GRPC else OwnHttpExporter("http://127.0.0.1:9")
    assert sender(own) is None
    own.shutdown()


MEMBERS = {
    GRPC: ("_initialize_channel_and_stub", "_shutdown_in_progress", "_channel"),
    HTTP: ("_client",),
}


@pytest.mark.parametrize(("protocol", "member"), [(p, member) for p, members in MEMBERS.items() for member in members])
def test_an_exporter_with_another_internal_structure_is_not_changed(
    protocol: str, member: str, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A private member of the exporter does not have the expected type.

    A warning is logged, and the exporter is not changed.
    """
    exporter = build(protocol, "http://127.0.0.1:9")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        holder = exporter if member in vars(exporter) else type(exporter)
        patch.setattr(holder, member, lambda one, two, three: None)
        before = dict(vars(exporter))
        assert sender(exporter) is None
        assert vars(exporter) == before
    assert f"{type(exporter).__module__} has unknown private members" in caplog.text
