# SPDX-License-Identifier: Apache-2.0
"""Returns the sender of encoded requests for an official OTLP exporter.

A sender uses the exporter's endpoint, TLS settings, headers, compression, shutdown event and own metrics. The exporter
has no public method that sends an encoded request, so the senders use private members of the exporter (private.py). The
private members are checked before the first request. If a private member is not as expected, the exporter's export() is
used instead.
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
    """Returns the sender for an official exporter. Returns None for other exporters.

    Also returns None for a subclass of an official exporter, because a subclass may override export(). Also returns
    None for an exporter that splits requests, because splitting needs the objects of the SDK. Logs a warning and
    returns None if the exporter does not have the expected private members.

    `certificates` are the files that the exporter uses for TLS. The files are read again when they change.
    """
    kind = type(exporter)
    if kind.__qualname__ != "OTLPMetricExporter" or kind.__module__ not in (_GRPC, _HTTP):
        return None
    if splits_requests(exporter):
        return None
    try:
        # The import of gRPC takes 20 MB of memory. So only the module of the transport in use is imported.
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
