# SPDX-License-Identifier: Apache-2.0
"""HTTP and gRPC servers on 127.0.0.1 that reply to OTLP exports with the responses that a test sets."""

import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, TypeVar

import grpc

Answer = tuple[int, dict[str, str], bytes]

S = TypeVar("S", bound="HttpServer")

_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"


class HttpServer(ThreadingHTTPServer):
    """Calls `reply` with the headers and the body of each POST, and responds with the result: (status, headers, body).

    The server listens in the caller's network namespace, and serves while the `with` block runs.
    """

    daemon_threads = True
    block_on_close = False  # exporters keep connections open, so waiting for their threads would block

    def __init__(self, reply: Callable[[Message, bytes], Answer], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def __enter__(self: S) -> S:
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints nothing. If a handshake fails, the client reports the failure."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, answer = self.server.reply(self.headers, body)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def grpc_server(
    export: Callable[[bytes, grpc.ServicerContext], bytes],
    credentials: grpc.ServerCredentials | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> Iterator[int]:
    """Run a server whose Export method is `export`, and yield its port."""
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(export)
    server = grpc.server(ThreadPoolExecutor(2), options=options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    yield port
    server.stop(grace=None).wait()
