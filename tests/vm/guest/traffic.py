# SPDX-License-Identifier: Apache-2.0
"""TCP, DNS and ICMP between two namespaces. The application measures the times with its own clock.

A socket always belongs to the namespace in which it was created. So threads of this process can use the sockets of both
namespaces.
"""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from otel_epping.lab.namespaces import Namespace

_PORT = 7000
_DNS = 53
_TIMEOUT_S = 20.0
_QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01"
_BULK = b"bulk"
_AT_ONCE = 8


@dataclass
class Clock:
    """The shortest times in ms that the application measured for an address. `error` is set if the application
    failed."""

    connect_ms: float = float("inf")
    exchange_ms: float = float("inf")
    dns_ms: float = float("inf")
    error: str = ""


class Server:
    """Echoes TCP data, or sends the requested number of bytes. Sends every DNS query back as its reply."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            listener = socket.create_server(("::", _PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
            names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        names.bind(("0.0.0.0", _DNS))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        threading.Thread(target=self._resolve, args=(names,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(65536):
                wanted = int(request.removeprefix(_BULK)) if request.startswith(_BULK) else 0
                connection.sendall(bytes(wanted) or request)

    @staticmethod
    def _resolve(names: socket.socket) -> None:
        while True:
            query, sender = names.recvfrom(512)
            with contextlib.suppress(OSError):
                names.sendto(query[:2] + bytes([query[2] | 0x80]) + query[3:], sender)


def _socket(namespace: Namespace, address: str, kind: socket.SocketKind, via: str) -> socket.socket:
    with namespace.entered():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(_TIMEOUT_S)
    if via:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, via.encode())
    return made


def _converse(namespace: Namespace, address: str, via: str, turns: int, bulk: int, clock: Clock) -> None:
    with _socket(namespace, address, socket.SOCK_STREAM, via) as connection:
        began = time.perf_counter()
        connection.connect((address, _PORT))
        clock.connect_ms = min(clock.connect_ms, (time.perf_counter() - began) * 1e3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for turn in range(turns):
            began = time.perf_counter()
            connection.sendall(b"request %4d" % turn)
            connection.recv(100)
            clock.exchange_ms = min(clock.exchange_ms, (time.perf_counter() - began) * 1e3)
        if bulk:
            connection.sendall(_BULK + b"%d" % bulk)
            while bulk > 0:
                received = len(connection.recv(65536))
                if not received:
                    raise ConnectionError("the connection was closed before all bytes had arrived")
                bulk -= received


def talk(
    namespace: Namespace, targets: Iterable[tuple[str, str]], connections: int = 3, turns: int = 10, bulk: int = 0
) -> dict[str, Clock]:
    """Exchange TCP data with each target. A target is (address, name of the device for the socket or ""). The targets
    run in parallel. The connections to one target run one after the other."""

    def one(target: tuple[str, str]) -> tuple[str, Clock]:
        address, via = target
        clock = Clock()
        try:
            for _ in range(connections):
                _converse(namespace, address, via, turns, bulk, clock)
        except (OSError, ConnectionError) as error:
            clock.error = f"{type(error).__name__}: {error}"
        return address, clock

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(pool.map(one, targets))


def resolve(namespace: Namespace, address: str, queries: int = 8) -> float:
    """Send queries to the DNS server, and return the shortest time in ms."""
    best = float("inf")
    for _ in range(queries):
        with _socket(namespace, address, socket.SOCK_DGRAM, "") as asker:
            began = time.perf_counter()
            asker.sendto(_QUERY, (address, _DNS))
            asker.recv(512)
            best = min(best, (time.perf_counter() - began) * 1e3)
    return best


def ping(namespace: Namespace, address: str, count: int = 8) -> float:
    """Send echo requests, and return an upper limit of the shortest time in ms. (The exact time is not known, because
    ping rounds times to 0.1 ms.)"""
    said = namespace.run("ping", "-n", "-i", "0.2", "-c", str(count), "-w", "20", address)
    return min(float(time) for time in re.findall(r"time=([\d.]+) ms", said)) + 0.05
