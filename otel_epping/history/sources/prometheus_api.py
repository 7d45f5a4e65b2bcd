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
from contextlib import suppress
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urljoin, urlsplit

from msgspec import DecodeError, Raw, Struct
from msgspec.json import Decoder

from otel_epping.errors import EppingError
from otel_epping.otel.variables.environment import Environment
from otel_epping.otel.variables.headers import headers

HEADERS_VARIABLE = "PROMETHEUS_HEADERS"
_TIMEOUT_S = 120.0
_DEFAULT_RANGE_S = 24 * 3600
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])")
# A greater number of Unix seconds is after the year 2100, for example because the time is in milliseconds.
_MAX_TIME_S = 2**32
_MAX_STEPS = 1_000_000
_CERTIFICATE_CURE = ": set SSL_CERT_FILE to a file with the certificate of the CA"
_PATH_CURE = "the answer is not of Prometheus' HTTP API: check the path (Mimir: /prometheus)"
# In a path, percent signs and these characters are not encoded again.
_SAFE = "/%:@!$&'()*+,;=~"
_API, _NAMES_PATH, _VALUES_PATH = "/api/v1", "label/__name__/values", "query_range"
_INVALID = DecodeError, UnicodeDecodeError, RecursionError
_PARAMETERS = {"start", "end", "step", "match"}


class NativeHistogram(Struct, gc=False):
    """A native histogram. A bucket has a rule for its bounds, a lower bound, an upper bound, and a count.

    Go's encoder writes an empty list as null. So each list in this file may be None.
    """

    count: str
    sum: str
    buckets: list[tuple[int, str, str, str]] | None = None


class FoundSeries(Struct, gc=False):
    """A series of the result of a range query: (time in Unix seconds, value) at each step."""

    metric: dict[str, str]
    values: list[tuple[float, str]] | None = None
    histograms: list[tuple[float, NativeHistogram]] | None = None


class _Answer(Struct, gc=False):
    status: str
    data: Raw = Raw(b"null")
    errorType: str | None = None  # noqa: N815
    error: str | None = None
    warnings: list[str] | None = None


class _Matrix(Struct, gc=False):
    result: list[FoundSeries] | None = None


_ANSWER, _MATRIX, _NAMES = Decoder(_Answer), Decoder(_Matrix | None), Decoder(list[str] | None)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect. urllib would send the credentials to any host, and would send a query without its body."""

    def http_error_302(self, *_: Any) -> None:
        """Leaves the answer to the next handler, which raises HTTPError."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]


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
            is_valid = parts.port != 0 and "@" not in parts.path + parts.fragment
        except ValueError:
            is_valid = False
        if not is_valid:  # the exception, the host and the path may contain the password
            raise EppingError(
                "the URL of Prometheus is invalid: check the host and the port, and write / ? # @ in a password as "
                "%2F %3F %23 %40"
            )
        try:
            given = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise EppingError(f"the URL of Prometheus is invalid: {error}") from None
        host = parts.netloc.rpartition("@")[2]
        self.name = f"{parts.scheme}://{host}{parts.path}"
        if unknown := sorted(given.keys() - _PARAMETERS):
            raise EppingError(f"{self.name}: unknown parameter {unknown[0]}: use start, end, step or match")
        now_s = int(time.time())
        self.end_s = _time_s(given["end"], now_s) if "end" in given else now_s
        self.start_s = _time_s(given["start"], now_s) if "start" in given else self.end_s - _DEFAULT_RANGE_S
        if self.start_s >= self.end_s:
            raise EppingError(f"{self.name}: start is not before end")
        self.step_s = _duration_s(given["step"]) if "step" in given else None
        if self.step_s and (self.end_s - self.start_s) / self.step_s > _MAX_STEPS:
            steps = (self.end_s - self.start_s) // self.step_s
            raise EppingError(f"{self.name}: the range has {steps:,} steps of {self.step_s} s: use a longer step")
        self.match = given.get("match", "").strip().removeprefix("{").removesuffix("}").strip(", ")
        self.warnings: dict[str, None] = {}
        path = quote(parts.path, safe=_SAFE).rstrip("/").removesuffix(_API)
        self._base = f"{parts.scheme}://{host}{path}{_API}/"
        self._open = urllib.request.build_opener(_NoRedirects).open
        self._headers = _headers()
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"

    def names(self, selector: str) -> list[str]:
        """Returns the names of the metrics that match a selector in the range of time."""
        given = {"match[]": selector, "start": str(self.start_s), "end": str(self.end_s)}
        names: list[str] | None = self._decode(_NAMES, self._query(_NAMES_PATH, given))
        return names or []

    def values(self, selector: str, start_s: int, end_s: int, step_s: int) -> list[FoundSeries]:
        """Returns the values of all series that match a selector, at each step."""
        given = {"query": selector, "start": str(start_s), "end": str(end_s), "step": str(step_s)}
        found: _Matrix | None = self._decode(_MATRIX, self._query(_VALUES_PATH, given))
        return (found.result if found else None) or []

    def _decode(self, decoder: Any, data: Raw) -> Any:
        try:
            return decoder.decode(data)
        except RecursionError:
            raise EppingError(f"{self.name}: {_PATH_CURE}") from None
        except DecodeError as error:
            raise EppingError(f"{self.name}: the answer is not of Prometheus' HTTP API: {error}") from None

    def _query(self, path: str, given: Mapping[str, str]) -> Raw:
        url = self._base + path
        # Selectors may be long, so queries are sent by POST. The endpoint of names accepts only GET.
        body = urlencode(given).encode() if path == _VALUES_PATH else None
        request = urllib.request.Request(url if body else f"{url}?{urlencode(given)}", body, self._headers)
        try:
            with self._open(request, timeout=_TIMEOUT_S) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise EppingError(f"{self.name}: {_cause(error)}") from None
        except TimeoutError:
            raise EppingError(f"{self.name}: no answer within {_TIMEOUT_S:g} s: use a shorter range of time") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            cure = _CERTIFICATE_CURE if isinstance(reason, ssl.SSLCertVerificationError) else ""
            text = " ".join(str(getattr(reason, "strerror", None) or reason).split())  # http.client quotes a line
            raise EppingError(f"{self.name}: {text}{cure}") from None
        try:
            answer = _ANSWER.decode(text)
        except _INVALID:
            raise EppingError(f"{self.name}: {_PATH_CURE}") from None
        if answer.status != "success":
            raise EppingError(f"{self.name}: {answer.errorType}: {answer.error}")
        self.warnings.update(dict.fromkeys(answer.warnings or ()))
        return answer.data


