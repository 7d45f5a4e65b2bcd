# SPDX-License-Identifier: Apache-2.0
"""Interprets responses: only an ExportMetricsServiceResponse is a success.

A response may also come from a proxy, a login page or another kind of server. With delta temporality, counts are lost
if the exporter wrongly assumes that the counts were delivered. So a response that is not OTLP is a failure, even if the
HTTP status is a success.
"""

import email.utils
import math
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from otel_epping.otel.otlp.failure import Failure, kind_of

# An OTLP response has only a few bytes. At most MAX_BODY_BYTES of any other response are read and decompressed.
MAX_BODY_BYTES = 2**20
# OTLP requires status 200, but Fluent Bit responds with 201 or 204, and receivers of some vendors respond with 202.
_SUCCESS = (200, 201, 202, 204)
_TRANSIENT = (429, 502, 503, 504)  # OTLP specification, "OTLP/HTTP Response", "Failures"
_PROTOBUF = ("application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf")
_JSON = "application/json"
_MAX_SHOWN = 200  # maximum length of the receiver's text in a log line, in characters


class Answer(NamedTuple):
    """The outcome of a request: a failure, or a success.

    After a success, `rejected` is the number of data points that the receiver rejected, and `message` is the reason.
    Rejected points must not be resent (OTLP specification, "Partial Success").
    """

    failure: Failure | None = None
    rejected: int = 0
    message: str = ""

    @classmethod
    def of(cls, response: ExportMetricsServiceResponse) -> "Answer":
        """Converts an OTLP response to the outcome of the request."""
        partial = response.partial_success
        return cls(None, partial.rejected_data_points, partial.error_message[:_MAX_SHOWN])


class Reply(NamedTuple):
    """An HTTP response: status, headers with lower-case names, and the body before decompression."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


def response_in(body: bytes) -> ExportMetricsServiceResponse | None:
    """Parses an OTLP response. Returns None if the bytes are not an OTLP response."""
    try:
        response = ExportMetricsServiceResponse.FromString(body)
    except DecodeError:
        return None
    # protobuf treats a known field with a wrong wire type as unknown. A response with a wrong wire type is not OTLP.
    return None if _has_mistyped_field(response) or _has_mistyped_field(response.partial_success) else response


def _has_mistyped_field(message: Message) -> bool:
    known = message.DESCRIPTOR.fields_by_number
    unknown = UnknownFieldSet(message)
    return any(unknown[index].field_number in known for index in range(len(unknown)))


def http_answer(reply: Reply) -> Answer:
    """Interprets an HTTP response."""
    body = _unpacked(reply)
    form = reply.headers.get("content-type", "")[:_MAX_SHOWN].partition(";")[0].strip().lower()
    if reply.status in _SUCCESS:
        response = None if body is None else _response(body, form, reply)
        if response:
            return Answer.of(response)
    return Answer(_failure(reply, body or b"", form))


def _response(body: bytes, form: str, reply: Reply) -> ExportMetricsServiceResponse | None:
    if form == _JSON and body:
        with suppress(json_format.ParseError, UnicodeDecodeError):
            return json_format.Parse(body.decode(), ExportMetricsServiceResponse())
        return None
    if form and form not in (*_PROTOBUF, _JSON):
        return None
    # A 204 response has no Content-Length (RFC 9110, 8.6). So a 204 response with a Content-Length other than 0 is not
    # an OTLP response.
    if reply.status == 204 and reply.headers.get("content-length", "0") != "0":
        return None
    response = response_in(body)
    # Unknown fields may come from a later version of OTLP. Unknown fields are accepted only if the
    # Content-Type is protobuf.
    return None if response and not form and len(UnknownFieldSet(response)) else response


def _unpacked(reply: Reply) -> bytes | None:
    """Returns the decompressed body, or None if the body is too long, is damaged or has an unsupported encoding."""
    coding = reply.headers.get("content-encoding", "identity").strip().lower()
    body: bytes | None = reply.body
    if coding in ("gzip", "x-gzip", "deflate") and reply.body:
        body, stream = None, zlib.decompressobj(zlib.MAX_WBITS | 32)
        with suppress(zlib.error):
            unpacked = stream.decompress(reply.body, MAX_BODY_BYTES + 1)
            body = unpacked if stream.eof else None
    elif coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        body = None
    return None if body is None or len(body) > MAX_BODY_BYTES else body


def _failure(reply: Reply, body: bytes, form: str) -> Failure:
    status = f"HTTP {reply.status} {reply.reason[:_MAX_SHOWN]}".strip()
    message = _message(body, form)
    transient = reply.status in _TRANSIENT
    retry_after_s = _retry_after_s(reply.headers.get("retry-after")) if transient else None
    text = status
    if location := reply.headers.get("location"):
        text += f", which redirects to {location[:_MAX_SHOWN]}: set the endpoint to the receiver itself"
    elif 200 <= reply.status < 300:
        text += f", but the response is not OTLP (content type {form or 'not given'}): check the endpoint"
    elif reply.status == 404:
        text += ": check the path of the endpoint"
    if message:
        text += f": {message}" if text == status else f". The server says: {message}"
    if retry_after_s is not None:
        text += f" (Retry-After: {retry_after_s:g} s)"
    # The kind of the failure includes the text of an OTLP Status, but not the text of a web page, because a web page
    # may contain times and request ids.
    return Failure(text, f"{status} {kind_of(message) if form in _PROTOBUF else ''}", transient, retry_after_s)


def _message(body: bytes, form: str) -> str:
    """Returns the error message from the OTLP Status in the body.

    If the body is text, returns the beginning of the text.
    """
    if form in _PROTOBUF:
        with suppress(DecodeError):
            return str(Status.FromString(body).message)[:_MAX_SHOWN]
        return ""
    text = " ".join(body[: 4 * _MAX_SHOWN].decode("utf-8", "replace").split())
    return "".join(each for each in text if each.isprintable() and each != "\ufffd")[:_MAX_SHOWN]


def _retry_after_s(value: str | None) -> float | None:
    """Converts a Retry-After header (RFC 9110, 10.2.3: a number or a date) to seconds from now.

    Returns 0 for a past date, and None for an invalid value.
    """
    if value is None:
        return None
    seconds = math.nan
    with suppress(ValueError):
        seconds = float(value)
    if math.isnan(seconds):
        with suppress(ValueError, TypeError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return None if math.isnan(seconds) else max(0.0, seconds)


def status_details(metadata: Mapping[str, Any]) -> Status | None:
    """Returns the Status that a gRPC server sent with an error (googleapis, rpc/status.proto), or None."""
    with suppress(DecodeError, TypeError):
        if details := metadata.get("grpc-status-details-bin"):
            return Status.FromString(details)
    return None
