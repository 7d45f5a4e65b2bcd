# SPDX-License-Identifier: Apache-2.0
"""Logs failed exports: each new cause once, and one line when exports succeed again.

Lines that the exporters themselves log also appear in the agent's log, but each text only once. Without this filter, an
exporter would repeat the same line at each export while a receiver is unavailable.
"""

import logging
from collections import deque

from otel_epping.otel.otlp.failure import Failure, Once, kind_of

_log = logging.getLogger(__name__)

# Loggers of the exporters and their libraries. The SDK itself logs little and needs no filter.
_LIBRARIES = ("opentelemetry.exporter", "opentelemetry.exporter.otlp", "urllib3", "requests", "grpc")


class _ExportersLog(logging.Handler):
    """Receives the log records of exporters, and passes each text to the root logger once.

    Keeps the last two warnings, which explain a failure for which an exporter returns no cause.
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
        """Returns the last two warnings as one line, and forgets these warnings."""
        text = " ".join(" / ".join(self._last).split())
        self._last.clear()
        return text


class ExportStatus:
    """Receives the result of each export. Each exporter calls the same ExportStatus, from its own thread."""

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
        """Names of the exporters whose last export failed."""
        return tuple(self._failures)

    def cause(self, failure: Failure) -> str:
        """Returns the text of a failure. If the text is empty, returns the last warnings that exporters logged."""
        return failure.text or self._exporters_log.take()

    def __call__(self, exporter: str, failure: Failure | None) -> None:
        """Receives the result of an export. `failure` is None if the export succeeded."""
        if failure:
            cause = self.cause(failure)
            if self._causes.setdefault(exporter, Once()).is_new(failure.kind or kind_of(cause)):
                fields = {"exporter": exporter, "cause": cause}
                _log.warning(
                    "%s: export failed, counts stay pending for the next export: %s", exporter, cause, extra=fields
                )
            self._failures[exporter] = self._failures.get(exporter, 0) + 1
        elif exporter in self._failures:
            exports = self._failures.pop(exporter)
            self._causes.pop(exporter, None)
            _log.warning(
                "%s: exports succeed again after %d failed exports; pending counts were delivered",
                exporter,
                exports,
                extra={"exporter": exporter, "failed_exports": exports},
            )
