# SPDX-License-Identifier: Apache-2.0
"""/livez and /readyz over HTTP, for Kubernetes, load balancers and people with curl.

    /readyz            {"status": "ok", "checks": {"attached": {"ok": true, "text": "watching eth0"}, ...}}
    /readyz?verbose    the same in words, as Kubernetes' own components tell it: [+]attached ok: watching eth0
    status             200, or 503 if a check fails

One thread serves all, and a client can't hold it up: requests are taken in as they come, many at a time, and answered
when they are whole. Each has two seconds and 4 KiB for it, and where too many wait, the oldest has to go. The standard
library reads the requests (http.server), but would wait for one after the other.
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

_PATIENCE_S = 2.0
_MAX_REQUEST = 4096
_MAX_CONNECTIONS = 64
_PAUSE_S = 0.1

Question = Callable[[], Sequence[Check]]


class _Answer(BaseHTTPRequestHandler):
    """The answer to a request that is here already: bytes to bytes."""

    server_version = "otel-epping"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "%(message)s\n"

    def __init__(self, request: bytes, questions: Mapping[str, Question]) -> None:
        # The base class would set sockets up. All it needs to parse and to answer are these.
        self._questions = questions
        self.client_address = ("", 0)
        self.rfile, self.wfile = BytesIO(request), BytesIO()
        self.close_connection = True
        self.handle_one_request()

    def do_GET(self) -> None:  # http.server's name for it
        """One of the questions, or what there is to be asked."""
        url = urlsplit(self.path)
        question = self._questions.get(url.path)
        if not question:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", f"there is {' and '.join(self._questions)}\n")
            return
        checks = question()
        ok = all(check.ok for check in checks)
        status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
        if "verbose" in parse_qs(url.query, keep_blank_values=True):
            lines = [f"[{'+' if c.ok else '-'}]{c.name} {'ok' if c.ok else 'failed'}: {c.text}" for c in checks]
            lines.append(f"{url.path[1:]} check {'passed' if ok else 'failed'}")
            self._send(status, "text/plain", "\n".join(lines) + "\n")
            return
        told = {check.name: {"ok": check.ok, "text": check.text} for check in checks}
        body = json.dumps({"status": "ok" if ok else "failed", "checks": told})
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
        """Nothing: probes come every few seconds, and what others send is not for our log."""


class _Client:
    """A connection whose request is not whole yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = b""
        self.until_s = time.monotonic() + _PATIENCE_S


def _listen(address: str, port: int) -> socket.socket:
    is_v6 = ":" in address
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, dualstack_ipv6=is_v6)
    except (socket.gaierror, UnicodeError, TypeError):  # TypeError: bytes that are not UTF-8
        why = "there is no such address"
    except OSError as error:
        why = os.strerror(error.errno or 0)
    raise EppingError(
        f"cannot listen on {address} port {port} for health probes ({why}): "
        "choose another --health-port, or a --health-address of this host"
    )


class Probes:
    """Listens, and as a context manager answers, in a thread of its own; `questions` are paths and what they ask.

    Listening may take a privilege, which the thread inherits from who starts it: the agent lays its own down between.
    Raises EppingError if it cannot listen there.
    """

    def __init__(self, address: str, port: int, questions: Mapping[str, Question]) -> None:
        self._questions = questions
        self._clients: dict[socket.socket, _Client] = {}  # the oldest first
        self._listener = _listen(address, port)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)

    def __enter__(self) -> "Probes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Ends it."""
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._next_s()):
                if key.fileobj is self._listener:
                    self._accept()
                elif client := self._clients.get(key.fileobj):  # type: ignore[call-overload]  # else it had to go
                    self._receive(client)
            for client in list(self._clients.values()):
                if client.until_s > time.monotonic():
                    break
                self._drop(client)
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.close()

    def _next_s(self) -> float | None:
        """Until the oldest has had its time."""
        for client in self._clients.values():
            return max(client.until_s - time.monotonic(), 0)
        return None

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection]
        self._selector.unregister(client.connection)
        client.connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            # It is gone already, or there are no more descriptors: then not to try again at once.
            time.sleep(_PAUSE_S)
            return
        connection.setblocking(False)
        if len(self._clients) >= _MAX_CONNECTIONS:
            self._drop(next(iter(self._clients.values())))
        self._clients[connection] = _Client(connection)
        try:
            self._selector.register(connection, selectors.EVENT_READ)
        except OSError:  # no more memory, or too many watches (epoll_ctl(2))
            del self._clients[connection]
            connection.close()

    def _receive(self, client: _Client) -> None:
        try:
            received = client.connection.recv(_MAX_REQUEST)
        except OSError:
            received = b""
        client.request += received
        whole = b"\r\n\r\n" in client.request or b"\n\n" in client.request
        if whole and len(client.request) <= _MAX_REQUEST:
            # An answer is far smaller than the buffer of a socket that has sent nothing yet.
            with suppress(OSError):
                client.connection.send(self._answer(client.request))
        elif received and len(client.request) <= _MAX_REQUEST:
            return
        self._drop(client)

    def _answer(self, request: bytes) -> bytes:
        try:
            answer = _Answer(request, self._questions).wfile
            assert isinstance(answer, BytesIO)
            return answer.getvalue()
        except Exception:
            _log.exception("cannot answer a health probe")
            return b"HTTP/1.0 500 Internal Server Error\r\nConnection: close\r\n\r\n"
