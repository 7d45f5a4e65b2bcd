# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver for gRPC or HTTP with configurable responses: first errors, then a success.

The lab's `Sink` shows the contents of requests. This receiver shows how an exporter handles the responses. Each error
response has a short retry delay, so that no test waits for a second. gRPC and HTTP send this delay in different fields.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from threading import Thread
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

from tests.support.servers import Answer, HttpServer, grpc_server

_AGAIN_AFTER_S = 0.05
_RETRY_INFO = RetryInfo(retry_delay=Duration(nanos=int(_AGAIN_AFTER_S * 1e9))).SerializeToString()

GRPC, HTTP = "grpc", "http"


@dataclass
class Receiver:
    """`errors` has the status codes of the next responses. `response` is the body of all responses after these errors.

    `bodies` has the bodies of the received requests.
    """

    protocol: str
    endpoint: str = ""
    errors: list[Any] = field(default_factory=list)
    response: bytes = b""
    bodies: list[bytes] = field(default_factory=list)

    def next_error(self, body: bytes) -> Any:
        """Record a request, and return the error for it, or None."""
        self.bodies.append(body)
        return self.errors.pop(0) if self.errors else None


@contextmanager
def receiver(protocol: str) -> Iterator[Receiver]:
    """Run a receiver during the `with` block."""
    one = Receiver(protocol)

    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        if error := one.next_error(body):
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", _RETRY_INFO),))
            context.abort(error, "as configured")
        return one.response

    def reply(_: Message, body: bytes) -> Answer:
        if error := one.next_error(body):
            return error, {"Retry-After": str(_AGAIN_AFTER_S)}, b""
        return 200, {}, one.response

    if protocol == GRPC:
        with grpc_server(export) as port:
            one.endpoint = f"http://127.0.0.1:{port}"
            yield one
    else:
        with HttpServer(reply) as server:
            one.endpoint = f"{server.url}/v1/metrics"
            yield one


@dataclass
class Relay:
    """`bytes` is the number of bytes that a client has sent through `port`."""

    port: int
    bytes: int = 0


@contextmanager
def relay(port: int) -> Iterator[Relay]:
    """Forward one connection to a port, in both directions."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = Relay(listener.getsockname()[1])

        def back(far: socket.socket, near: socket.socket) -> None:
            with suppress(OSError):  # the client has closed the connection
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
