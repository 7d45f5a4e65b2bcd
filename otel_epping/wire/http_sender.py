# SPDX-License-Identifier: Apache-2.0
"""Requests through the official HTTP exporter, as it is since 1.45.

Its _export_batch() wants of a request its bytes, and its points to count them. Of the receiver's response it looks at
no more than the status; so somebody listens at its transport.
"""

import logging
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult

from otel_epping.wire.request import Request
from otel_epping.wire.transport import Answer, expect

_log = logging.getLogger(__name__)


class _Batch:
    """As much of a protobuf message as _export_batch() looks at: one metric, with as many points as there are."""

    def __init__(self, request: Request) -> None:
        metric = SimpleNamespace(WhichOneof=lambda _: "sum", sum=SimpleNamespace(data_points=range(request.points)))
        self.resource_metrics = [SimpleNamespace(scope_metrics=[SimpleNamespace(metrics=[metric])])]
        self._body = request.body

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        return self._body


class _Listener:
    """A transport that keeps its latest result."""

    result: Any

    def __init__(self, transport: Any, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s

    def request(self, *arguments: Any, timeout: float, **options: Any) -> Any:
        # The client reckons by the clock on the wall: one that is set back would give a silent receiver hours.
        self.result = self._transport.request(*arguments, timeout=min(timeout, self._timeout_s), **options)
        return self.result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HttpSender:
    """Sends requests through an HTTP exporter. Raises UnknownExporterError or AttributeError if it is another one."""

    def __init__(self, exporter: Any) -> None:
        client = exporter._client
        expect(exporter._export_batch, "export_request")
        expect(client.export, "data")
        self._exporter = exporter
        self._listener = _Listener(client._transport, float(client._timeout))
        client._transport = self._listener

    def send(self, request: Request) -> Answer:
        """Sends one, as often as the exporter tries; one thread at a time."""
        if self._exporter._shutdown:
            _log.warning("the exporter is shut down, a request is dropped")
            return Answer(MetricExportResult.FAILURE)
        result = self._exporter._export_batch(_Batch(request))
        if result is not MetricExportResult.SUCCESS:
            return Answer(result)
        try:
            return Answer.success(ExportMetricsServiceResponse.FromString(self._listener.result.content()))
        except DecodeError:  # it took the request, and what it says of it is not OTLP
            return Answer(result)
