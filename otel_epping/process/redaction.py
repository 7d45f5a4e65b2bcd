# SPDX-License-Identifier: Apache-2.0
"""Hides secrets in log lines and error messages.

Secrets are the headers that exporters send, and the users, passwords and queries in URLs. The SDK and the transports
quote headers in their error messages, for example a header that cannot be parsed or that contains a line break. A
receiver may also quote headers in its answers. So each log line and each error message is searched for all secrets.
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

_HEADERS = re.compile(r"(OTEL_EXPORTER_OTLP_(\w+_)?|PROMETHEUS_)HEADERS")
# The variables that contain URLs: the OTLP endpoints, and the proxies for gRPC and HTTP.
_URL = re.compile(r"OTEL_EXPORTER_OTLP_(\w+_)?ENDPOINT|(https?|all|grpc)_proxy", re.IGNORECASE)
TOKEN = r"[\w!#$%&'*+.^`|~-]+"  # a token of RFC 9110, 5.6.2, if compiled with re.ASCII
_NAME = re.compile(rf"\s*{TOKEN}\s*", re.ASCII)
# Minimum length of a secret. A text with fewer than 4 characters is not hidden, because the text is too short for a
# secret, and many words contain the text.
_MIN_LENGTH = 4


def _secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Yields the secrets in `environment`, exactly as they are written in the variables.

    Secrets are the values of headers, and the users, passwords and query parameters of URLs.
    """
    for variable, value in environment.items():
        if _HEADERS.fullmatch(variable):
            for header in value.split(","):
                name, _, secret = header.partition("=")
                # If a user writes a colon instead of "=", the header name is not valid, and the text may be a secret.
                yield secret if secret and _NAME.fullmatch(name) else header
        elif _URL.fullmatch(variable):
            # urlsplit() is not used, because a password may contain characters that end the host part of a URL, such
            # as / or #.
            user, _, rest = value.strip().rpartition("://")[2].rpartition("@")
            name, _, password = user.partition(":")
            basic = b64encode(f"{unquote(name)}:{unquote(password)}".encode(errors="surrogateescape"))
            yield from (user, password, basic.decode())
            yield from (pair.partition("=")[2] for pair in rest.partition("?")[2].partition("#")[0].split("&"))


def _forms(secret: str) -> Iterator[str]:
    """Yields the forms in which a message may quote a secret.

    A message may quote a secret exactly as the secret is written in the variable, or percent-decoded. The message may
    omit the scheme of the secret ("Bearer"). The quoted secret may be escaped by repr().
    """
    for text in (secret.strip(), unquote(secret).strip()):
        for part in (text, *text.split()[-1:]):
            yield part
            yield repr(part)[1:-1]


def redact(text: str) -> str:
    """Returns the text with each secret of the environment replaced by HIDDEN."""
    forms = {form for secret in _secrets(os.environ) for form in _forms(secret) if len(form) >= _MIN_LENGTH}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def _redacted_error(error: BaseException) -> BaseException:
    """Returns the error itself if its traceback contains no secret.

    If the traceback contains a secret, returns a RuntimeError with the redacted message and without the causes of the
    error.
    """
    text = "".join(traceback.format_exception(error))
    if redact(text) == text:
        return error
    return RuntimeError(redact(f"{type(error).__name__}: {error}")).with_traceback(error.__traceback__)


def install() -> None:
    """Redacts the message and the exception of every log record that this process creates from now on."""
    make = logging.getLogRecordFactory()

    def redacted(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        try:
            message = record.getMessage()
        except Exception:  # the arguments do not match the format string; the log handler reports this
            return record
        if (clean := redact(message)) != message:
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1]:
            error = _redacted_error(record.exc_info[1])
            record.exc_info = (type(error), error, error.__traceback__)
        return record

    logging.setLogRecordFactory(redacted)
