# SPDX-License-Identifier: Apache-2.0
"""Servers that accept a request and then delay the response. Each server uses a different kind of delay. Tests use
these servers to check the deadlines of exports."""

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
_PAUSE_S = 0.1

Manners = Callable[[socket.socket], None]


def drip(client: socket.socket, text: bytes) -> None:
    """Send a text again and again, one byte at a time."""
    while True:
        for byte in text:
            client.sendall(bytes([byte]))
            time.sleep(_PAUSE_S)


def silent(client: socket.socket) -> None:
    """Read all data, and send nothing."""
    with suppress(OSError):
        while client.recv(65536):
            pass


def deaf(client: socket.socket) -> None:
    """Read nothing, so that the TCP window closes."""
    time.sleep(60)


def _after_request(answer: Manners) -> Manners:
    def manners(client: socket.socket) -> None:
        client.recv(65536)
        reading = threading.Thread(target=silent, args=(client,), daemon=True)
        reading.start()
        answer(client)
        reading.join()  # if data were unread, close() would reset the connection

    return manners


def _body(client: socket.socket) -> None:
    client.sendall(_OK + b"Content-Length: 100000\r\n\r\n")
    drip(client, b"x")


def _chunks(client: socket.socket) -> None:
    client.sendall(_OK + b"Transfer-Encoding: chunked\r\n\r\n")
    drip(client, b"1\r\nx\r\n")


def _headers(client: socket.socket) -> None:
    client.sendall(_OK)
    drip(client, b"x-header: value\r\n" * 1000)


def _continue(client: socket.socket) -> None:
    while True:
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(_PAUSE_S)


def _flood(client: socket.socket) -> None:
    client.sendall(_OK + b"\r\n")
    while True:
        client.sendall(b"x" * 65536)


@cache
def _zeros() -> bytes:
    return gzip.compress(bytes(2**28), compresslevel=1)


def _bomb(client: socket.socket) -> None:
    body = _zeros()
    client.sendall(_OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


# HOLDING servers never finish a response. FLOODING servers send too much data at once.
HOLDING: dict[str, Manners] = {
    "silent": silent,
    "deaf": deaf,
    "body": _after_request(_body),
    "chunks": _after_request(_chunks),
    "headers": _after_request(_headers),
    "continue": _after_request(_continue),
}
FLOODING: dict[str, Manners] = {"flood": _after_request(_flood), "bomb": _after_request(_bomb)}


class Server:
    """Listens on `port`, and counts the accepted connections."""

    def __init__(self, listener: socket.socket, manners: Manners) -> None:
        self.port: int = listener.getsockname()[1]
        self.connections = 0
        self._listener, self._manners = listener, manners
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self._manners(client)


@contextmanager
def serving(manners: Manners) -> Iterator[Server]:
    """Run a server with this behaviour on 127.0.0.1 of the caller's network namespace."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Server(listener, manners)
        listener.shutdown(socket.SHUT_RDWR)  # ends accept(); a pending accept() would keep the socket open
