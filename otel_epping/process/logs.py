# SPDX-License-Identifier: Apache-2.0
"""The agent's log: one line per event on standard error, as text or JSON.

The log also contains messages of the SDK and the exporters, Python warnings, and uncaught exceptions of all threads.
A line of text contains the time, the level and the message. A JSON object also contains the logger, the thread and the
fields of the event (`extra` of the logging module). If the event is an exception, the object also contains the type,
the message and the traceback of the exception.
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

from otel_epping.process.escaping import printable

_log = logging.getLogger(__name__)

_SURROGATES = re.compile("[\ud800-\udfff]")
# The attributes that each log record has, and the attributes that formatters add. All other attributes are from
# `extra`.
_STANDARD_ATTRIBUTES = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def _one_line(text: str) -> str:
    """Returns the text without line breaks and with control characters escaped.

    Another program, for example a receiver, may have written the text and put line breaks or control characters into
    it.
    """
    return printable(" ".join(text.split()))


def _utf8(value: Any) -> Any:
    """Returns the value with lone surrogates escaped.

    UTF-8 cannot encode lone surrogates, and JSON parsers reject them (RFC 8259, 8.2).
    """
    if isinstance(value, str):
        return _SURROGATES.sub(lambda match: printable(match[0]), value)
    if isinstance(value, dict):
        return {_utf8(key): _utf8(each) for key, each in value.items()}
    return list(map(_utf8, value)) if isinstance(value, (list, tuple)) else value


def _time(record: logging.LogRecord) -> str:
    """Returns the time of a record in UTC, in the format of RFC 3339."""
    time = datetime.fromtimestamp(record.created, timezone.utc)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    """Formats the time, the level and the message. If an exception is logged, adds its type, message and call chain."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]):
            calls = traceback.extract_tb(error.__traceback__)
            where = " > ".join(f"{call.filename.rpartition('/')[2]}:{call.lineno} {call.name}" for call in calls)
            text += f": {type(error).__name__}: {error} ({where})"
        return f"{_time(record)} {record.levelname} {_one_line(text)}"


class _Json(logging.Formatter):
    """Formats a JSON object. The names of the exception fields are from OpenTelemetry's semantic conventions."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": _one_line(record.getMessage()),
            "logger": record.name,
            "thread": record.threadName,
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}
        if record.exc_info and (error := record.exc_info[1]):
            fields["exception.type"] = type(error).__name__
            fields["exception.message"] = str(error)
            fields["exception.stacktrace"] = "".join(traceback.format_exception(error))
        return json.dumps(_utf8(fields), default=str)


def _is_json() -> bool:
    return any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers)


def exit_message(text: str, detail: str = "") -> str:
    """Returns the last message of a process: a JSON object if the log is JSON, otherwise the text.

    Each line of the text starts with "otel-epping: ".

    `detail` contains, for example, the messages of a compiler. In JSON, `detail` is a field of the object. In a text
    log, `detail` precedes the text.
    """
    if not _is_json():
        return "\n".join(filter(None, [detail, *(f"otel-epping: {_one_line(line)}" for line in text.splitlines())]))
    record = logging.LogRecord("otel_epping", logging.CRITICAL, "", 0, text, None, None)
    if detail:
        record.detail = detail
    return _Json().format(record)


def _log_hook(level: int, message: str) -> Callable[[Any], None]:
    """Returns a hook for sys.unraisablehook or threading.excepthook that logs the exception."""

    def hook(uncaught: Any) -> None:
        if uncaught.exc_value:
            _log.log(level, message, exc_info=(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback))

    return hook


def configure(form: str, level: str) -> None:
    """Configures logging for the whole process. `form` is text or json; `level` is debug, info, warning or error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Disables the messages of gRPC's C core, because the format of these messages is different from the format of the
    # log. Lost connections are still logged, because the exporter reports lost connections, too.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Without this line, the logging module would print a traceback for each failed write, for example if the disk is
    # full.
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: _log.critical("uncaught exception, the process ends", exc_info=error)
    threading.excepthook = _log_hook(logging.CRITICAL, "uncaught exception, the thread ends")
    sys.unraisablehook = _log_hook(logging.ERROR, "exception ignored")
