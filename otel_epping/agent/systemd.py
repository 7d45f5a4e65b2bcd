# SPDX-License-Identifier: Apache-2.0
"""What systemd is told of us, and when: sd_notify(3), for units with Type=notify and WatchdogSec=.

The protocol is a datagram with lines NAME=value, promised to stay as it is, and smaller than a dependency would be:
the manual page itself has it in as many lines.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STATUS_S = 10.0
# systemd takes datagrams at once; if its queue is full, we don't wait for long.
_PATIENCE_S = 1.0


class Service:
    """We, as a service of systemd; started by anything else, nothing is told to anybody.

    `beat_s` is how often beat() is to be called: twice in the time after which systemd takes us for dead, if it has a
    watchdog on us; None if there is nobody to tell.
    """

    def __init__(self) -> None:
        self.beat_s: float | None = None
        # A leading @ is an abstract socket's zero byte.
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._guarded = False
        if self._address:
            self._guarded = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
            watchdog = os.environ.get("WATCHDOG_USEC", "") if self._guarded else ""
            self._guarded = watchdog.isdigit() and int(watchdog) > 0
            self.beat_s = min(_STATUS_S, int(watchdog) / 2e6) if self._guarded else _STATUS_S

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # A systemd that isn't there, or not listening, is no reason to stop counting.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
            messenger.settimeout(_PATIENCE_S)
            messenger.connect(self._address)
            messenger.sendall("\n".join(lines).encode())

    def ready(self, status: str) -> None:
        """We have begun, or gone on after reloading()."""
        self._tell("READY=1", f"STATUS={status}")

    def beat(self, status: str, *, alive: bool) -> None:
        """We go on. Not `alive`, the watchdog is left to bite: then systemd starts us again."""
        self._tell(f"STATUS={status}", *(["WATCHDOG=1"] if alive and self._guarded else []))

    @contextmanager
    def reloading(self, status: str) -> Iterator[None]:
        """We reload our settings while the body runs, also of our own accord (Type=notify-reload)."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready(status)

    def stopping(self, status: str) -> None:
        """We are about to end."""
        self._tell("STOPPING=1", f"STATUS={status}")