def _headers() -> dict[str, str]:
    environment = Environment(os.environ)
    variable = environment.text(HEADERS_VARIABLE)
    found = headers(environment, variable, grpc=False) if variable else {}
    environment.raise_errors()
    return {name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in found.items()}


def _cause(error: urllib.error.HTTPError) -> str:
    text = f"HTTP {error.code} {error.reason}"
    if location := error.headers.get("Location"):
        return f"{text}: {_redirect(error.url, location)}"
    try:
        answer = _ANSWER.decode(error.read(1 << 16))
    except (*_INVALID, OSError, HTTPException):
        answer = _Answer("")
    if answer.error:
        return f"{answer.error} ({text})"
    if error.code in (401, 403):
        return f"{text}: set {HEADERS_VARIABLE}=authorization=Bearer%20TOKEN"
    return f"{text}: check the path (Mimir: /prometheus)" if error.code == 404 else text


def _redirect(url: str, location: str) -> str:
    """Describes a redirect. The user, the password and the query of the target may be secret, and are not shown."""
    try:
        parts = urlsplit(urljoin(url, location.encode("latin-1", "replace").decode(errors="replace")))
        target = f"{parts.scheme}://{quote(parts.netloc.rpartition('@')[2], safe=':[]')}{quote(parts.path, safe=_SAFE)}"
    except ValueError:
        target = "an invalid URL"
    for path in (_NAMES_PATH, _VALUES_PATH):
        if target.startswith("http") and target.endswith(suffix := f"{_API}/{path}"):
            return f"the server redirects to {target.removesuffix(suffix)}: use this URL"
    return f"the server redirects to {target}: name the URL of Prometheus itself, or set {HEADERS_VARIABLE}"


def _duration_s(text: str) -> int:
    found = _DURATION.fullmatch(text.strip())
    if not found or not int(found[1]):
        raise EppingError(
            f"invalid duration {text[:40]!r} in the URL of Prometheus: write a number and a unit, such as 5m"
        )
    return int(found[1]) * _UNITS_S[found[2]]


def _time_s(text: str, now_s: int) -> int:
    text = text.strip()
    ago = text.removeprefix("now").removeprefix("-")
    time_s = -1
    try:
        if text == "now":
            time_s = now_s
        elif _DURATION.fullmatch(ago):
            time_s = now_s - _duration_s(ago)
        else:
            time_s = int(float(text))
    except (ValueError, OverflowError):
        with suppress(ValueError, OverflowError):
            time_s = int(datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00")).timestamp())
    if not 0 <= time_s <= _MAX_TIME_S:
        raise EppingError(
            f"invalid time {text[:40]!r} in the URL of Prometheus: write it as 2026-01-31T12:00:00Z, Unix seconds or "
            "24h"
        )
    return time_s
