# SPDX-License-Identifier: Apache-2.0
"""Every private member of the OpenTelemetry SDK, its exporters and urllib3 that otel-epping uses.

No other module uses one; tests/otel/test_private.py checks that. Each accessor names the public API that should
replace it. Any release may change these members, so pyproject.toml allows only tested releases: `make compat` runs the
export tests with the oldest and the newest of them.
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
    """An official exporter does not have the private members that otel-epping knows."""


def _expect_parameters(member: Callable[..., Any], *parameters: str) -> None:
    """Raises UnknownExporterError if the member has other parameters."""
    found = tuple(inspect.signature(member).parameters)
    if found != parameters:
        raise UnknownExporterError(f"{member.__qualname__}{found} should be {parameters}")


def _expect_type(value: Any, kind: type) -> None:
    """Raises UnknownExporterError if the value is of another type."""
    if not isinstance(value, kind):
        raise UnknownExporterError(f"found {type(value).__qualname__} where {kind.__qualname__} was expected")


# ---- opentelemetry-sdk: exporters and readers


def preferred_temporality(of: MetricExporter | MetricReader) -> dict[type, AggregationTemporality] | None:
    """Returns the temporality that an exporter or reader prefers, by class of instrument.

    The SDK's PeriodicExportingMetricReader reads the same member of its exporter. Replacement: a public property. By
    the specification, a reader should obtain the output temporality from its exporter (metrics SDK, "MetricReader").
    """
    return of._preferred_temporality


def preferred_aggregation(exporter: MetricExporter) -> dict[type, Any] | None:
    """Returns the aggregation that an exporter prefers, by class of instrument. Replacement: a public property."""
    return exporter._preferred_aggregation


def collect_callback(reader: MetricReader) -> Collect | None:
    """Returns the function with which a reader collects from its provider, None without a provider.

    Replacement, also of set_collect_callback(): registering a MetricProducer with the reader (specification, metrics
    SDK, "MetricProducer"; opentelemetry-python #4768).
    """
    callback: Collect | None = reader._collect  # type: ignore[assignment]
    return callback


def set_collect_callback(reader: MetricReader, callback: Collect | None) -> None:
    """Sets the function with which a reader collects. Replacement: see collect_callback()."""
    reader._set_collect_callback(callback)  # type: ignore[arg-type]


# ---- opentelemetry-sdk: providers


def metric_readers(provider: MeterProvider) -> Iterable[MetricReader]:
    """Returns the readers that a provider was made with; not those that add_metric_reader() added.

    Replacement: none is proposed. With add_metric_reader() an application can add readers and remove them
    (opentelemetry-python #4818), but not list them.
    """
    return provider._metric_readers


def resource_of(provider: MeterProvider) -> Resource:
    """Returns the resource of a provider. Replacement: a public property."""
    return provider._sdk_config.resource


# ---- opentelemetry-exporter-otlp-proto-grpc and -http


def splits_requests(exporter: Any) -> bool:
    """Returns whether an OTLP exporter is set up to split requests. Replacement: a public property."""
    return getattr(exporter, "_max_export_batch_size", None) is not None


class GrpcExporter:
    """The private members of the OTLP/gRPC exporter.

    The replacement for this class is a public method of the exporter that sends a serialized request and returns the
    server's response. None is proposed. Raises UnknownExporterError or AttributeError for an exporter that is built
    otherwise.

    endpoint   target of the channel
    headers    metadata of each call
    insecure   whether the channel has no TLS
    timeout_s  time for one export
    stopped    set when the exporter is shut down
    metrics    the exporter's own metrics; None if it has none
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
        """Replaces the channel by a new one.

        Replacement: none is needed once the exporter itself sends serialized requests, as it then reconnects too
        (opentelemetry-python #4825).
        """
        self._exporter._channel.close()
        self._exporter._initialize_channel_and_stub()

    def set_credentials(self, credentials: "grpc.ChannelCredentials") -> None:
        """Has the next channel use these credentials.

        Replacement: certificates that the exporter reloads (opentelemetry-specification #4247).
        """
        self._exporter._credentials = credentials

    def set_endpoint(self, endpoint: str) -> None:
        """Has the next channel use this target as it is.

        Replacement: an argument `endpoint` that takes any gRPC target. The exporter parses it as a URL, and takes the
        authority of dns://AUTHORITY/HOST for the host.
        """
        self._exporter._endpoint = self.endpoint = endpoint


class HttpExporter:
    """The private members of the OTLP/HTTP exporter and of its client.

    The replacement for this class is a public client that takes a serialized request and returns the response. The
    client of opentelemetry-exporter-otlp-common is private (opentelemetry-python #5252). Raises UnknownExporterError or
    AttributeError for an exporter that is built otherwise.

    endpoint           URL to post to
    headers            headers of each request
    timeout_s          time for one export
    max_request_bytes  size of the largest request, before compression; 0 or less: no limit
    session            what requests are sent through: TLS, proxies, credentials
    compress           compresses the body of a request as the exporter is set up to
    stopped            set when the exporter is shut down
    metrics            the exporter's own metrics
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
    """Mix-in for connections of urllib3: open_socket() opens the socket, in place of urllib3's _new_conn().

    Replacement: none is proposed. urllib3 #94 asked for it and was closed with `ConnectionCls`, which chooses the class
    of connections and not how they open sockets.
    """

    _dns_host: str

    def _new_conn(self) -> socket.socket:
        return self.open_socket(self._dns_host)

    def open_socket(self, host: str) -> socket.socket:
        """Opens a connection to a host: its name as it is looked up, without brackets."""
        default: socket.socket = super()._new_conn()  # type: ignore[misc]
        return default
