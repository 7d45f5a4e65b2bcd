# SPDX-License-Identifier: Apache-2.0
"""Returns the sender of encoded requests for an official OTLP exporter.

The exporter is configured with the endpoint, TLS, headers, compression, its own metrics and shutdown. It has no public
way to send an encoded request, so the senders use private members (private.py). These are checked before the first
request. An exporter whose members differ is used through its export().
"""

import logging
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import MetricExporter

from otel_epping.otel.private import UnknownExporterError, splits_requests
from otel_epping.otel.variables.certificates import Certificates

if TYPE_CHECKING:
    from otel_epping.otel.otlp.retries import RequestSender

_log = logging.getLogger(__name__)

_GRPC = "opentelemetry.exporter.otlp.proto.grpc.metric_exporter"
_HTTP = "opentelemetry.exporter.otlp.proto.http.metric_exporter"


def sender(exporter: MetricExporter, certificates: Certificates | None = None) -> "RequestSender | None":
    """Returns the sender for an exporter; None if it is not an official one, or if its private members differ.

    `certificates` are the files that its TLS was set up with. They are read again when they change.

    A subclass may override export(), and an exporter that splits requests needs the objects of the SDK: both get None.
    """
    kind = type(exporter)
    if kind.__qualname__ != "OTLPMetricExporter" or kind.__module__ not in (_GRPC, _HTTP):
        return None
    if splits_requests(exporter):
        return None
    try:
        # Each module imports its transport, and gRPC takes 20 MB: only the one in use is imported.
        if kind.__module__ == _GRPC:
            from otel_epping.otel.otlp.grpc_sender import GrpcSender

            return GrpcSender(exporter, certificates)
        from otel_epping.otel.otlp.http_sender import HttpSender

        return HttpSender(exporter, certificates)
    except (AttributeError, UnknownExporterError) as error:
        _log.warning(
            "exports will take more time and memory: %s has unknown private members: %s",
            kind.__module__,
            error,
        )
        return None
