# SPDX-License-Identifier: Apache-2.0
"""Requests through the channel of the official gRPC exporter, as it is since 1.45.

The exporter keeps what it is set up with: target, credentials, headers, compression and timeout. How a request is
tried, and what an answer means, is ours (retries.py, answer.py). gRPC's own deadline holds for all of a call, from the
look-up of the name to the last byte.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo

from otel_epping.otel.otlp.answer import Answer, response_in, status_details
from otel_epping.otel.otlp.failure import SPEAKS_TLS, TLS_HINTS, Failure, kind_of
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender, timed_out
from otel_epping.otel.private import UnknownExporterError, expect
from otel_epping.otel.variables.certificates import Certificates

_METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
# OTLP specification, "OTLP/gRPC Response", "Failures"; RESOURCE_EXHAUSTED only if the server says when to try again.
_TRANSIENT = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
# After these, the next try gets a connection of its own.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6
_PEER = re.compile(r"ipv[46]:\S+?:\d+(?=[:;. ]|$)")
_NO_GRPC = "the receiver does not speak gRPC: set the port of OTLP/gRPC, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
_SHOWN = 500
_CLOSED = ("Socket closed", "Connection reset")
_HINTS = {
    **TLS_HINTS,
    "http1.x server": _NO_GRPC,
    "Failed parsing HTTP/2": _NO_GRPC,
    "UNIMPLEMENTED": "the receiver takes no metrics over gRPC: is the endpoint right?",
}


class GrpcSender(RequestSender):
    """Sends requests through a gRPC exporter. Raises UnknownExporterError or AttributeError if it is another one."""

    def __init__(self, exporter: Any, certificates: Certificates | None = None) -> None:
        expect(exporter._initialize_channel_and_stub)
        stopped = exporter._shutdown_in_progress
        if not isinstance(stopped, Event) or not isinstance(exporter._channel, grpc.Channel):
            raise UnknownExporterError(f"{type(stopped)} and {type(exporter._channel)} are not an Event and a Channel")
        super().__init__(float(exporter._timeout), stopped, getattr(exporter, "_metrics", None), certificates)
        self._endpoint: str = exporter._endpoint
        self._headers = tuple(exporter._headers)
        self._insecure = bool(exporter._insecure)
        self._exporter = exporter
        self._call = self._call_on(exporter._channel)

    @staticmethod
    def _call_on(channel: grpc.Channel) -> Callable[..., bytes]:
        return channel.unary_unary(_METHOD)  # bytes in and out

    def _connect(self) -> None:
        """A new channel.

        One that could not connect tries again by a clock of its own, which goes up to two minutes. One whose connection
        a firewall has forgotten waits on it for TCP's quarter of an hour.
        """
        self._exporter._channel.close()
        self._exporter._initialize_channel_and_stub()
        self._call = self._call_on(self._exporter._channel)

    def _renew(self, certificates: Certificates) -> None:
        with suppress(OSError):  # gone since they were checked: the old ones stay
            self._exporter._credentials = grpc.ssl_channel_credentials(*certificates.read())
            self._connect()

    def _try(self, request: Request, timeout_s: float) -> Answer:
        try:
            body = self._call(request.body, metadata=self._headers, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in _LOST and not self._stopped.is_set():
                self._connect()
            return Answer(self._failure(error))
        except ValueError as error:  # metadata that gRPC does not take; a channel that is closed
            return Answer(Failure(f"{self._endpoint}: {error}", kind_of(str(error))))
        if response := response_in(body):
            return Answer.of(response)
        return Answer(Failure(f"{self._endpoint}: the answer is not one of an OTLP receiver: is the endpoint right?"))

    def _failure(self, error: Any) -> Failure:
        code, details = error.code(), str(error.details() or "")[:_SHOWN]
        metadata = dict(error.trailing_metadata() or ())
        text = f"{self._endpoint}: {code.name}: {details}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return timed_out(f"{text}: no answer within {self.longest_s:g} s")
        retry_after_s = _retry_after_s(metadata)
        hints = [hint for word, hint in _HINTS.items() if word in text]
        if any(word in details for word in _CLOSED):
            hints.append(
                SPEAKS_TLS
                if self._insecure
                else "if the receiver asks for a certificate, set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _KEY"
            )
        text += f": {hints[0]}" if hints else ""
        text += f" (the receiver asks to wait for {retry_after_s:g} s)" if retry_after_s else ""
        transient = code in _TRANSIENT or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after_s is not None)
        return Failure(text, kind_of(f"{code.name} {_PEER.sub('', details)}"), transient, retry_after_s)


def _retry_after_s(metadata: Mapping[str, Any]) -> float | None:
    """When to try again, by a RetryInfo: in the details of the status, or by itself; or by gRPC's own push-back."""
    info = RetryInfo()
    with suppress(DecodeError, TypeError):
        if alone := metadata.get("google.rpc.retryinfo-bin"):
            info.ParseFromString(alone)
        for detail in getattr(status_details(metadata), "details", ()):
            if detail.Is(RetryInfo.DESCRIPTOR):
                detail.Unpack(info)
    if info.HasField("retry_delay"):
        return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
    with suppress(ValueError, KeyError, TypeError):
        pushback_ms = float(metadata[_PUSHBACK])
        return max(0.0, pushback_ms / 1e3) if math.isfinite(pushback_ms) else None
    return None
