# SPDX-License-Identifier: Apache-2.0
"""Retries a request after transient failures, until the timeout of the request.

The retry loops of the official exporters (1.45) are not used. The official exporters treat a redirect as a success, log
neither the status nor the text of the last response, measure time with the wall clock, and ignore a Retry-After that is
longer than the timeout of a request.
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

_MAX_ATTEMPTS = 6
_JITTER = (0.8, 1.2)
# Maximum wait after a response with Retry-After, in seconds. During the wait, counts stay pending.
MAX_PAUSE_S = 300.0
_TIME_IS_UP = "time is up"


class SendError(Exception):
    """A request failed. In the exporter's own metrics, the attribute `error.type` has the value `SendError`."""


class RequestSender(ABC):
    """Sends requests through an exporter. Only one thread may use a sender at a time.

    max_send_s  maximum duration of send(), even if the receiver does not respond
    """

    def __init__(
        self, timeout_s: float, stopped: Event, metrics: Any = None, certificates: Certificates | None = None
    ) -> None:
        self.max_send_s = timeout_s
        self._stopped = stopped
        self._metrics = metrics
        self._renewal = Renewal(certificates) if certificates else None
        self._next_s = 0.0
        self._pause: Failure | None = None

    @property
    def pause(self) -> Failure | None:
        """The failure after which the receiver asked the exporter to wait; None after the end of the wait."""
        return self._pause if time.monotonic() < self._next_s else None

    def end_pause(self) -> None:
        """Ends the wait that the receiver asked for. The next request is then sent at once."""
        self._next_s = 0.0

    def send(self, request: Request) -> Answer:
        """Sends a request, with retries until the timeout. Records the request in the exporter's own metrics."""
        with self._metrics.export_operation(request.points) if self._metrics else nullcontext() as result:
            answer = self.send_with_retries(request)
            if result and answer.failure:
                result.error = SendError(answer.failure.text)
        if answer.failure and answer.failure.retry_after_s:
            self._pause = answer.failure
            self._next_s = time.monotonic() + min(answer.failure.retry_after_s, MAX_PAUSE_S)
        return answer

    def send_with_retries(self, request: Request) -> Answer:
        """Sends a request at most _MAX_ATTEMPTS times. Stops after a success, a permanent failure or the timeout."""
        if self._renewal and self._renewal.is_due():
            self._renew(self._renewal.certificates)
        if self._stopped.is_set():
            return Answer(Failure("the exporter is shut down, so nothing is sent", "shut down"))
        deadline = time.monotonic() + self.max_send_s
        answer = latest = self._try(request, self.max_send_s)
        for attempts in range(1, _MAX_ATTEMPTS):
            failure = latest.failure
            if not failure or not failure.is_transient:
                break
            delay_s = failure.retry_after_s
            if delay_s is None:
                delay_s = 2 ** (attempts - 1) * random.uniform(*_JITTER)
            if delay_s >= deadline - time.monotonic() or self._stopped.wait(delay_s):
                break
            latest = self._try(request, max(0.0, deadline - time.monotonic()))
            # If a retry times out, the earlier failure is reported, because the earlier failure shows the cause better.
            if not latest.failure or latest.failure.kind != _TIME_IS_UP:
                answer = latest
        return answer

    @abstractmethod
    def _renew(self, certificates: Certificates) -> None:
        """Makes new connections use the current content of the certificate files."""

    @abstractmethod
    def _try(self, request: Request, timeout_s: float) -> Answer:
        """Sends a request once, in at most `timeout_s`."""


def timed_out(text: str) -> Failure:
    """Returns the failure of a request that timed out before a response arrived."""
    return Failure(text, _TIME_IS_UP, is_transient=True)
