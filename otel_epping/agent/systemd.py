# SPDX-License-Identifier: Apache-2.0
"""Reports readiness, status and the watchdog to systemd (sd_notify(3)), for units with Type=notify and WatchdogSec=.

The protocol is a datagram of NAME=value lines, and systemd guarantees that it does not change. It is implemented here
because it is smaller than a dependency would be; the manual page contains an implementation of the same size.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from otel_epping.agent.health import Health, as_text

_log = logging.getLogger(__name__)

_STATUS_INTERVAL_S = 10.0
# systemd receives datagrams at once. If its queue is full, we do not wait for long.
_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Sends messages to systemd. Does nothing if another program started this process.

    `interval_s` is the time between two calls of report(): at most half of the time after which systemd's watchdog
    would restart this process; None if there is nobody to report to.
    """

    def __init__(self) -> None:
        self.interval_s: float | None = None
        # A leading @ stands for the zero byte of an abstract socket.
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._has_watchdog = False
        if self._address:
            is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
            timeout_us = os.environ.get("WATCHDOG_USEC", "") if is_ours else ""
            self._has_watchdog = timeout_us.isdigit() and int(timeout_us) > 0
            watchdog_s = int(timeout_us) / 2e6 if self._has_watchdog else _STATUS_INTERVAL_S
            self.interval_s = min(_STATUS_INTERVAL_S, watchdog_s)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # The agent continues to count if systemd is gone or does not listen.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            sender.connect(self._address)
            sender.sendall("\n".join(lines).encode())

    def ready(self, status: str) -> None:
        """Reports that the agent is ready, after the start or after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def report(self, status: str, *, alive: bool) -> None:
        """Reports the status, and resets the watchdog if `alive`. A watchdog that is not reset ends the service."""
        self._send(f"STATUS={status}", *(["WATCHDOG=1"] if alive and self._has_watchdog else []))

    @contextmanager
    def reloading(self, status: str) -> Iterator[None]:
        """Reports that settings are reloaded while the body runs. Type=notify-reload requires these messages."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready(status)

    def stopping(self, status: str) -> None:
        """Reports that the agent is about to end."""
        self._send("STOPPING=1", f"STATUS={status}")


class Watchdog:
    """Reports the agent's health to systemd at the interval that systemd's watchdog requires."""

    def __init__(self, notifier: Notifier, health: Health) -> None:
        self._notifier, self._health = notifier, health
        self._next_s = time.monotonic()
        self._was_alive = True

    def wait_s(self) -> float | None:
        """Seconds until the next report is due; None if there is nobody to report to."""
        return None if self._notifier.interval_s is None else max(0.0, self._next_s - time.monotonic())

    def report(self, *, at_once: bool = False) -> None:
        """Reports to systemd if a report is due, or at once. Logs an error when the agent stops being alive."""
        if self._notifier.interval_s is None or (time.monotonic() < self._next_s and not at_once):
            return
        self._next_s = time.monotonic() + self._notifier.interval_s
        checks = self._health.live()
        alive = all(check.ok for check in checks)
        if self._was_alive and not alive:
            _log.error("not alive: %s", as_text(checks))
        self._was_alive = alive
        self._notifier.report(as_text(self._health.ready()), alive=alive)
