# SPDX-License-Identifier: Apache-2.0
"""The log of the agent: one line per event on standard error, as text or JSON, whoever has something to say.

Also what the SDK and the exporters say, warnings of Python's, and an exception that nobody caught, in whichever thread.
A line of text tells time, level and what happened; a line of JSON has the logger, the thread, the fields that the event
came with (logging's `extra`), and of an exception type, message and the whole traceback, too.
"""

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from otel_epping.process.text import printable

_log = logging.getLogger("otel_epping")

_SURROGATES = re.compile("[\ud800-\udfff]")
# What a record has without any `extra`, and what formatters add.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def _one_line(text: str) -> str:
    """The same without line breaks, and with what a terminal would obey written out: others' words are in our log."""
    return printable(" ".join(text.split()))


def _utf8(value: Any) -> Any:
    """The same with lone surrogates escaped, which are no UTF-8 and which readers of JSON refuse (RFC 8259, 8.2)."""
    if isinstance(value, str):
        return _SURROGATES.sub(lambda match: printable(match[0]), value)
    if isinstance(value, dict):
        return {_utf8(key): _utf8(each) for key, each in value.items()}
    return list(map(_utf8, value)) if isinstance(value, (list, tuple)) else value


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, UTC."""
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    """Time, level, message; of an exception, type and message, and the calls that led to it."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]):
            calls = traceback.extract_tb(error.__traceback__)
            where = " > ".join(f"{call.filename.rpartition('/')[2]}:{call.lineno} {call.name}" for call in calls)
            text += f": {type(error).__name__}: {error} ({where})"
        return f"{_time(record)} {record.levelname} {_one_line(text)}"


class _Json(logging.Formatter):
    """An object; exceptions under the names of OpenTelemetry's conventions (semconv, "exceptions in logs")."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": _one_line(record.getMessage()),
            "logger": record.name,
            "thread": record.threadName,
        }
        told |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info and (error := record.exc_info[1]):
            told["exception.type"] = type(error).__name__
            told["exception.message"] = str(error)
            told["exception.stacktrace"] = "".join(traceback.format_exception(error))
        return json.dumps(_utf8(told), default=str)


def _is_json() -> bool:
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def last_words(text: str, detail: str = "") -> str:
    """What a process writes as it ends: a line of its log, if that is JSON; else text for whoever typed the command."""
    if not _is_json():
        return "\n".join(filter(None, [detail, f"otel-epping: {_one_line(text)}"]))
    record = logging.LogRecord(_log.name, logging.CRITICAL, "", 0, text, None, None)
    if detail:
        record.detail = detail
    return _Json().format(record)


def _told(level: int, message: str) -> Callable[[Any], None]:
    """A hook of `sys` or `threading` for what nobody caught."""

    def hook(uncaught: Any) -> None:
        if uncaught.exc_value:
            _log.log(level, message, exc_info=(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback))

    return hook


def configure(form: str, level: str) -> None:
    """Sets up the log of this process, all of it. `form` is text or json, `level` debug, info, warning or error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # The core of gRPC is no Python, and writes lines of its own: of connections that go, which the exporter tells too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # A log that cannot be written, on a full disk for one, is no reason for more of it.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: _log.critical("the end of otel-epping: uncaught", exc_info=error)
    threading.excepthook = _told(logging.CRITICAL, "the end of a thread: uncaught")
    sys.unraisablehook = _told(logging.ERROR, "uncaught, where nobody can catch it")
