# SPDX-License-Identifier: Apache-2.0
"""Runs one HTTP request in its own thread, with a deadline for the whole exchange.

A socket timeout applies to each read separately, and the resolver's timeout cannot be set. A receiver that sends one
byte per second, or a DNS server that does not answer, could block a request without limit. So a second thread sends the
request, and the exporting thread waits until the deadline. After the deadline, the exporting thread abandons the
request and shuts down the connection.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

_Options = Sequence[tuple[int, int, int | bytes]] | None


THREAD_NAME = "otlp-http"


class GivenUpError(OSError):
    """The deadline of the request has passed."""


_here = threading.local()


class Exchange:
    """Runs `work` in a thread, until a deadline.

    `zone` is the zone of link-local addresses, for example "%eth0". A zone has a meaning only on the local host, so the
    zone is not sent as part of a URL (RFC 6874).
    """

    def __init__(self, work: Callable[[], Any], timeout_s: float, zone: str = "") -> None:
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self.reused = False  # the connection was used before, so the receiver may have closed the connection
        self.missing = "whole answer"  # the next thing that the exchange waits for, for the error message
        self._deadline = time.monotonic() + timeout_s
        self._work = work
        self._zone = zone
        self._result: Any = None
        self._error: BaseException | None = None
        self._handle: socket.socket | None = None
        self._given_up = False
        self._lock = threading.Lock()

    @staticmethod
    def current() -> "Exchange | None":
        """Returns the exchange that the current thread runs, or None."""
        found: Exchange | None = getattr(_here, "exchange", None)
        return found

    def run_until_deadline(self) -> Any:
        """Runs `work` and returns the result.

        Raises GivenUpError after the deadline, or the error that `work` raises.
        """
        self._thread.start()
        if not self.wait(max(0.0, self._deadline - time.monotonic())):
            self._give_up()
            raise GivenUpError
        if self._error:
            raise self._error
        return self._result

    def wait(self, timeout_s: float) -> bool:
        """Waits until the thread ends, at most `timeout_s`. Returns true if the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        _here.exchange = self
        try:
            self._result = self._work()
        except BaseException as error:  # run_until_deadline() raises this error
            self._error = error
        finally:
            with self._lock:
                self._close_handle()

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
            if self._handle:
                with suppress(OSError):  # already disconnected
                    self._handle.shutdown(socket.SHUT_RDWR)

    def remaining_s(self) -> float:
        """Returns the time until the deadline. Raises GivenUpError after the deadline."""
        remaining = self._deadline - time.monotonic()
        if self._given_up or remaining <= 0:
            raise GivenUpError
        return remaining

    def watch(self, sock: socket.socket) -> None:
        """Keeps a duplicate of the socket's descriptor, because TLS takes over the original.

        A shutdown uses the duplicate.
        """
        with self._lock:
            self._close_handle()
            if self._given_up:
                raise GivenUpError
            self._handle = socket.socket(fileno=os.dup(sock.fileno()))
        sock.settimeout(self.remaining_s())

    def _close_handle(self) -> None:
        if self._handle:
            self._handle.close()
            self._handle = None

    def connect(self, host: str, port: int, source: tuple[str, int] | None, options: _Options) -> socket.socket:
        """Tries a host's addresses until a connection succeeds. Each attempt gets a share of the remaining time."""
        host += self._zone if host.lower().startswith("fe80:") else ""
        self.missing = "answer of a DNS server"
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        self.missing = "connection"
        error: OSError | None = None
        for number, (family, type_, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, type_, protocol)
            try:
                for option in options or ():
                    sock.setsockopt(*option)
                if source:
                    sock.bind(source)
                sock.settimeout(self.remaining_s() / (len(found) - number))
                sock.connect(address)
                self.watch(sock)
                self.missing = "whole answer"
                return sock
            except OSError as failed:
                error = failed
                sock.close()
        raise error or OSError(f"no address for {host}")
