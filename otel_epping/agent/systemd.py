# SPDX-License-Identifier: Apache-2.0
"""Sends readiness, status and watchdog messages to systemd, for units with Type=notify and WatchdogSec=.

A message is a datagram of NAME=value lines (sd_notify(3)). systemd guarantees that this protocol does not change. No
library is used, because the protocol needs little code: the manual page contains an implementation of the same size as
this module.
"""

import logging
import os
import socket
import time
from contextlib import suppress

from otel_epping.agent.health import Health, as_text

_log = logging.getLogger(__name__)

_STATUS_INTERVAL_S = 10.0
# The longest time that the agent waits if systemd's receive queue is full. Usually systemd receives a datagram at once.
_SEND_TIMEOUT_S = 1.0


class Notifier:
    """Sends messages to systemd. Does nothing if a program other than systemd started this process.

    `interval_s` is the time between two calls of report(). `interval_s` is 10 s, or half of the timeout of systemd's
    watchdog, whichever is shorter. `interval_s` is None if systemd did not start this process.
    """

    def __init__(self) -> None:
        self.interval_s: float | None = None
        # The name of an abstract socket starts with a zero byte. NOTIFY_SOCKET contains an @ in place of the zero byte.
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
        # If systemd cannot receive the message, the agent continues without an error.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            sender.connect(self._address)
            sender.sendall("\n".join(lines).encode())

    def ready(self, status: str) -> None:
        """Reports that the agent is ready. Call this method after the start, and after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def report(self, status: str, *, alive: bool) -> None:
        """Reports the status. If `alive` is True, also resets the watchdog.

        If the watchdog is not reset in time, systemd ends the service.
        """
        self._send(f"STATUS={status}", *(["WATCHDOG=1"] if alive and self._has_watchdog else []))

    def reloading(self) -> None:
        """Reports that the settings are being reloaded. Call ready() when the reload is complete.

        Units with Type=notify-reload require a message at the start and at the end of a reload.
        """
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Reports that the agent is about to end."""
        self._send("STOPPING=1", f"STATUS={status}")


class Watchdog:
    """Reports the agent's health to systemd at regular intervals, and resets systemd's watchdog if the agent is alive.

    The interval is Notifier.interval_s.
    """

    def __init__(self, notifier: Notifier, health: Health) -> None:
        self._notifier, self._health = notifier, health
        self._next_s = time.monotonic()
        self._was_alive = True

    def wait_s(self) -> float | None:
        """Returns the seconds until the next report is due, or None if systemd did not start this process."""
        return None if self._notifier.interval_s is None else max(0.0, self._next_s - time.monotonic())

    def report(self, *, at_once: bool = False) -> None:
        """Reports to systemd if a report is due or if `at_once` is True.

        Logs an error if the agent was alive at the previous report and is not alive now.
        """
        if self._notifier.interval_s is None or (time.monotonic() < self._next_s and not at_once):
            return
        self._next_s = time.monotonic() + self._notifier.interval_s
        checks = self._health.live()
        alive = all(check.ok for check in checks)
        if self._was_alive and not alive:
            _log.error("not alive: %s", as_text(checks))
        self._was_alive = alive
        self._notifier.report(as_text(self._health.ready()), alive=alive)
