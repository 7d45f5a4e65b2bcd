# SPDX-License-Identifier: Apache-2.0
"""Chooses the collector for the demo and the tests: rotel, or otelcol if rotel has no wheel for this Python."""

from otel_epping.lab.collector_process import CollectorProcess, Protocol
from otel_epping.lab.namespaces import LabError, Namespace
from otel_epping.lab.otelcol import Otelcol, find_otelcol
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.rotel import Rotel, find_rotel


def collector(
    sink: Sink,
    forward: Protocol = "grpc",
    grpc_port: int = 0,
    http_port: int = 0,
    namespace: Namespace | None = None,
) -> CollectorProcess:
    """Returns the installed collector, which is not started yet. The arguments are the same as for `CollectorProcess`.

    Raises LabError if no collector is installed.
    """
    if find_rotel():
        return Rotel(sink, forward, grpc_port, http_port, namespace)
    if find_otelcol():
        return Otelcol(sink, forward, grpc_port, http_port, namespace)
    raise LabError(
        "no OpenTelemetry collector is installed: pip install 'otel-epping[demo]' installs one on Python 3.10 to 3.13; "
        "for other Python versions, put the official collector, otelcol, into PATH"
    )
