# SPDX-License-Identifier: Apache-2.0
"""What an answer means: only an ExportMetricsServiceResponse is a success.

A proxy, a login page or a server of another kind answers too. With delta temporality, counts that are taken for
delivered are lost. So an answer that is not OTLP is a failure, whatever its status.
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

# A receiver's answer has a few bytes. What is beyond this limit is not read or unpacked.
MAX_BODY_BYTES = 2**20
# OTLP asks for 200. Fluent Bit answers 201 or 204, intakes of vendors 202.
_SUCCESS = (200, 201, 202, 204)
_TRANSIENT = (429, 502, 503, 504)  # OTLP specification, "OTLP/HTTP Response", "Failures"
_PROTOBUF = ("application/x-protobuf", "application/protobuf", "application/vnd.google.protobuf")
_JSON = "application/json"
_SHOWN = 200


class Answer(NamedTuple):
    """What became of a request: a failure, or a success. Of a success the receiver may still have rejected points.

    These must not be sent again (OTLP specification, "Partial Success"); `message` says why.
    """

    failure: Failure | None = None
    rejected: int = 0
    message: str = ""

    @classmethod
    def of(cls, response: ExportMetricsServiceResponse) -> "Answer":
        """The receiver took the request, and responded."""
        partial = response.partial_success
        return cls(None, partial.rejected_data_points, partial.error_message[:_SHOWN])


class Reply(NamedTuple):
    """A response over HTTP: status, names of headers in lower case, the body as it was sent."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


def response_in(body: bytes) -> ExportMetricsServiceResponse | None:
    """The response in these bytes; None if they are something else."""
    try:
        response = ExportMetricsServiceResponse.FromString(body)
    except DecodeError:
        return None
    # A known field of another type is read as an unknown one: these are bytes of another message.
    return None if _has_foreign(response) or _has_foreign(response.partial_success) else response


def _has_foreign(message: Message) -> bool:
    known = message.DESCRIPTOR.fields_by_number
    unknown = UnknownFieldSet(message)
    return any(unknown[index].field_number in known for index in range(len(unknown)))


def http_answer(reply: Reply) -> Answer:
    """What a response over HTTP means."""
    body = _unpacked(reply)
    form = reply.headers.get("content-type", "")[:_SHOWN].partition(";")[0].strip().lower()
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
    # RFC 9110, 8.6: a 204 has no length; one that has is no answer of a receiver.
    if reply.status == 204 and reply.headers.get("content-length", "0") != "0":
        return None
    response = response_in(body)
    # Without a content type, unknown fields are not taken for a later version of OTLP.
    return None if response and not form and len(UnknownFieldSet(response)) else response


def _unpacked(reply: Reply) -> bytes | None:
    """The body, decompressed; None if it is too long, or compressed in a way that was not asked for."""
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
    status = f"HTTP {reply.status} {reply.reason[:_SHOWN]}".strip()
    said = _said(body, form)
    transient = reply.status in _TRANSIENT
    retry_after_s = _retry_after_s(reply.headers.get("retry-after")) if transient else None
    text = status
    if location := reply.headers.get("location"):
        text += f", which redirects to {location[:_SHOWN]}: set the endpoint to the receiver itself"
    elif 200 <= reply.status < 300:
        text += f", but not an answer of an OTLP receiver (content type {form or 'not given'}): is the endpoint right?"
    elif reply.status == 404:
        text += ": is the path of the endpoint right?"
    if said:
        text += f": {said}" if text == status else f" It says: {said}"
    if retry_after_s is not None:
        text += f" (Retry-After: {retry_after_s:g} s)"
    # The words of a page hold times and ids of requests, those of OTLP's Status are a cause.
    return Failure(text, f"{status} {kind_of(said) if form in _PROTOBUF else ''}", transient, retry_after_s)


def _said(body: bytes, form: str) -> str:
    """The words in the body of a failure: OTLP's is a Status; of any other text the beginning."""
    if form in _PROTOBUF:
        with suppress(DecodeError):
            return str(Status.FromString(body).message)[:_SHOWN]
        return ""
    text = " ".join(body[: 4 * _SHOWN].decode("utf-8", "replace").split())
    return "".join(each for each in text if each.isprintable() and each != "\ufffd")[:_SHOWN]


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3). None if there is neither; what is in the past is now."""
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
    """The Status that a gRPC server sends along with an error (googleapis, rpc/status.proto)."""
    with suppress(DecodeError, TypeError):
        if details := metadata.get("grpc-status-details-bin"):
            return Status.FromString(details)
    return None
