# SPDX-License-Identifier: Apache-2.0
"""Contains all accesses to private members of the OpenTelemetry SDK, its exporters and urllib3.

No other module uses private members; tests/otel/test_private.py checks this. The docstring of each accessor names the
public API that should replace the accessor. Any release may change private members, so pyproject.toml allows only
tested releases. `make compat` runs the export tests with the oldest and the newest allowed releases.
"""

import inspect
import socket
from collections.abc import Callable, Iterable
from threading import Event
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricExporter, MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource

if TYPE_CHECKING:
    import grpc

Collect = Callable[..., MetricsData | None]


class UnknownExporterError(Exception):
    """An official exporter does not have the private members that otel-epping expects."""


def _expect_parameters(member: Callable[..., Any], *parameters: str) -> None:
    """Raises UnknownExporterError if the parameters of `member` differ from `parameters`."""
    found = tuple(inspect.signature(member).parameters)
    if found != parameters:
        raise UnknownExporterError(f"{member.__qualname__}{found} should be {parameters}")


def _expect_type(value: Any, kind: type) -> None:
    """Raises UnknownExporterError if `value` is not an instance of `kind`."""
    if not isinstance(value, kind):
        raise UnknownExporterError(f"found {type(value).__qualname__} where {kind.__qualname__} was expected")


# ---- opentelemetry-sdk: exporters and readers


def preferred_temporality(of: MetricExporter | MetricReader) -> dict[type, AggregationTemporality] | None:
    """Returns the temporality that an exporter or reader prefers for each class of instruments.

    The SDK's PeriodicExportingMetricReader also reads the exporter's member `_preferred_temporality`. Replacement: a
    public property. The specification says that a reader should obtain the output temporality from its exporter
    (metrics SDK, "MetricReader").
    """
    return of._preferred_temporality


def preferred_aggregation(exporter: MetricExporter) -> dict[type, Any] | None:
    """Returns the aggregation that an exporter prefers for each class of instruments.

    Replacement: a public property.
    """
    return exporter._preferred_aggregation


def collect_callback(reader: MetricReader) -> Collect | None:
    """Returns the function with which a reader collects metrics. Returns None if the reader has no provider.

    Replacement for this function and for set_collect_callback(): registering a MetricProducer with the reader
    (specification, metrics SDK, "MetricProducer"; opentelemetry-python #4768).
    """
    callback: Collect | None = reader._collect  # type: ignore[assignment]
    return callback


def set_collect_callback(reader: MetricReader, callback: Collect | None) -> None:
    """Sets the function with which a reader collects metrics. Replacement: see collect_callback()."""
    reader._set_collect_callback(callback)  # type: ignore[arg-type]


# ---- opentelemetry-sdk: providers


def metric_readers(provider: MeterProvider) -> Iterable[MetricReader]:
    """Returns the readers with which a provider was created. Readers that were added later are not included.

    Replacement: none is proposed. An application can add and remove readers (opentelemetry-python #4818), but cannot
    list the readers.
    """
    return provider._metric_readers


def resource_of(provider: MeterProvider) -> Resource:
    """Returns the resource of a provider. Replacement: a public property."""
    return provider._sdk_config.resource


# ---- opentelemetry-exporter-otlp-proto-grpc and -http


def splits_requests(exporter: Any) -> bool:
    """Returns true if an OTLP exporter is configured to split requests. Replacement: a public property."""
    return getattr(exporter, "_max_export_batch_size", None) is not None


