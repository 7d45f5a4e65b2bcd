# SPDX-License-Identifier: Apache-2.0
"""Keeps secrets out of all that we say: the headers that exporters send, and users, passwords and queries in URLs.

The SDK and the transports put headers into their complaints (one that cannot be parsed, or holds a line break, is
quoted in full), and so may a receiver that refuses them. So what is hidden is the secret itself, wherever it turns up.
"""

import logging
import os
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "[hidden]"

_HEADERS = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?HEADERS")
# Endpoints, and the proxies of requests and gRPC.
_URL = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?ENDPOINT|(https?|all|grpc)_proxy", re.IGNORECASE)
TOKEN = r"[\w!#$%&'*+.^`|~-]+"  # RFC 9110, 5.6.2; with re.ASCII
_NAME = re.compile(rf"\s*{TOKEN}\s*", re.ASCII)
# What is shorter stands in too many words to be hidden, and is no secret.
_LEAST = 4


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    for variable, value in environment.items():
        if _HEADERS.fullmatch(variable):
            for header in value.split(","):
                name, _, secret = header.partition("=")
                # Without a name, or with what can't be one ("Authorization: Basic ..."), all of it may be secret.
                yield secret if secret and _NAME.fullmatch(name) else header
        elif _URL.fullmatch(variable):
            # A password may hold what ends the host of a URL, and is to be hidden all the same.
            user, _, rest = value.strip().rpartition("://")[2].rpartition("@")
            name, _, password = user.partition(":")
            basic = b64encode(f"{unquote(name)}:{unquote(password)}".encode(errors="surrogateescape"))
            yield from (user, password, basic.decode())
            yield from (pair.partition("=")[2] for pair in rest.partition("?")[2].partition("#")[0].split("&"))


def _forms(secret: str) -> Iterator[str]:
    """A secret as it stands in the variable, as it is sent, without its scheme ("Bearer"), and as Python quotes it."""
    for text in (secret.strip(), unquote(secret).strip()):
        for part in (text, *text.split()[-1:]):
            yield part
            yield repr(part)[1:-1]


def redact(text: str) -> str:
    """The text without secrets that stand in the environment."""
    forms = {form for secret in _secrets(os.environ) for form in _forms(secret) if len(form) >= _LEAST}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def _redacted_error(error: BaseException) -> BaseException:
    """The error, or, if it tells a secret, what stands for it: without what led to it, which may tell it as well."""
    told = "".join(traceback.format_exception(error))
    if redact(told) == told:
        return error
    return RuntimeError(redact(f"{type(error).__name__}: {error}")).with_traceback(error.__traceback__)


def install() -> None:
    """Has all log records of this process redacted when they are made: message, and exception."""
    make = logging.getLogRecordFactory()

    def redacted(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        try:
            said = record.getMessage()
        except Exception:  # arguments that don't fit: whoever writes the record says so
            return record
        if (clean := redact(said)) != said:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1]:
            error = _redacted_error(record.exc_info[1])
            record.exc_info = (type(error), error, error.__traceback__)
        return record

    logging.setLogRecordFactory(redacted)
