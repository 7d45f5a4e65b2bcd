# SPDX-License-Identifier: Apache-2.0
"""Serves /livez and /readyz over HTTP, for Kubernetes, load balancers and people with curl.

    /readyz            {"status": "ok", "checks": {"attached": {"ok": true, "text": "watching eth0"}, ...}}
    /readyz?verbose    the text format of Kubernetes components: [+]attached ok: watching eth0
    HTTP status        200, or 503 if a check fails

One thread serves all clients. The thread reads from all connections, and answers each request as soon as the request is
complete. So a slow client does not delay other clients. A request must be complete within two seconds after the client
connects. A request must not be larger than 4 KiB. If 64 connections are open and a new client connects, the oldest
connection is closed.

http.server is used only to parse requests and to format answers. The server class of http.server is not used, because
the class handles one client after the other.
"""

import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from otel_epping.agent.health import Check
from otel_epping.errors import EppingError

_log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S = 2.0
_MAX_REQUEST_BYTES = 4096
_MAX_CONNECTIONS = 64
_ACCEPT_PAUSE_S = 0.1

Probe = Callable[[], Sequence[Check]]


class _Handler(BaseHTTPRequestHandler):
    """Answers a complete request. After the constructor returns, `wfile` contains the answer."""

    server_version = "otel-epping"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "%(message)s\n"

    def __init__(self, request: bytes, probes: Mapping[str, Probe]) -> None:
        # The constructor of the base class is not called, because the constructor needs a socket. To handle a request,
        # the base class needs only the following attributes.
        self._probes = probes
        self.client_address = ("", 0)
        self.rfile, self.wfile = BytesIO(request), BytesIO()
        self.close_connection = True
        self.handle_one_request()

    def do_GET(self) -> None:  # http.server requires this name
        """Answers with the result of the requested probe.

        If no probe has the requested path, the answer lists all paths.
        """
        url = urlsplit(self.path)
        probe = self._probes.get(url.path)
        if not probe:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", f"not found: use {' or '.join(self._probes)}\n")
            return
        checks = probe()
        ok = all(check.ok for check in checks)
        status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
        if "verbose" in parse_qs(url.query, keep_blank_values=True):
            lines = [f"[{'+' if c.ok else '-'}]{c.name} {'ok' if c.ok else 'failed'}: {c.text}" for c in checks]
            lines.append(f"{url.path[1:]} check {'passed' if ok else 'failed'}")
            self._send(status, "text/plain", "\n".join(lines) + "\n")
            return
        results = {check.name: {"ok": check.ok, "text": check.text} for check in checks}
        body = json.dumps({"status": "ok" if ok else "failed", "checks": results})
        self._send(status, "application/json", body + "\n")

    do_HEAD = do_GET  # noqa: N815

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, because probes arrive every few seconds, and the log must not contain text from clients."""


class _Client:
    """A connection whose request is not yet complete."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = b""
        self.deadline_s = time.monotonic() + _REQUEST_TIMEOUT_S


def _listen(address: str, port: int) -> socket.socket:
    is_v6 = ":" in address
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, dualstack_ipv6=is_v6)
    except (socket.gaierror, UnicodeError, TypeError):  # TypeError: the address contains bytes that are not UTF-8
        cause = "this is not an address"
    except OSError as error:
        cause = os.strerror(error.errno or 0)
    raise EppingError(
        f"cannot listen on {address} port {port} for health probes ({cause}): "
        "choose another --health-port, or use an address of this host as --health-address"
    )


class ProbeServer:
    """Answers probes in its own thread. The constructor opens the port, and entering the context starts the thread.

    `probes` maps each path to the function that runs the checks. Raises EppingError if the address or port cannot be
    used.

    The port is opened before the agent drops its capabilities, because opening a port below 1024 needs a capability.
    The thread is started after the agent drops its capabilities, because a new thread inherits the capabilities of the
    thread that starts it.
    """

    def __init__(self, address: str, port: int, probes: Mapping[str, Probe]) -> None:
        self._probes = probes
        self._clients: dict[socket.socket, _Client] = {}  # oldest first
        self._listener = _listen(address, port)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)

    def __enter__(self) -> "ProbeServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port of the listening socket."""
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Stops the thread and closes all connections."""
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._timeout_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif client := self._clients.get(key.fileobj):  # type: ignore[call-overload]  # None: already dropped
                    self._receive(client)
            for client in list(self._clients.values()):
                if client.deadline_s > time.monotonic():
                    break
                self._drop(client)
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()

    def _timeout_s(self) -> float | None:
        """Returns the seconds until the deadline of the oldest client, or None if no client is connected."""
        for client in self._clients.values():
            return max(client.deadline_s - time.monotonic(), 0)
        return None

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection]
        self._selector.unregister(client.connection)
        client.connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # The client has disconnected, or no file descriptor is free. If no descriptor is free, the next accept()
            # fails, too. Without a pause, the thread would repeat accept() and use a whole CPU.
            time.sleep(_ACCEPT_PAUSE_S)
            return
        connection.setblocking(False)
        if len(self._clients) >= _MAX_CONNECTIONS:
            self._drop(next(iter(self._clients.values())))
        self._clients[connection] = _Client(connection)
        try:
            self._selector.register(connection, selectors.EVENT_READ)
        except OSError:  # out of memory, or too many watches (epoll_ctl(2))
            del self._clients[connection]
            connection.close()

    def _receive(self, client: _Client) -> None:
        try:
            received = client.connection.recv(_MAX_REQUEST_BYTES)
        except OSError:
            received = b""
        client.request += received
        is_complete = b"\r\n\r\n" in client.request or b"\n\n" in client.request
        if is_complete and len(client.request) <= _MAX_REQUEST_BYTES:
            # One call of send() sends the whole answer, because the send buffer of the socket is empty, and is much
            # larger than the answer.
            with suppress(OSError):
                client.connection.send(self._answer(client.request))
        elif received and len(client.request) <= _MAX_REQUEST_BYTES:
            return
        self._drop(client)

    def _answer(self, request: bytes) -> bytes:
        try:
            answer = _Handler(request, self._probes).wfile
            assert isinstance(answer, BytesIO)
            return answer.getvalue()
        except Exception:
            _log.exception("cannot answer a health probe")
            return b"HTTP/1.0 500 Internal Server Error\r\nConnection: close\r\n\r\n"
