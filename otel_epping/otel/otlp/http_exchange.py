# SPDX-License-Identifier: Apache-2.0
"""One HTTP request and its response, in a thread of its own that can be given up.

The timeouts of sockets hold for each piece that arrives, and those of the resolver cannot be set: a receiver that sends
a byte each second, or a DNS server that is silent, holds a request for as long as it likes. So the thread that exports
waits here until the deadline, and then shuts the connection down under the request.
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
    """The deadline of the request is past."""


_here = threading.local()


class Exchange:
    """Does `work` in a thread, until a deadline; `run_until_deadline` returns what it returns, or raises.

    `zone` is that of link-local addresses ("%eth0"). It is for this host alone, so no URL has it (RFC 6874).
    """

    def __init__(self, work: Callable[[], Any], timeout_s: float, zone: str = "") -> None:
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self.reused = False  # the connection was there before, so the receiver may have closed it meanwhile
        self.missing = "whole answer"  # what the exchange waits for
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
        """The exchange whose thread this is."""
        found: Exchange | None = getattr(_here, "exchange", None)
        return found

    def run_until_deadline(self) -> Any:
        """Starts the thread and waits. Raises GivenUpError at the deadline, else what `work` raises."""
        self._thread.start()
        if not self.wait(max(0.0, self._deadline - time.monotonic())):
            self._give_up()
            raise GivenUpError
        if self._error:
            raise self._error
        return self._result

    def wait(self, timeout_s: float) -> bool:
        """Waits for the thread; whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        _here.exchange = self
        try:
            self._result = self._work()
        except BaseException as error:  # raised again where the result is waited for
            self._error = error
        finally:
            with self._lock:
                self._close_handle()

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
            if self._handle:
                with suppress(OSError):  # not connected any more
                    self._handle.shutdown(socket.SHUT_RDWR)

    def remaining_s(self) -> float:
        """The time that is left. Raises GivenUpError after the deadline."""
        remaining = self._deadline - time.monotonic()
        if self._given_up or remaining <= 0:
            raise GivenUpError
        return remaining

    def watch(self, sock: socket.socket) -> None:
        """Remembers the socket to shut down, by a descriptor of its own: TLS takes over that of the socket."""
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
        """A connection to the first address of a host that answers. Each gets its share of the time that is left."""
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
