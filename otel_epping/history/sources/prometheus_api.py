# SPDX-License-Identifier: Apache-2.0
"""Queries Prometheus' HTTP API, which Mimir and Thanos have too."""

import os
import re
import ssl
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from otel_epping.errors import EppingError
from otel_epping.otel.variables.environment import Environment
from otel_epping.otel.variables.headers import headers

HEADERS_VARIABLE = "PROMETHEUS_HEADERS"
_TIMEOUT_S = 120.0
_DEFAULT_RANGE_S = 24 * 3600
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+)([smhdw])")
_CERTIFICATE_CURE = ": set SSL_CERT_FILE to a file with the certificate of the CA"
_PARAMETERS = {"start", "end", "step", "match"}


class NativeHistogram(Struct, gc=False):
    """A native histogram. A bucket has a rule for its bounds, a lower bound, an upper bound, and a count."""

    count: str
    sum: str
    buckets: list[tuple[int, str, str, str]] = []


class FoundSeries(Struct, gc=False):
    """A series of the result of a range query: (time in Unix seconds, value) at each step."""

    metric: dict[str, str]
    values: list[tuple[float, str]] = []
    histograms: list[tuple[float, NativeHistogram]] = []


class _Answer(Struct, gc=False):
    status: str
    data: Raw = Raw(b"null")
    errorType: str = ""  # noqa: N815
    error: str = ""
    warnings: list[str] = []


class _Matrix(Struct, gc=False):
    result: list[FoundSeries] = []


_ANSWER, _MATRIX, _NAMES = Decoder(_Answer), Decoder(_Matrix), Decoder(list[str])


class PrometheusApi:
    """The HTTP API at a URL: http://HOST:PORT/PREFIX?start=TIME&end=TIME&step=DURATION&match={LABEL="VALUE"}.

    start, end  the range of time: RFC 3339, Unix seconds, or a duration before now such as 24h; by default, 24 hours
    step        time between two points, for example 5m; the default depends on the range
    match       selects series by labels

    The variable PROMETHEUS_HEADERS contains headers in the format of OTEL_EXPORTER_OTLP_HEADERS. If the URL contains a
    user and a password, the client sends them as basic authentication. Raises EppingError if the URL is invalid.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(re.sub("^prometheus[+]", "", url, flags=re.IGNORECASE))
            given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
            host = parts.netloc.rpartition("@")[2]
        except ValueError as error:
            raise EppingError(f"the URL of Prometheus is invalid: {error}") from None
        self.name = f"{parts.scheme}://{host}{parts.path}"
        if unknown := sorted(given.keys() - _PARAMETERS):
            raise EppingError(f"{self.name}: unknown parameter {unknown[0]}: use start, end, step or match")
        now_s = int(time.time())
        self.end_s = _time_s(given["end"], now_s) if "end" in given else now_s
        self.start_s = _time_s(given["start"], now_s) if "start" in given else self.end_s - _DEFAULT_RANGE_S
        if self.start_s >= self.end_s:
            raise EppingError(f"{self.name}: start is not before end")
        self.step_s = _duration_s(given["step"]) if "step" in given else None
        self.match = given.get("match", "").strip().removeprefix("{").removesuffix("}").strip(", ")
        self.warnings: dict[str, None] = {}
        self._base = self.name.rstrip("/").removesuffix("/api/v1") + "/api/v1/"
        self._headers = _headers()
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"

    def names(self, selector: str) -> list[str]:
        """Returns the names of the metrics that match a selector in the range of time."""
        given = {"match[]": selector, "start": str(self.start_s), "end": str(self.end_s)}
        names: list[str] = self._decode(_NAMES, self._query("label/__name__/values", given))
        return names

    def values(self, selector: str, start_s: int, end_s: int, step_s: int) -> list[FoundSeries]:
        """Returns the values of all series that match a selector, at each step."""
        given = {"query": selector, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        found: list[FoundSeries] = self._decode(_MATRIX, self._query("query_range", given)).result
        return found

    def _decode(self, decoder: Any, data: Raw) -> Any:
        try:
            return decoder.decode(data)
        except DecodeError as error:
            raise EppingError(f"{self.name}: the answer is not of Prometheus' HTTP API: {error}") from None

    def _query(self, path: str, given: Mapping[str, str]) -> Raw:
        url = self._base + path
        # Selectors may be long, so queries are sent by POST. The endpoint of names accepts only GET.
        body = urlencode(given).encode() if path == "query_range" else None
        request = urllib.request.Request(url if body else f"{url}?{urlencode(given)}", body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise EppingError(f"{self.name}: {_cause(error)}") from None
        except TimeoutError:
            raise EppingError(f"{self.name}: no answer within {_TIMEOUT_S:g} s: use a shorter range of time") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            cure = _CERTIFICATE_CURE if isinstance(reason, ssl.SSLCertVerificationError) else ""
            raise EppingError(f"{self.name}: {getattr(reason, 'strerror', None) or reason}{cure}") from None
        try:
            answer = _ANSWER.decode(text)
        except (DecodeError, UnicodeDecodeError):
            raise EppingError(
                f"{self.name}: the answer is not of Prometheus' HTTP API: check the path (Mimir: /prometheus)"
            ) from None
        if answer.status != "success":
            raise EppingError(f"{self.name}: {answer.errorType}: {answer.error}")
        self.warnings.update(dict.fromkeys(answer.warnings))
        return answer.data


def _headers() -> dict[str, str]:
    environment = Environment(os.environ)
    variable = environment.text(HEADERS_VARIABLE)
    found = headers(environment, variable, grpc=False) if variable else {}
    environment.raise_errors()
    return {name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in found.items()}


def _cause(error: urllib.error.HTTPError) -> str:
    text = f"HTTP {error.code} {error.reason}"
    try:
        answer = _ANSWER.decode(error.read(1 << 16))
    except (DecodeError, UnicodeDecodeError, OSError, HTTPException):
        answer = _Answer("")
    if answer.error:
        return f"{answer.error} ({text})"
    if error.code in (401, 403):
        return f"{text}: set {HEADERS_VARIABLE}=authorization=Bearer%20TOKEN"
    return f"{text}: check the path (Mimir: /prometheus)" if error.code == 404 else text


def _duration_s(text: str) -> int:
    found = _DURATION.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise EppingError(f"invalid duration {text!r} in the URL of Prometheus: write a number and a unit, such as 5m")
    return int(found[1]) * _UNITS_S[found[2]]


def _time_s(text: str, now_s: int) -> int:
    text = text.strip().removeprefix("now-").removeprefix("-")
    if text == "now":
        return now_s
    if _DURATION.fullmatch(text):
        return now_s - _duration_s(text)
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        pass
    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00")).timestamp())
    except (ValueError, OverflowError):
        raise EppingError(
            f"invalid time {text!r} in the URL of Prometheus: write it as 2026-01-31T12:00:00Z, Unix seconds or 24h"
        ) from None
