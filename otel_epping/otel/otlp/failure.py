# SPDX-License-Identifier: Apache-2.0
"""Why an export failed. Imports nothing that takes its time, for the agent's log."""

import re
from collections import OrderedDict
from typing import NamedTuple

# Numbers, addresses and ids, by which the same cause differs from one request to the next.
_VARIABLE = re.compile(r"\b(?:0x)?[0-9a-fA-F-]{8,}\b|\d+(?:\.\d+)*")

# What OpenSSL says of a receiver -> what may help, over gRPC and over HTTP.
TLS_HINTS = {
    "WRONG_VERSION_NUMBER": "the receiver does not speak TLS: begin the endpoint with http://",
    "CERTIFICATE_VERIFY_FAILED": "is OTEL_EXPORTER_OTLP_CERTIFICATE the certificate of the receiver's CA?",
}
SPEAKS_TLS = "if the receiver speaks TLS, begin the endpoint with https://"

# A receiver that always sends new texts must not take memory without end.
_REMEMBERED = 64


class Failure(NamedTuple):
    """A cause, in words for the log.

    kind           the same for the same cause, without the words of the receiver that differ each time; '' if kind_of()
                   of the text is
    is_transient   whether to try again (OTLP specification, "Retryable Response Codes", "Failures")
    retry_after_s  how long the receiver asks to wait until then, if it does
    """

    text: str
    kind: str = ""
    is_transient: bool = False
    retry_after_s: float | None = None


class Once:
    """Remembers the latest kinds of text, to log each once."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[str, None] = OrderedDict()

    def is_new(self, kind: str) -> bool:
        """Whether the kind is not remembered; from now on it is."""
        is_new = kind not in self._kinds
        self._kinds[kind] = None
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _REMEMBERED:
            self._kinds.popitem(last=False)
        return is_new


def kind_of(text: str) -> str:
    """A text without what differs from one request to the next."""
    return _VARIABLE.sub("#", text)
