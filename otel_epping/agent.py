# SPDX-License-Identifier: Apache-2.0
"""The agent behind `otel-epping run`: watches interfaces and exports until it is told to stop."""

import logging
from collections import deque
from collections.abc import Mapping

from otel_epping.kernel import interfaces
from otel_epping.kernel.beside import beside
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.interfaces import Role
from otel_epping.kernel.limits import Limits
from otel_epping.stop import Stop

_log = logging.getLogger("otel_epping")

_MIB = 2**20


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
    def words(self) -> str:
        """What the exporters logged last."""
        return self._words.text()

    @property
    def failing(self) -> bool:
        """Whether the last export of any exporter failed."""
        return bool(self._failures)

    def __call__(self, exporter: str, failed: int) -> None:
        """Takes the result of an export: how many of its requests failed."""
        if failed:
            if exporter not in self._failures:
                _log.warning("export failed, counts are kept and sent with the next: %s", self.words)
            self._failures[exporter] = self._failures.get(exporter, 0) + 1
        elif exporter in self._failures:
            exports = self._failures.pop(exporter)
            _log.warning("exports get through again, after %d that failed; nothing was lost", exports)


def run(roles: Mapping[str, Role], config: KernelConfig, interval_s: float | None, limits: Limits) -> bool:
    """Watches interfaces, given with what they face, until SIGTERM or SIGINT; returns whether the last export arrived.

    Raises EppingError for whatever keeps it from beginning.
    """
    for name in roles:
        interfaces.find(name)
    stop = Stop("stopped at once; the last interval may not have been delivered")
    delivery = Delivery()
    with beside(lambda: Collector(config, limits)) as loading:
        # The compiler works in a process of its own: time enough for Python to read the SDK and its exporters.
        from otel_epping.sdk import Pipelines, exporter_classes

        exporter_classes()
    with loading.result() as collector:
        pipelines = Pipelines(collector, interval_s, delivery)
        for name, role in roles.items():
            collector.attachments.attach(name, role)
        _log.info(
            "watching %s: room for %d subnets, %.0f MiB of kernel memory",
            ", ".join(roles),
            config.max_subnets,
            sum(collector.kernel_bytes.values()) / _MIB,
        )
        stop.wait()
        _log.info("stopping: exporting the last interval")
        collector.attachments.detach_all()
        pipelines.shutdown()
    return not delivery.failing