class GrpcExporter:
    """The private members of the OTLP/gRPC exporter.

    Replacement: a public method of the exporter that sends a serialized request and returns the server's response.
    Nobody has proposed such a public method yet. Raises UnknownExporterError or AttributeError if the exporter does not
    have the expected members.

    endpoint   target of the channel
    headers    metadata of each call
    insecure   true if the channel does not use TLS
    timeout_s  timeout of one export
    stopped    event that is set when the exporter is shut down
    metrics    metrics about the exporter itself, or None if the exporter has no such metrics
    """

    def __init__(self, exporter: Any) -> None:
        import grpc

        _expect_parameters(exporter._initialize_channel_and_stub)
        _expect_type(exporter._channel, grpc.Channel)
        _expect_type(exporter._shutdown_in_progress, Event)
        self._exporter = exporter
        self.endpoint: str = exporter._endpoint
        self.headers: tuple[tuple[str, str | bytes], ...] = tuple(exporter._headers)
        self.insecure = bool(exporter._insecure)
        self.timeout_s = float(exporter._timeout)
        self.stopped: Event = exporter._shutdown_in_progress
        self.metrics: Any = getattr(exporter, "_metrics", None)

    @property
    def channel(self) -> "grpc.Channel":
        """The exporter's channel."""
        channel: grpc.Channel = self._exporter._channel
        return channel

    def reconnect(self) -> None:
        """Closes the channel and opens a new channel.

        Replacement: none is needed if the exporter gets a public method that sends serialized requests, because the
        exporter itself reconnects (opentelemetry-python #4825).
        """
        self._exporter._channel.close()
        self._exporter._initialize_channel_and_stub()

    def set_credentials(self, credentials: "grpc.ChannelCredentials") -> None:
        """Sets the credentials of the next channel.

        Replacement: an exporter that reloads its certificates (opentelemetry-specification #4247).
        """
        self._exporter._credentials = credentials

    def set_endpoint(self, endpoint: str) -> None:
        """Sets the target of the next channel. The channel uses the target unchanged.

        Replacement: an argument `endpoint` that accepts any gRPC target. At present, the exporter parses its argument
        `endpoint` as a URL. So the exporter connects to AUTHORITY if the target is dns://AUTHORITY/HOST.
        """
        self._exporter._endpoint = self.endpoint = endpoint


class HttpExporter:
    """The private members of the OTLP/HTTP exporter and of the exporter's client.

    Replacement: a public client that takes a serialized request and returns the response. The client of
    opentelemetry-exporter-otlp-common is private (opentelemetry-python #5252). Raises UnknownExporterError or
    AttributeError if the exporter does not have the expected members.

    endpoint           URL to which requests are posted
    headers            headers of each request
    timeout_s          timeout of one export
    max_request_bytes  maximum size of a request before compression; 0 or less means that the size is not limited
    session            the session that sends requests, with the settings of TLS, proxies and credentials
    compress           function that compresses the body of a request with the exporter's compression
    stopped            event that is set when the exporter is shut down
    metrics            metrics about the exporter itself
    """

    def __init__(self, exporter: Any) -> None:
        import requests

        client = exporter._client
        _expect_parameters(client._compress, "serialized_data")
        _expect_type(client._transport._session, requests.Session)
        _expect_type(client._shutdown_event, Event)
        self.endpoint: str = client._endpoint
        self.headers: dict[str, Any] = dict(client._headers)
        self.timeout_s = float(client._timeout)
        self.max_request_bytes = int(exporter._max_request_size)
        self.session: requests.Session = client._transport._session
        self.compress: Callable[[bytes], bytes] = client._compress
        self.stopped: Event = client._shutdown_event
        self.metrics: Any = exporter._metrics


# ---- urllib3


class OpensSockets:
    """Mix-in for connections of urllib3. The method open_socket() opens the socket, instead of urllib3's _new_conn().

    Replacement: none is proposed. The issue urllib3 #94 asked for a public method that opens the socket. Issue #94 was
    closed when `ConnectionCls` was added, but `ConnectionCls` sets only the class of connections, and not how a
    connection opens its socket.
    """

    _dns_host: str

    def _new_conn(self) -> socket.socket:
        return self.open_socket(self._dns_host)

    def open_socket(self, host: str) -> socket.socket:
        """Opens a connection to a host. `host` is a name, or an address without brackets."""
        default: socket.socket = super()._new_conn()  # type: ignore[misc]
        return default
