# SPDX-License-Identifier: Apache-2.0
"""Sends requests through the session of the official HTTP exporter (1.45).

The sender uses the endpoint, headers, compression, timeout and session of the exporter. The session has the settings of
TLS, proxies and credentials. Instead of the exporter, retries.py retries requests, and answer.py interprets responses.
"""

import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from http.client import RemoteDisconnected
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
from otel_epping.otel.private import HttpExporter
from otel_epping.otel.variables.certificates import Certificates

_ZONE = re.compile(r"(\[[^]%]*)%(?:25)?([^]]*)(?=\])")
_CHUNK_BYTES = 65536
_MAX_SHOWN = 200  # maximum length of an error's text in a log line, in characters
_TIMED_OUT = (GivenUpError, requests.exceptions.Timeout, TimeoutError)
_HINTS = {
    **TLS_HINTS,
    "BadStatusLine": "the receiver does not speak HTTP/1.1: check that the endpoint has the port of OTLP/HTTP",
    "CERTIFICATE_REQUIRED": "the receiver asks for a certificate: set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and "
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
}


class HttpSender(RequestSender):
    """Sends requests through an HTTP exporter.

    Raises UnknownExporterError or AttributeError if the exporter does not have the expected private members.
    """

    def __init__(self, exporter: Any, certificates: Certificates | None = None) -> None:
        self._exporter = HttpExporter(exporter)
        super().__init__(self._exporter.timeout_s, self._exporter.stopped, self._exporter.metrics, certificates)
        self._url, self._zone = _without_zone(self._exporter.endpoint)
        # Asks the receiver not to compress responses, because a compressed response could decompress to any size.
        self._headers: Mapping[str, Any] = {"accept-encoding": "identity", **self._exporter.headers}
        self._session = self._exporter.session
        self._unfinished: Exchange | None = None
        self._prepare(self._session)

    def _prepare(self, session: requests.Session) -> None:
        trusted = session.verify if isinstance(session.verify, str) else None
        for prefix, adapter in list(session.adapters.items()):
            if type(adapter) in (HTTPAdapter, Adapter):  # an adapter that the application has mounted is kept
                session.mount(prefix, Adapter(trusted))
        # The exporter's credentials take precedence over .netrc. An Authorization header takes precedence over the user
        # name in the URL.
        user = urlsplit(self._url)
        if session.auth is None and "authorization" in {name.lower() for name in self._headers}:
            session.auth = _keep_unchanged
        elif session.auth is None and user.username:
            session.auth = (unquote(user.username), unquote(user.password or ""))

    def send_with_retries(self, request: Request) -> Answer:
        """Compresses and sends a request. A request that exceeds the exporter's size limit fails and is not sent."""
        if 0 < self._exporter.max_request_bytes < len(request.body):
            limit = self._exporter.max_request_bytes
            text = f"the request has {len(request.body)} bytes, and the exporter's limit is {limit} bytes"
            return Answer(Failure(text, "too large"))
        return super().send_with_retries(Request(self._exporter.compress(request.body), request.points))

    def _renew(self, certificates: Certificates) -> None:
        self._session.close()  # new connections will read the renewed files

    def _try(self, request: Request, timeout_s: float) -> Answer:
        started = time.monotonic()
        if self._unfinished and not self._unfinished.wait(timeout_s):
            return Answer(self._timed_out(self._unfinished))
        timeout_s -= time.monotonic() - started
        exchange = Exchange(lambda: self._exchange(request.body, timeout_s), timeout_s, self._zone)
        try:
            return http_answer(exchange.run_until_deadline())
        except _TIMED_OUT:
            self._unfinished = exchange
            return Answer(self._timed_out(exchange))
        except Exception as error:
            failure = self._failure(error, exchange)
            if exchange.reused and failure.is_transient:  # the receiver had closed the idle connection: retry now
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
        return timed_out(f"{self._where()}: no {exchange.missing} within {self.max_send_s:g} s")

    def _failure(self, error: Exception, exchange: Exchange) -> Failure:
        """Describes why an exchange ended without a response."""
        causes = list(_causes(error))
        if any(isinstance(cause, _TIMED_OUT) for cause in causes):
            return self._timed_out(exchange)
        root = causes[-1]
        text = _describe(root)
        known = f"{type(root).__name__} {text}"
        hints = [hint for word, hint in _HINTS.items() if word in known]
        if isinstance(root, ConnectionResetError | RemoteDisconnected) and self._url.startswith("http://"):
            hints.append(SPEAKS_TLS)
        text = f"{self._where()}: {text}" + (f": {hints[0]}" if hints else "")
        # Errors of OpenSSL are permanent, except SSLEOFError, which is raised if the connection was closed without a
        # TLS shutdown. Errors for invalid headers and URLs are permanent, too.
        refused = isinstance(root, ssl.SSLError) and not isinstance(root, ssl.SSLEOFError)
        is_broken = isinstance(error, requests.exceptions.ConnectionError) or (
            isinstance(root, OSError) and not isinstance(root, requests.exceptions.RequestException)
        )
        return Failure(text, kind_of(known), is_transient=is_broken and not refused)

    def _where(self) -> str:
        """Returns the host and port of the receiver. If a proxy is used, also returns the proxy's host and port."""
        url = urlsplit(self._url)
        where = url.netloc.rpartition("@")[2]
        proxies = self._session.merge_environment_settings(self._url, {}, None, None, None)["proxies"]
        if proxy := select_proxy(self._url, proxies):
            where += f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2] or proxy.rpartition('@')[2]}"
        return where


def _without_zone(url: str) -> tuple[str, str]:
    """Removes the zone of a link-local address from a URL. Returns the URL and the zone ("%eth0", or empty)."""
    found = _ZONE.search(url)
    return (_ZONE.sub(r"\1", url, count=1), f"%{found[2]}") if found else (url, "")


def _keep_unchanged(request: Any) -> Any:
    return request


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes. The last cause is the root cause.

    `requests` wraps the errors of urllib3, and urllib3 wraps errors of sockets and TLS.
    """
    seen: list[BaseException] = []
    todo: list[Any] = [error]
    while todo:
        each = todo.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            yield each
            todo += [each.__context__, each.__cause__, getattr(each, "reason", None), *each.args]


def _describe(root: BaseException) -> str:
    if isinstance(root, socket.gaierror):
        return f"the name cannot be resolved: {root.strerror}"
    if isinstance(root, OSError) and root.errno and not isinstance(root, ssl.SSLError):
        return os.strerror(root.errno)
    return f"{type(root).__name__}: {str(root)[:_MAX_SHOWN]}"
