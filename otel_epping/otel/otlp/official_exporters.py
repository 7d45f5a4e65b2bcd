# SPDX-License-Identifier: Apache-2.0
"""Builds the official exporters from parsed and checked settings, not from environment variables."""

import os
from typing import Any
from urllib.parse import urlsplit

from otel_epping.otel.private import GrpcExporter
from otel_epping.otel.variables.environment import Environment
from otel_epping.otel.variables.otlp import Otlp


def build(name: str, exporter_class: Any, otlp: Otlp) -> Any:
    """Builds an exporter. `exporter_class` was loaded from the entry point `name`.

    Raises EppingError if certificates cannot be read. Certificates that were readable in the first check may be
    unreadable here, because the agent has dropped its capabilities.
    """
    environment = Environment({})
    otlp.certificates.check(environment)
    environment.raise_errors()
    return (_build_grpc if name == "otlp_proto_grpc" else _build_http)(exporter_class, otlp)


def _build_grpc(exporter_class: Any, otlp: Otlp) -> Any:
    import grpc

    credentials = None
    # A configured plug-in can provide credentials, for example the plug-in of a cloud provider. The exporter asks the
    # plug-in only if `credentials` is None.
    provided = any("GRPC" in name and name.endswith("_CREDENTIAL_PROVIDER") for name in os.environ)
    if otlp.secure and any(otlp.certificates) and not provided:
        credentials = grpc.ssl_channel_credentials(*otlp.certificates.read())
    compression = {"gzip": grpc.Compression.Gzip, "none": grpc.Compression.NoCompression}[otlp.compression]
    exporter = exporter_class(
        endpoint=otlp.endpoint,
        insecure=not otlp.secure,
        credentials=credentials,
        headers=tuple(otlp.headers.items()),
        timeout=otlp.timeout_s,
        compression=compression,
    )
    if urlsplit(otlp.endpoint).netloc:
        # For a target dns://AUTHORITY/HOST, the exporter itself would connect to AUTHORITY, so the whole target is set
        # here.
        members = GrpcExporter(exporter)
        members.set_endpoint(otlp.endpoint)
        members.reconnect()
    return exporter


def _build_http(exporter_class: Any, otlp: Otlp) -> Any:
    from opentelemetry.exporter.otlp.proto.http import Compression

    trusted, client, key = (each.value if each else None for each in otlp.certificates)
    return exporter_class(
        endpoint=otlp.endpoint,
        certificate_file=trusted,
        client_certificate_file=client,
        client_key_file=key,
        headers=otlp.headers,
        timeout=otlp.timeout_s,
        compression={"none": Compression.NoCompression, "gzip": Compression.Gzip, "deflate": Compression.Deflate}[
            otlp.compression
        ],
    )
