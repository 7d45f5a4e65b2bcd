# SPDX-License-Identifier: Apache-2.0
"""Tests HTTP responses. A response of an OTLP receiver counts as success, and a response of a proxy does not."""

import gzip
import time
import zlib
from email.utils import formatdate

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)

from otel_epping.otel.otlp.answer import MAX_BODY_BYTES, Answer, Reply, http_answer
from otel_epping.otel.otlp.failure import Failure

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


PROTOBUF, JSON, HTML = "application/x-protobuf", "application/json; charset=utf-8", "text/html"
PARTIAL = ExportMetricsServiceResponse(
    partial_success=ExportMetricsPartialSuccess(rejected_data_points=2, error_message="too old")
).SerializeToString()
STATUS = Status(code=3, message="no such tenant").SerializeToString()


def answer(status: int, body: bytes = b"", form: str = "", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_answer(Reply(status, "Reason", named | ({"content-type": form} if form else {}), body))


def failure(status: int, body: bytes = b"", form: str = "", **headers: str) -> Failure:
    found = answer(status, body, form, **headers).failure
    assert found
    assert f"HTTP {status}" in found.text
    return found


@pytest.mark.parametrize(
    ("status", "body", "form"),
    [
        (200, b"", PROTOBUF),
        (200, b"", ""),
        (200, b"", "Application/X-Protobuf; q=1"),
        (201, b"", ""),  # Fluent Bit sends status 201 by default
        (202, b"", ""),
        (204, b"", ""),
        (200, b"{}", JSON),
        (200, b'{"partialSuccess": {}}', JSON),
    ],
)
def test_responses_of_receivers_are_a_success(status: int, body: bytes, form: str) -> None:
    assert answer(status, body, form) == Answer()


def test_unknown_fields_of_later_otlp_versions_are_ignored() -> None:
    assert answer(200, PARTIAL + b"\x9a\x06\x03new", PROTOBUF) == Answer(None, 2, "too old")


@pytest.mark.parametrize("form", [PROTOBUF, ""])
def test_rejected_points_are_reported(form: str) -> None:
    assert answer(200, PARTIAL, form) == Answer(None, 2, "too old")
    assert answer(200, gzip.compress(PARTIAL, mtime=0), form, content_encoding="gzip") == Answer(None, 2, "too old")
    assert answer(200, zlib.compress(PARTIAL), form, content_encoding="deflate") == Answer(None, 2, "too old")
    partial = b'{"partialSuccess": {"rejectedDataPoints": "2", "errorMessage": "too old"}}'
    assert answer(200, partial, JSON) == Answer(None, 2, "too old")


@pytest.mark.parametrize(
    ("status", "body", "form"),
    [
        (200, b"<html>please log in</html>", HTML),
        (200, b"<html>please log in</html>", ""),
        (200, b"<html>please log in</html>", PROTOBUF),
        (200, b"", HTML),
        (200, b"OK", "text/plain"),
        (200, b"OK", ""),
        (200, b'{"error": "log in"}', JSON),
        (200, b"log in", JSON),
        (200, STATUS, PROTOBUF),  # STATUS is another type of message, whose field 1 is a number
        (200, b"\x0a\x04\x0a\x02\x12\x00", PROTOBUF),  # the server has sent the request back
        (200, b"\x9a\x06\x03new", ""),
        (200, PARTIAL, "application/grpc"),
        (200, gzip.compress(PARTIAL, mtime=0), PROTOBUF),
        (200, PARTIAL + b"\x00" * MAX_BODY_BYTES, PROTOBUF),
        (202, b"no", ""),
        (203, b"", ""),
        (205, b"", ""),
        (206, b"", PROTOBUF),
        (301, b"", PROTOBUF),
        (302, b"", ""),
        (307, PARTIAL, PROTOBUF),
        (308, b"", ""),
        (304, b"", ""),
        (100, b"", ""),
    ],
)
def test_any_other_response_is_a_failure_with_its_status(status: int, body: bytes, form: str) -> None:
    assert not failure(status, body, form).is_transient


def test_a_response_without_a_body_must_have_no_content_length() -> None:
    assert answer(204, b"", content_length="0") == Answer()
    failure(204, b"", content_length="2")


def test_invalid_or_huge_compressed_bodies_are_a_failure() -> None:
    failure(200, gzip.compress(b"\x00" * 2**24), PROTOBUF, content_encoding="gzip")
    failure(200, b"rubbish", PROTOBUF, content_encoding="gzip")
    failure(200, gzip.compress(PARTIAL, mtime=0)[:11], PROTOBUF, content_encoding="gzip")
    failure(200, b"", PROTOBUF, content_encoding="br")


@pytest.mark.parametrize(
    ("status", "is_transient"),
    [
        *((status, True) for status in (429, 502, 503, 504)),
        *((status, False) for status in (400, 401, 403, 404, 408, 413, 500, 501, 505)),
    ],
)
def test_requests_are_repeated_after_the_statuses_of_the_specification(status: int, is_transient: bool) -> None:
    assert failure(status).is_transient is is_transient


def test_a_redirect_names_its_location() -> None:
    assert "redirects to https://login.example/" in failure(302, location="https://login.example/").text


def test_the_text_of_the_receiver_is_in_the_failure() -> None:
    assert "no such tenant" in failure(400, STATUS, PROTOBUF).text
    assert failure(400, STATUS, PROTOBUF).kind != failure(400, b"", PROTOBUF).kind
    assert "slow down" in failure(429, b"slow down", "text/plain").text
    assert len(failure(500, b"x" * 10_000, "text/plain").text) < 300
    pages = [failure(502, f"<p>request {id}</p>".encode(), HTML) for id in ("a1b2", "c3d4")]
    assert pages[0].kind == pages[1].kind, "the cause is the same although the ids differ"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-3", 0.0), ("0", 0.0), (" 7 ", 7.0), ("soon", None), ("nan", None), ("", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert failure(429, retry_after=value).retry_after_s == seconds


def test_retry_after_as_a_date() -> None:
    found = failure(503, retry_after=formatdate(time.time() + 60, usegmt=True)).retry_after_s
    assert found
    assert 55 < found <= 60
    assert failure(503, retry_after=formatdate(0, usegmt=True)).retry_after_s == 0
    assert failure(400, retry_after="3").retry_after_s is None, "Retry-After is ignored if the request is not repeated"
