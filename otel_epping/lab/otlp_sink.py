# SPDX-License-Identifier: Apache-2.0
"""An OTLP metrics receiver that keeps all requests, for the tests and the demo.

The sink listens on both OTLP transports: gRPC, and HTTP with protobuf (POST /v1/metrics). Requests may be compressed
with gzip. The sink keeps all requests in order of arrival, with their sizes and headers. To simulate an outage, call
`fail_with(503)`. Then the sink answers with HTTP status 503, or with the matching gRPC status (UNAVAILABLE), until
`recover()` is called.

The sink runs in threads of the calling process, even if it listens in a `Namespace`. A listening socket stays in the
namespace in which the socket was opened, so a thread in another namespace can serve the socket.
"""

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_epping.lab.namespaces import Namespace

__all__ = ["Point", "Received", "Sink"]

AttributeValue = str | bool | int | float
T = TypeVar("T")

_HTTP_PATH = "/v1/metrics"
_RESPONSE: bytes = ExportMetricsServiceResponse().SerializeToString()
_GRPC_SERVICE, _GRPC_METHOD = "opentelemetry.proto.collector.metrics.v1.MetricsService", "Export"
# https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_GRPC_STATUS = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True)
class Received:
    """A request: the message, its serialized size in bytes before compression, and headers with lower-case names."""

    request: ExportMetricsServiceRequest
    size: int
    headers: dict[str, str]
    protocol: Literal["grpc", "http"]


class Point(NamedTuple):
    """A data point with its resource and attributes.

    `temporality` is the number that OTLP defines: 1 for delta, 2 for cumulative. The temporality of a gauge is 0.
    """

    resource: dict[str, AttributeValue]
    attributes: dict[str, AttributeValue]
    point: Any
    temporality: int


class Sink:
    """The OTLP receiver; a context manager that listens on 127.0.0.1 (of `namespace`) inside the `with` statement.

    Port 0 means any free port; `grpc_port` and `http_port` are the ports in use. `grpc_endpoint` and `http_endpoint`
    are the URLs for an exporter. Over gRPC, messages of more than 4 MiB are rejected (gRPC's default). Raises OSError
    or RuntimeError if a port is in use.
    """

    def __init__(self, grpc_port: int = 0, http_port: int = 0, namespace: Namespace | None = None) -> None:
        self._received: list[Received] = []
        self._rejected = 0
        self._fail_status: int | None = None
        self._changed = threading.Condition()
        # The server is created outside the namespace, because gRPC starts threads when a server is created, and all
        # gRPC servers and clients of the process share these threads.
        self._grpc_server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(self._export_grpc)
        generic = grpc.method_handlers_generic_handler(_GRPC_SERVICE, {_GRPC_METHOD: handler})
        self._grpc_server.add_generic_rpc_handlers((generic,))
        with namespace.entered() if namespace else nullcontext():
            self.grpc_port = self._grpc_server.add_insecure_port(f"127.0.0.1:{grpc_port}")
            self._http_server = _HttpServer(self, http_port)
        self.http_port = self._http_server.server_port
        self.grpc_endpoint = f"http://127.0.0.1:{self.grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{self.http_port}{_HTTP_PATH}"

    def __enter__(self) -> "Sink":
        self._grpc_server.start()
        # The poll interval limits how long shutdown() takes.
        serve = threading.Thread(target=self._http_server.serve_forever, args=(0.05,), name="otlp-sink", daemon=True)
        serve.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http_server.shutdown()
        self._http_server.server_close()
        self._grpc_server.stop(grace=None).wait()

    @property
    def requests(self) -> list[ExportMetricsServiceRequest]:
        """The accepted requests so far, in order of arrival."""
        return [received.request for received in self.received]

    @property
    def received(self) -> list[Received]:
        """The accepted requests so far with sizes and headers, in order of arrival."""
        with self._changed:
            return list(self._received)

    @property
    def rejected(self) -> int:
        """Number of requests that were rejected with the status that fail_with() set."""
        with self._changed:
            return self._rejected

    def clear(self) -> None:
        """Deletes all requests that were received so far."""
        with self._changed:
            self._received.clear()

    def fail_with(self, status: int) -> None:
        """Rejects all further requests with the HTTP status `status`, or with the matching gRPC status."""
        with self._changed:
            self._fail_status = status

    def recover(self) -> None:
        """Accepts requests again."""
        with self._changed:
            self._fail_status = None

    def wait_for(self, predicate: Callable[["Sink"], T], timeout_s: float) -> T:
        """Waits until `predicate(sink)` is true, and returns the value of the predicate.

        The predicate is evaluated again after each request. After `timeout_s`, raises TimeoutError with the numbers of
        accepted and rejected requests.
        """
        with self._changed:
            result = self._changed.wait_for(lambda: predicate(self), timeout_s)
            if not result:
                counts = f"{len(self._received)} requests accepted, {self._rejected} rejected"
                raise TimeoutError(f"not received within {timeout_s} s: {counts}")
        return result

    def metrics(self) -> Iterator[tuple[dict[str, AttributeValue], Metric]]:
        """Yields each metric of all requests so far, with its resource attributes, in order of arrival."""
        for request in self.requests:
            for resource_metrics in request.resource_metrics:
                resource = _attributes(resource_metrics.resource.attributes)
                for scope_metrics in resource_metrics.scope_metrics:
                    for metric in scope_metrics.metrics:
                        yield resource, metric

    def points(self, metric_name: str) -> list[Point]:
        """Returns the data points of a metric in all requests so far, in order of arrival."""
        return [
            Point(resource, _attributes(point.attributes), point, getattr(data, "aggregation_temporality", 0))
            for resource, metric in self.metrics()
            if metric.name == metric_name
            for data in [getattr(metric, metric.WhichOneof("data") or "gauge")]
            for point in data.data_points
        ]

    def accept(self, body: bytes, headers: dict[str, str], protocol: Literal["grpc", "http"]) -> int:
        """Keeps a serialized request, and returns the HTTP status of the answer: 200, or the status set by fail_with().

        Raises DecodeError if `body` is not a request.
        """
        request = ExportMetricsServiceRequest.FromString(body)
        with self._changed:
            status = self._fail_status
            if status is None:
                self._received.append(Received(request, len(body), headers, protocol))
            else:
                self._rejected += 1
            self._changed.notify_all()
        return status or 200

    def _export_grpc(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            status = self.accept(body, {key: str(value) for key, value in context.invocation_metadata()}, "grpc")
        except DecodeError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if status != 200:
            context.abort(_GRPC_STATUS.get(status, grpc.StatusCode.UNKNOWN), f"the sink is set to fail with {status}")
        return _RESPONSE


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # an exporter's idle keep-alive connection must not delay the exit

    def __init__(self, sink: Sink, port: int) -> None:
        self.sink = sink
        super().__init__(("127.0.0.1", port), _HttpHandler)


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != _HTTP_PATH:
            self._answer(404)
            return
        try:
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(self.server.sink.accept(body, headers, "http"))
        except (DecodeError, EOFError, gzip.BadGzipFile, zlib.error):
            self._answer(400)

    def _answer(self, status: int) -> None:
        body = _RESPONSE if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, because the log lines of a server do not belong on the caller's terminal."""


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    """Returns the Python value of a scalar attribute. Raises ValueError for an array or a map: the agent sends none."""
    kind = value.WhichOneof("value")
    if kind not in ("string_value", "bool_value", "int_value", "double_value"):
        raise ValueError(f"unexpected attribute type {kind}")
    result: AttributeValue = getattr(value, kind)
    return result
