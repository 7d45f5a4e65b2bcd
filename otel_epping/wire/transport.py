# SPDX-License-Identifier: Apache-2.0
"""Hands requests that are written already to the official OTLP exporters.

Theirs stays all that is hard to get right: TLS, headers, compression, timeouts, retries, their own metrics, shutdown.
No public way into one leads past its encoder, so this leans on members that may change with any release. They are
looked at before the first request; an exporter that has others is used as ever.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult

from otel_epping.wire.request import Request

_log = logging.getLogger(__name__)

_GRPC = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
_HTTP = "opentelemetry.exporter.otlp.proto.http.metric_exporter"


class Answer(NamedTuple):
    """What became of a request. Of one that succeeded the receiver may still have rejected points, and says why.

    They must not be sent again (OTLP specification, "Partial Success").
    """

    result: MetricExportResult
    rejected: int = 0
    message: str = ""

    @classmethod
    def success(cls, response: ExportMetricsServiceResponse) -> "Answer":
        """The receiver took the request, and responded."""
        partial = response.partial_success
        return cls(MetricExportResult.SUCCESS, partial.rejected_data_points, partial.error_message)


class Sender(Protocol):
    """Sends requests through an exporter, which can be used beside it as ever."""

    def send(self, request: Request) -> Answer:
        """Sends one, as often as the exporter tries; one thread at a time."""


class UnknownExporterError(Exception):
    """An official exporter isn't built as those we know."""


def expect(member: Callable[..., Any], *parameters: str) -> None:
    """Raises UnknownExporterError if these aren't the parameters of the exporter's member."""
    found = tuple(inspect.signature(member).parameters)
    if found != parameters:
        raise UnknownExporterError(f"{member.__qualname__}{found} should be {parameters}")


def sender(exporter: MetricExporter) -> Sender | None:
    """What sends requests through this exporter; None if it isn't an official one, or one that is built otherwise.

    Subclasses may do as they like with an export, and an exporter that splits requests would have to read them: so they
    get none.
    """
    kind = type(exporter)
    if kind.__qualname__ != "OTLPMetricExporter" or kind.__module__ not in (_GRPC, _HTTP):
        return None
    if getattr(exporter, "_max_export_batch_size", None) is not None:
        return None
    try:
        # Each loads a transport, and gRPC takes 20 MB: none of that for who uses the other.
        if kind.__module__ == _GRPC:
            from otel_epping.wire.grpc_sender import GrpcSender

            return GrpcSender(exporter)
        from otel_epping.wire.http_sender import HttpSender

        return HttpSender(exporter)
    except (AttributeError, UnknownExporterError) as error:
        _log.warning("exports will take more time and memory: %s is not as we know it: %s", kind.__module__, error)
        return None
