# SPDX-License-Identifier: Apache-2.0
"""Sends requests through the channel of the official gRPC exporter (1.45).

The sender uses the target, credentials, headers, compression and timeout of the exporter. Instead of the exporter,
retries.py retries requests, and answer.py interprets responses. The deadline of a gRPC call covers the whole call, from
name resolution to the last byte.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo

from otel_epping.otel.otlp.answer import Answer, response_in, status_details
from otel_epping.otel.otlp.failure import SPEAKS_TLS, TLS_HINTS, Failure, kind_of
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender, timed_out
from otel_epping.otel.private import GrpcExporter
from otel_epping.otel.variables.certificates import Certificates

_METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
# OTLP specification, "OTLP/gRPC Response", "Failures". RESOURCE_EXHAUSTED is transient only if it has a retry delay.
_TRANSIENT = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
# If an attempt fails with a status in _LOST, the next attempt uses a new connection.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6
_PEER = re.compile(r"ipv[46]:\S+?:\d+(?=[:;. ]|$)")
_NO_GRPC = "the receiver does not speak gRPC: set the port of OTLP/gRPC, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
_MAX_SHOWN = 500  # maximum length of the server's text in a log line, in characters
_CLOSED = ("Socket closed", "Connection reset")
_HINTS = {
    **TLS_HINTS,
    "http1.x server": _NO_GRPC,
    "Failed parsing HTTP/2": _NO_GRPC,
    "UNIMPLEMENTED": "the receiver accepts no metrics over gRPC: check the endpoint",
}


class GrpcSender(RequestSender):
    """Sends requests through a gRPC exporter.

    Raises UnknownExporterError or AttributeError if the exporter does not have the expected private members.
    """

    def __init__(self, exporter: Any, certificates: Certificates | None = None) -> None:
        self._exporter = GrpcExporter(exporter)
        super().__init__(self._exporter.timeout_s, self._exporter.stopped, self._exporter.metrics, certificates)
        self._endpoint = self._exporter.endpoint
        self._call = self._call_on(self._exporter.channel)

    @staticmethod
    def _call_on(channel: grpc.Channel) -> Callable[..., bytes]:
        return channel.unary_unary(_METHOD)  # the request and the response are bytes

    def _connect(self) -> None:
        """Opens a new channel, because the old channel may not connect again for minutes.

        After a failed attempt to connect, a channel waits up to two minutes before the next attempt. If a firewall
        drops the packets of a connection, the channel waits for TCP's timeout, which is about 15 minutes.
        """
        self._exporter.reconnect()
        self._call = self._call_on(self._exporter.channel)

    def _renew(self, certificates: Certificates) -> None:
        with suppress(OSError):  # a file was deleted after the check: the old credentials stay in use
            self._exporter.set_credentials(grpc.ssl_channel_credentials(*certificates.read()))
            self._connect()

    def _try(self, request: Request, timeout_s: float) -> Answer:
        try:
            body = self._call(request.body, metadata=self._exporter.headers, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in _LOST and not self._stopped.is_set():
                self._connect()
            return Answer(self._failure(error))
        except ValueError as error:  # gRPC refuses the metadata, or the channel is closed
            return Answer(Failure(f"{self._endpoint}: {error}", kind_of(str(error))))
        if response := response_in(body):
            return Answer.of(response)
        return Answer(Failure(f"{self._endpoint}: the response is not OTLP: check the endpoint"))

    def _failure(self, error: Any) -> Failure:
        code, details = error.code(), str(error.details() or "")[:_MAX_SHOWN]
        metadata = dict(error.trailing_metadata() or ())
        text = f"{self._endpoint}: {code.name}: {details}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return timed_out(f"{text}: no answer within {self.max_send_s:g} s")
        retry_after_s = _retry_after_s(metadata)
        hints = [hint for word, hint in _HINTS.items() if word in text]
        if any(word in details for word in _CLOSED):
            hints.append(
                SPEAKS_TLS
                if self._exporter.insecure
                else "if the receiver asks for a certificate, set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and "
                "OTEL_EXPORTER_OTLP_CLIENT_KEY"
            )
        text += f": {hints[0]}" if hints else ""
        text += f" (the receiver asks to wait for {retry_after_s:g} s)" if retry_after_s else ""
        transient = code in _TRANSIENT or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after_s is not None)
        return Failure(text, kind_of(f"{code.name} {_PEER.sub('', details)}"), transient, retry_after_s)


def _retry_after_s(metadata: Mapping[str, Any]) -> float | None:
    """Returns the retry delay that the server sent, or None.

    The delay is in one of three places: a RetryInfo in the status details, a separate RetryInfo, or gRPC's pushback.
    """
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
