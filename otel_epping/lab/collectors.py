# SPDX-License-Identifier: Apache-2.0
"""The collector of the demo and of the tests: rotel, or the official one where rotel has no wheel for this Python."""

from otel_epping.lab.collector_process import CollectorProcess, Protocol
from otel_epping.lab.namespaces import LabError, Namespace
from otel_epping.lab.otelcol import Otelcol, find_otelcol
from otel_epping.lab.rotel import Rotel, find_rotel
from otel_epping.lab.sink import Sink


def collector(
    sink: Sink,
    forward: Protocol = "grpc",
    grpc_port: int = 0,
    http_port: int = 0,
    namespace: Namespace | None = None,
) -> CollectorProcess:
    """Returns the collector that is installed, not started yet; arguments are those of `CollectorProcess`.

    Raises LabError if there is none.
    """
    if find_rotel():
        return Rotel(sink, forward, grpc_port, http_port, namespace)
    if find_otelcol():
        return Otelcol(sink, forward, grpc_port, http_port, namespace)
    raise LabError(
        "no OpenTelemetry collector is installed: pip install 'otel-epping[demo]' brings one for Python 3.10 to 3.13; "
        "for others put the official one, otelcol, into PATH"
    )
