# SPDX-License-Identifier: Apache-2.0
"""Requests through the session of the official HTTP exporter, as it is since 1.45.

The exporter keeps what it is set up with: endpoint, headers, compression, timeout and session, with TLS, proxies and
credentials. How a request is tried, and what an answer means, is ours (retries.py, answer.py).
"""

import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import RemoteDisconnected
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

from otel_epping.otel.otlp.answer import MAX_BODY_BYTES, Answer, Reply, http_answer
from otel_epping.otel.otlp.failure import SPEAKS_TLS, TLS_HINTS, Failure, kind_of
from otel_epping.otel.otlp.http_connections import Adapter
from otel_epping.otel.otlp.http_exchange import Exchange, GivenUpError
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender, timed_out
from otel_epping.otel.private import UnknownExporterError, expect
from otel_epping.otel.variables.certificates import Certificates

_ZONE = re.compile(r"(\[[^]%]*)%(?:25)?([^]]*)(?=\])")
_CHUNK_BYTES = 65536
_SHOWN = 200
_TIMED_OUT = (GivenUpError, requests.exceptions.Timeout, TimeoutError)
_HINTS = {
    **TLS_HINTS,
    "BadStatusLine": "the receiver does not speak HTTP/1.1: is the port that of OTLP/HTTP?",
    "CERTIFICATE_REQUIRED": "the receiver asks for a certificate: set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _KEY",
}


class HttpSender(RequestSender):
    """Sends requests through an HTTP exporter. Raises UnknownExporterError or AttributeError if it is another one."""

    def __init__(self, exporter: Any, certificates: Certificates | None = None) -> None:
        client = exporter._client
        expect(client._compress, "serialized_data")
        session, stopped = client._transport._session, client._shutdown_event
        if not isinstance(session, requests.Session) or not isinstance(stopped, Event):
            raise UnknownExporterError(f"{type(session)} and {type(stopped)} are not a Session and an Event")
        super().__init__(float(client._timeout), stopped, exporter._metrics, certificates)
        self._compress = client._compress
        self._max_bytes = int(exporter._max_request_size)
        self._url, self._zone = _without_zone(client._endpoint)
        # What is packed may unpack to anything.
        self._headers: Mapping[str, Any] = {"accept-encoding": "identity", **client._headers}
        self._session = session
        self._unfinished: Exchange | None = None
        self._prepare(session)

    def _prepare(self, session: requests.Session) -> None:
        trusted = session.verify if isinstance(session.verify, str) else None
        for prefix, adapter in list(session.adapters.items()):
            if type(adapter) in (HTTPAdapter, Adapter):  # an adapter of the application's stays
                session.mount(prefix, Adapter(trusted))
        # What the exporter is set up with goes before .netrc: first a header, then a user in the URL.
        user = urlsplit(self._url)
        if session.auth is None and "authorization" in {name.lower() for name in self._headers}:
            session.auth = _leave_as_it_is
        elif session.auth is None and user.username:
            session.auth = (unquote(user.username), unquote(user.password or ""))

    def _send(self, request: Request) -> Answer:
        if 0 < self._max_bytes < len(request.body):
            text = f"the request has {len(request.body)} bytes, the exporter's limit is {self._max_bytes}"
            return Answer(Failure(text, "too large"))
        return super()._send(Request(self._compress(request.body), request.points))

    def _renew(self, certificates: Certificates) -> None:
        self._session.close()  # new connections read the files anew

    def _try(self, request: Request, timeout_s: float) -> Answer:
        began = time.monotonic()
        if self._unfinished and not self._unfinished.wait(timeout_s):
            return Answer(self._timed_out(self._unfinished))
        timeout_s -= time.monotonic() - began
        exchange = Exchange(lambda: self._exchange(request.body, timeout_s), timeout_s, self._zone)
        try:
            return http_answer(exchange.run_until_deadline())
        except _TIMED_OUT:
            self._unfinished = exchange
            return Answer(self._timed_out(exchange))
        except Exception as error:
            failure = self._failure(error, exchange)
            if exchange.reused and failure.is_transient:  # the receiver closed a connection that was idle
                failure = failure._replace(retry_after_s=0.0)
            return Answer(failure)

    def _exchange(self, body: bytes, timeout_s: float) -> Reply:
        response = self._session.request(
            "POST", self._url, data=body, headers=self._headers, timeout=timeout_s, allow_redirects=False, stream=True
        )
        with response:
            read = b""
            while len(read) <= MAX_BODY_BYTES and (more := response.raw.read(_CHUNK_BYTES, decode_content=False)):
                read += more
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status_code, response.reason or "", headers, read)

    def _timed_out(self, exchange: Exchange) -> Failure:
        return timed_out(f"{self._where()}: no {exchange.missing} within {self.longest_s:g} s")

    def _failure(self, error: Exception, exchange: Exchange) -> Failure:
        """An exchange that gave no answer."""
        causes = list(_causes(error))
        if any(isinstance(cause, _TIMED_OUT) for cause in causes):
            return self._timed_out(exchange)
        root = causes[-1]
        text = _in_words(root)
        known = f"{type(root).__name__} {text}"
        hints = [hint for word, hint in _HINTS.items() if word in known]
        if isinstance(root, ConnectionResetError | RemoteDisconnected) and self._url.startswith("http://"):
            hints.append(SPEAKS_TLS)
        text = f"{self._where()}: {text}" + (f": {hints[0]}" if hints else "")
        # What OpenSSL refuses stays refused, and so does a header or a URL that cannot be sent.
        refused = isinstance(root, ssl.SSLError) and not isinstance(root, ssl.SSLEOFError)
        is_broken = isinstance(error, requests.exceptions.ConnectionError) or (
            isinstance(root, OSError) and not isinstance(root, requests.exceptions.RequestException)
        )
        return Failure(text, kind_of(known), is_transient=is_broken and not refused)

    def _where(self) -> str:
        """Host and port, and those of a proxy on the way there."""
        url = urlsplit(self._url)
        where = url.netloc.rpartition("@")[2]
        proxies = self._session.merge_environment_settings(self._url, {}, None, None, None)["proxies"]
        if proxy := select_proxy(self._url, proxies):
            where += f" by way of the proxy {urlsplit(proxy).netloc.rpartition('@')[2] or proxy.rpartition('@')[2]}"
        return where


def _without_zone(url: str) -> tuple[str, str]:
    """A URL without the zone of a link-local address, and the zone ("%eth0")."""
    found = _ZONE.search(url)
    return (_ZONE.sub(r"\1", url, count=1), f"%{found[2]}") if found else (url, "")


def _leave_as_it_is(request: Any) -> Any:
    return request


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what led to it, one after the other: `requests` wraps what urllib3 wraps."""
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            yield each
            todo += [each.__context__, each.__cause__, getattr(each, "reason", None), *each.args]


def _in_words(root: BaseException) -> str:
    if isinstance(root, socket.gaierror):
        return f"the name cannot be resolved: {root.strerror}"
    if isinstance(root, OSError) and root.errno and not isinstance(root, ssl.SSLError):
        return os.strerror(root.errno)
    return f"{type(root).__name__}: {str(root)[:_SHOWN]}"
