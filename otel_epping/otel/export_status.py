# SPDX-License-Identifier: Apache-2.0
"""Logs whether exports arrive: when exports begin to fail, each new cause, and when exports arrive again.

What exporters log themselves is logged too, each text once: while a receiver is away, an exporter writes the same line
at each export.
"""

import logging
from collections import deque

from otel_epping.otel.otlp.failure import Failure, Once, kind_of

_log = logging.getLogger("otel_epping")

# Loggers of the libraries that exporters use. The SDK itself logs little, and needs no filter.
_LIBRARIES = ("opentelemetry.exporter", "opentelemetry.exporter.otlp", "urllib3", "requests", "grpc")


class _ExportersLog(logging.Handler):
    """Passes each text that exporters log to the root logger once.

    Keeps the last two warnings: they are the cause of a failure for which an exporter gives no other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._once = Once()
        self._last: deque[str] = deque(maxlen=2)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self._last.append(text)
        if self._once.is_new(f"{record.name} {kind_of(text)}"):
            logging.getLogger().handle(record)

    def take(self) -> str:
        """The last two warnings, in one line; then they are forgotten."""
        text = " ".join(" / ".join(self._last).split())
        self._last.clear()
        return text


class Delivery:
    """Takes the result of each export, from exporters in several threads."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._causes: dict[str, Once] = {}
        self._exporters_log = _ExportersLog()
        for name in _LIBRARIES:
            library = logging.getLogger(name)
            library.handlers = [self._exporters_log]
            library.propagate = False

    @property
    def failing(self) -> tuple[str, ...]:
        """The exporters whose last export failed."""
        return tuple(self._failures)

    def cause(self, failure: Failure) -> str:
        """The text of a failure; if a failure has none, what the exporter logged last."""
        return failure.text or self._exporters_log.take()

    def __call__(self, exporter: str, failure: Failure | None) -> None:
        """Takes the result of an export: why it failed, or None."""
        if failure:
            cause = self.cause(failure)
            if self._causes.setdefault(exporter, Once()).is_new(failure.kind or kind_of(cause)):
                fields = {"exporter": exporter, "cause": cause}
                _log.warning("export failed, counts are kept and sent with the next: %s", cause, extra=fields)
            self._failures[exporter] = self._failures.get(exporter, 0) + 1
        elif exporter in self._failures:
            exports = self._failures.pop(exporter)
            self._causes.pop(exporter, None)
            _log.warning(
                "exports get through again, after %d that failed; nothing was lost",
                exports,
                extra={"exporter": exporter, "failed_exports": exports},
            )
