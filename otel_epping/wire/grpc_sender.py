# SPDX-License-Identifier: Apache-2.0
"""Requests through the official gRPC exporter, as it is since 1.43.

Its _export() counts the points, and until a try succeeds, translates what it was given and calls _client.Export(). The
client comes of _stub, also when it connects anew. So counting and translating are overridden, and another stub is put
in, whose calls take what is serialized already.
"""

from types import SimpleNamespace
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import MetricExportResult

from otel_epping.wire.request import Request
from otel_epping.wire.transport import Answer, expect

_METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


class _Passing(OTLPMetricExporter):
    """An exporter's second self, of one state with it, that is given requests."""

    def __init__(self, exporter: OTLPMetricExporter) -> None:
        self.__dict__ = exporter.__dict__

    def _translate_data(self, data: Request) -> Request:  # type: ignore[override]
        return data

    def _count_data(self, data: Request) -> int:  # type: ignore[override]
        return data.points


class GrpcSender:
    """Sends requests through a gRPC exporter. Raises UnknownExporterError or AttributeError if it is another one."""

    def __init__(self, exporter: Any) -> None:
        for member in (exporter._export, exporter._translate_data, exporter._count_data):
            expect(member, "data")
        expect(exporter._stub, "channel")
        self._timeout_s = float(exporter._timeout)
        exporter._client = self._stub(exporter._channel)
        exporter._stub = self._stub
        self._exporter: Any = _Passing(exporter)
        self._response = ExportMetricsServiceResponse()

    def _stub(self, channel: grpc.Channel) -> SimpleNamespace:
        call = channel.unary_unary(_METHOD, request_serializer=_serialize, response_deserializer=self._deserialize)

        def export(request: Any, metadata: Any, timeout: float) -> Any:
            # The exporter reckons by the clock on the wall: one that is set back would give a silent receiver hours.
            return call(request, metadata=metadata, timeout=min(timeout, self._timeout_s))

        return SimpleNamespace(Export=export)

    def _deserialize(self, body: bytes) -> ExportMetricsServiceResponse:
        self._response = ExportMetricsServiceResponse.FromString(body)
        return self._response

    def send(self, request: Request) -> Answer:
        """Sends one, as often as the exporter tries; one thread at a time."""
        result = self._exporter._export(request)
        return Answer.success(self._response) if result is MetricExportResult.SUCCESS else Answer(result)


def _serialize(request: Request | ExportMetricsServiceRequest) -> bytes:
    return request.body if isinstance(request, Request) else request.SerializeToString()
