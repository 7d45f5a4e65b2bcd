# SPDX-License-Identifier: Apache-2.0
"""The agent's pulse, felt by systemd: how it is, in words, and whether it is alive."""

import logging
import time

from otel_epping.agent.health import Health, in_words
from otel_epping.agent.systemd import Service

_log = logging.getLogger("otel_epping")


class Watchdog:
    """Beats in the rhythm that the service's watchdog asks for, or not at all."""

    def __init__(self, service: Service, health: Health) -> None:
        self._service, self._health = service, health
        self._next_s = time.monotonic()
        self._was_alive = True

    def wait_s(self) -> float | None:
        """How long until beat() is to be called; None for never."""
        return None if self._service.beat_s is None else max(0.0, self._next_s - time.monotonic())

    def beat(self, at_once: bool = False) -> None:
        """Reports the state to systemd if it is time, or at once. A death is logged once."""
        if self._service.beat_s is None or (time.monotonic() < self._next_s and not at_once):
            return
        self._next_s = time.monotonic() + self._service.beat_s
        alive = all(check.ok for check in self._health.live())
        if self._was_alive and not alive:
            _log.error("not alive: %s", in_words(self._health.live()))
        self._was_alive = alive
        self._service.beat(in_words(self._health.ready()), alive=alive)
