# SPDX-License-Identifier: Apache-2.0
"""The agent behind `otel-epping run`: watches interfaces and exports until it is told to stop."""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType

from otel_epping.kernel import interfaces
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.interfaces import Role
from otel_epping.sdk import Pipelines, exporter_classes

_log = logging.getLogger("otel_epping")

_MIB = 2**20
# Less than this after the first signal, a second one is an echo: timeout(1), for one, signals its child twice.
_ECHO_S = 1.0


class _LastWords(logging.Handler):
    """Keeps what the exporters log, once an interval and over several lines, for the one line we log.

    The last two: the HTTP exporter tells the cause when it tries again, and only then that it has given up.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last: deque[str] = deque(maxlen=2)

    def emit(self, record: logging.LogRecord) -> None:
        self._last.append(record.getMessage())

    def text(self) -> str:
        return " ".join(" / ".join(self._last).split())


class Delivery:
    """Says when exports begin to fail and when they get through again: once, not once an interval."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._words = _LastWords()
        for name in ("opentelemetry.exporter", "opentelemetry.exporter.otlp"):
            exporters = logging.getLogger(name)
            exporters.handlers = [self._words]
            exporters.propagate = False

    @property
    def failing(self) -> bool:
        """Whether the last export of any exporter failed."""
        return bool(self._failures)

    def __call__(self, exporter: str, failed: int) -> None:
        """Takes the result of an export: how many of its requests failed."""
        if failed:
            if exporter not in self._failures:
                _log.warning("export failed, counts are kept and sent with the next: %s", self._words.text())
            self._failures[exporter] = self._failures.get(exporter, 0) + 1
        elif exporter in self._failures:
            exports = self._failures.pop(exporter)
            _log.warning("exports get through again, after %d that failed; nothing was lost", exports)


@dataclass
class _Stop:
    """Set by SIGINT and SIGTERM. A second signal, a second later, ends the process at once."""

    event: threading.Event
    _first_s: float = 0.0

    def __call__(self, number: int, _: FrameType | None) -> None:
        if not self.event.is_set():
            self._first_s = time.monotonic()
            self.event.set()
        elif time.monotonic() - self._first_s > _ECHO_S:
            os.write(2, b"otel-epping: stopped at once; the last interval may not have been delivered\n")
            os._exit(128 + number)


def run(roles: Mapping[str, Role], config: KernelConfig, interval_s: float | None) -> bool:
    """Watches interfaces, given with what they face, until SIGTERM or SIGINT; returns whether the last export arrived.

    Raises EppingError for whatever keeps it from beginning.
    """
    for name in roles:
        interfaces.find(name)
    exporter_classes()  # what is wrong with the variables is told before half a second of compiling
    stop = _Stop(threading.Event())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    delivery = Delivery()
    with Collector(config) as collector:
        pipelines = Pipelines(collector, interval_s, delivery)
        for name, role in roles.items():
            collector.attachments.attach(name, role)
        _log.info(
            "watching %s: room for %d subnets, %.0f MiB of kernel memory",
            ", ".join(roles),
            config.max_subnets,
            sum(collector.kernel_bytes.values()) / _MIB,
        )
        stop.event.wait()
        _log.info("stopping: exporting the last interval")
        collector.attachments.detach_all()
        pipelines.shutdown()
    return not delivery.failing
