# SPDX-License-Identifier: Apache-2.0
"""Describes why an export failed. The agent's log imports this module early, so this file imports no slow modules."""

import re
from collections import OrderedDict
from typing import NamedTuple

# Matches numbers, addresses and ids, which differ between the error texts of requests that fail for the same cause.
_VARIABLE = re.compile(r"\b(?:0x)?[0-9a-fA-F-]{8,}\b|\d+(?:\.\d+)*")

# Hints for errors of OpenSSL, both with gRPC and with HTTP. A key is the reason in OpenSSL's error.
TLS_HINTS = {
    "WRONG_VERSION_NUMBER": "the receiver does not speak TLS: use http:// in the endpoint",
    "CERTIFICATE_VERIFY_FAILED": "check that OTEL_EXPORTER_OTLP_CERTIFICATE is the certificate of the receiver's CA",
}
SPEAKS_TLS = "if the receiver speaks TLS, use https:// in the endpoint"

# Maximum number of kinds that Once remembers. The limit bounds the memory of Once if each response has a new text.
_REMEMBERED = 64


class Failure(NamedTuple):
    """The cause of a failed export. `text` is for the log.

    kind           a text that is equal for all failures with the same cause. If `kind` is empty, use kind_of(text)
    is_transient   true if a retry may succeed (OTLP specification, "Retryable Response Codes", "Failures")
    retry_after_s  time that the receiver asks to wait before the retry, or None
    """

    text: str
    kind: str = ""
    is_transient: bool = False
    retry_after_s: float | None = None


class Once:
    """Remembers the latest kinds of log texts (see kind_of()), so that each kind is logged once."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, None] = OrderedDict()

    def is_new(self, kind: str) -> bool:
        """Returns true for a new kind, and remembers the kind."""
        is_new = kind not in self._kinds
        self._kinds[kind] = None
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _REMEMBERED:
            self._kinds.popitem(last=False)
        return is_new


def kind_of(text: str) -> str:
    """Returns the text without the parts that differ from one request to the next."""
    return _VARIABLE.sub("#", text)
