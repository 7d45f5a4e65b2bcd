# SPDX-License-Identifier: Apache-2.0
"""Finds what sends requests that are written already through an official OTLP exporter.

The exporter keeps what it is set up with: endpoint, TLS, headers, compression, its own metrics, shutdown. No public way
into an exporter leads past its encoder, so this leans on members that may change with any release. They are looked at
before the first request; an exporter that has others is used through its export().
"""

import logging
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import MetricExporter

from otel_epping.otel.private import UnknownExporterError
from otel_epping.otel.variables.certificates import Certificates

if TYPE_CHECKING:
    from otel_epping.otel.otlp.retries import RequestSender

_log = logging.getLogger(__name__)

_GRPC = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
_HTTP = "opentelemetry.exporter.otlp.proto.http.metric_exporter"


def sender(exporter: MetricExporter, certificates: Certificates | None = None) -> "RequestSender | None":
    """What sends requests through this exporter; None if it isn't an official one, or one that is built otherwise.

    `certificates` are the files that its TLS was set up with; they are read again when they change.

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
            from otel_epping.otel.otlp.grpc_sender import GrpcSender

            return GrpcSender(exporter, certificates)
        from otel_epping.otel.otlp.http_sender import HttpSender

        return HttpSender(exporter, certificates)
    except (AttributeError, UnknownExporterError) as error:
        _log.warning("exports will take more time and memory: %s is not as we know it: %s", kind.__module__, error)
        return None
