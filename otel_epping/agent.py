# SPDX-License-Identifier: Apache-2.0
"""The agent behind `otel-epping run`: watches interfaces and exports until it is told to stop."""

import logging
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from otel_epping.health import Health, in_words
from otel_epping.kernel import interfaces
from otel_epping.kernel.beside import beside
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.interfaces import Role
from otel_epping.stop import Stop
from otel_epping.systemd import Service
from otel_epping.version import __version__

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
    def failing(self) -> tuple[str, ...]:
        """The exporters whose last export failed."""
        return tuple(self._failures)

    def __call__(self, exporter: str, failed: int) -> None:
        """Takes the result of an export: how many of its requests failed."""
        if failed:
            if exporter not in self._failures:
                told = {"exporter": exporter, "cause": self.words}
                _log.warning("export failed, counts are kept and sent with the next: %s", self.words, extra=told)
            self._failures[exporter] = self._failures.get(exporter, 0) + 1
        elif exporter in self._failures:
            exports = self._failures.pop(exporter)
            _log.warning(
                "exports get through again, after %d that failed; nothing was lost",
                exports,
                extra={"exporter": exporter, "failed_exports": exports},
            )


def _probes(health: Health, at: tuple[str, int] | None) -> AbstractContextManager[object]:
    """Answers health probes at an address and port, if any."""
    if not at:
        return nullcontext()
    from otel_epping.probes import Probes  # with http.server, which an agent without probes can do without

    return Probes(*at, {"/livez": health.live, "/readyz": health.ready})


def wait(stop: Stop, service: Service, health: Health) -> None:
    """Until we are to stop; meanwhile systemd, if it is there, hears how we are."""
    was_alive = True
    while not stop.wait(service.beat_s):
        alive = all(check.ok for check in health.live())
        if was_alive and not alive:
            _log.error("not alive: %s", in_words(health.live()))
        was_alive = alive
        service.beat(in_words(health.ready()), alive=alive)


def run(
    roles: Mapping[str, Role], config: KernelConfig, interval_s: float | None, health_at: tuple[str, int] | None = None
) -> bool:
    """Watches interfaces, given with what they face, until SIGTERM or SIGINT; returns whether the last export arrived.

    Health probes are answered at an address and port, if any. Raises EppingError for whatever keeps it from beginning.
    """
    for name in roles:
        interfaces.find(name)
    stop = Stop("stopped at once; the last interval may not have been delivered")
    delivery = Delivery()
    service, health = Service(), Health()
    with _probes(health, health_at):
        with beside(lambda: Collector(config)) as loading:
            # The compiler works in a process of its own: time enough for Python to read the SDK and its exporters.
            from otel_epping.sdk import Pipelines, exporter_classes

            exporter_classes()
        with loading.result() as collector:
            pipelines = Pipelines(collector, interval_s, delivery)
            for name, role in roles.items():
                collector.attachments.attach(name, role)
            health.begin(collector.attachments, pipelines.exporters, pipelines.interval_s, lambda: delivery.failing)
            kernel_bytes = sum(collector.kernel_bytes.values())
            _log.info(
                "watching %s: room for %d subnets, %.0f MiB of kernel memory",
                ", ".join(roles),
                config.max_subnets,
                kernel_bytes / _MIB,
                extra={
                    "interfaces": list(roles),
                    "max_subnets": config.max_subnets,
                    "kernel_bytes": kernel_bytes,
                    "version": __version__,
                },
            )
            service.ready(in_words(health.ready()))
            wait(stop, service, health)
            _log.info("stopping: exporting the last interval")
            service.stopping("exporting the last interval")
            collector.attachments.detach_all()
            pipelines.shutdown()
    return not delivery.failing
