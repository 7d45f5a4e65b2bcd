# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver, gRPC or HTTP, with configurable answers: first errors, then a response.

The lab's `Sink` shows what a request contains; this receiver shows how an exporter handles an answer. Its errors ask
for another try soon, as each transport defines it, so that no test waits for a second.
"""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
_AGAIN_AFTER_S = 0.05
_RETRY_INFO = RetryInfo(retry_delay=Duration(nanos=int(_AGAIN_AFTER_S * 1e9))).SerializeToString()

GRPC, HTTP = "grpc", "http"


@dataclass
class Receiver:
    """`errors` are the status codes of the next answers, `response` is the body of later ones.

    `bodies` are the requests.
    """

    protocol: str
    endpoint: str = ""
    errors: list[Any] = field(default_factory=list)
    response: bytes = b""
    bodies: list[bytes] = field(default_factory=list)

    def next_error(self, body: bytes) -> Any:
        """Record a request, and return the error for it, if any."""
        self.bodies.append(body)
        return self.errors.pop(0) if self.errors else None


@contextmanager
def receiver(protocol: str) -> Iterator[Receiver]:
    """Run a receiver while the body runs."""
    one = Receiver(protocol)
    with _grpc_server(one) if protocol == GRPC else _http_server(one):
        yield one


@contextmanager
def _grpc_server(receiver: Receiver) -> Iterator[None]:
    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        if error := receiver.next_error(body):
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", _RETRY_INFO),))
            context.abort(error, "as configured")
        return receiver.response

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(export)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield
    server.stop(grace=None).wait()


@contextmanager
def _http_server(receiver: Receiver) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            error = receiver.next_error(self.rfile.read(int(self.headers["Content-Length"])))
            body = b"" if error else receiver.response
            self.send_response(error or 200)
            if error:
                self.send_header("Retry-After", str(_AGAIN_AFTER_S))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False  # the exporter keeps its connection open
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}/v1/metrics"
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@dataclass
class Relay:
    """`bytes` is how many bytes a client has sent through `port`."""

    port: int
    bytes: int = 0


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    """Forward one connection to a port, in both directions."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Relay(listener.getsockname()[1])

        def back(far: socket.socket, near: socket.socket) -> None:
            with suppress(OSError):  # the client is gone
                while data := far.recv(65536):
                    near.sendall(data)

        def serve() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                Thread(target=back, args=(far, near), daemon=True).start()
                while data := near.recv(65536):
                    one.bytes += len(data)
                    far.sendall(data)

        Thread(target=serve, daemon=True).start()
        yield one
