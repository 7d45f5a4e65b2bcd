# SPDX-License-Identifier: Apache-2.0
"""Tries a request again after a transient failure, until its time is up.

The loops of the official exporters (1.45) are not used: they treat a redirect as a success, log neither the status nor
the text of the last answer, measure time by the wall clock, and ignore a Retry-After that is longer than a request.
"""

import random
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from threading import Event
from typing import Any

from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.certificate_renewal import Renewal
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.variables.certificates import Certificates

_MOST_TRIES = 6
_JITTER = (0.8, 1.2)
# Greatest Retry-After that is heeded, in seconds: counts are kept meanwhile.
MAX_PAUSE_S = 300.0
_TIME_IS_UP = "time is up"


class SendError(Exception):
    """A request failed: what the exporter's own metrics name as `error.type`."""


class RequestSender(ABC):
    """Sends requests through an exporter; one thread at a time.

    longest_s  the time that send() takes at most, whatever the receiver does
    """

    def __init__(
        self, timeout_s: float, stopped: Event, metrics: Any = None, certificates: Certificates | None = None
    ) -> None:
        self.longest_s = timeout_s
        self._stopped = stopped
        self._metrics = metrics
        self._renewal = Renewal(certificates) if certificates else None
        self._next_s = 0.0
        self._pause: Failure | None = None

    @property
    def pause(self) -> Failure | None:
        """The failure after which the receiver asks to wait, as long as it asks."""
        return self._pause if time.monotonic() < self._next_s else None

    def end_pause(self) -> None:
        """Lets the next request be sent although the receiver asks to wait."""
        self._next_s = 0.0

    def send(self, request: Request) -> Answer:
        """Sends one, as often as there is time for."""
        with self._metrics.export_operation(request.points) if self._metrics else nullcontext() as result:
            answer = self._send(request)
            if result and answer.failure:
                result.error = SendError(answer.failure.text)
        if answer.failure and answer.failure.retry_after_s:
            self._pause = answer.failure
            self._next_s = time.monotonic() + min(answer.failure.retry_after_s, MAX_PAUSE_S)
        return answer

    def _send(self, request: Request) -> Answer:
        if self._renewal and self._renewal.is_due():
            self._renew(self._renewal.certificates)
        if self._stopped.is_set():
            return Answer(Failure("the exporter is shut down, nothing is sent", "shut down"))
        deadline = time.monotonic() + self.longest_s
        answer = latest = self._try(request, self.longest_s)
        for tries in range(1, _MOST_TRIES):
            failure = latest.failure
            if not failure or not failure.is_transient:
                break
            delay_s = failure.retry_after_s
            if delay_s is None:
                delay_s = 2 ** (tries - 1) * random.uniform(*_JITTER)
            if delay_s >= deadline - time.monotonic() or self._stopped.wait(delay_s):
                break
            latest = self._try(request, max(0.0, deadline - time.monotonic()))
            # A timeout says less than the failures before it.
            if not latest.failure or latest.failure.kind != _TIME_IS_UP:
                answer = latest
        return answer

    @abstractmethod
    def _renew(self, certificates: Certificates) -> None:
        """Has new connections use the files as they are now."""

    @abstractmethod
    def _try(self, request: Request, timeout_s: float) -> Answer:
        """Sends a request once. Takes no more than `timeout_s`."""


def timed_out(text: str) -> Failure:
    """No answer in time."""
    return Failure(text, _TIME_IS_UP, is_transient=True)
