# SPDX-License-Identifier: Apache-2.0
"""Makes the package `requests` use connections that an Exchange can shut down.

The connections use the TLS settings of the exporter.
"""

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager, pool_classes_by_scheme

from otel_epping.otel.otlp.http_exchange import Exchange
from otel_epping.otel.private import OpensSockets


class _Watched(OpensSockets, HTTPConnection):
    """A connection that registers its socket with the exchange of the current thread."""

    def open_socket(self, host: str) -> socket.socket:
        """Connects to the host. If the current thread runs an exchange, the deadline of the exchange applies."""
        exchange = Exchange.current()
        if not exchange:
            return super().open_socket(host)
        return exchange.connect(host, self.port, self.source_address, self.socket_options)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        """Starts a request. If the connection is already open, sets `reused` in the exchange."""
        if (exchange := Exchange.current()) and self.sock:
            exchange.reused = True
            exchange.watch(self.sock)
        super().putrequest(*arguments, **options)


class _WatchedTls(_Watched, HTTPSConnection):
    """A TLS connection that registers its socket with the exchange of the current thread."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _PoolTls(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class Adapter(HTTPAdapter):
    """Opens connections that register their sockets with the exchange of the current thread.

    `trusted` is a file of trusted certificates. This file takes precedence over REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.
    Without `trusted`, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE would override the trusted certificates of a session.
    """

    def __init__(self, trusted: str | None = None) -> None:
        self._trusted = trusted
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Creates the pool of connections. HTTPAdapter calls this method."""
        super().init_poolmanager(*arguments, **options)
        _watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Returns the pool of connections to a proxy. HTTPAdapter calls this method."""
        return _watch(super().proxy_manager_for(proxy, **options))

    def send(
        self,
        request: Any,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Any:
        """Sends a request. Session calls this method."""
        return super().send(request, stream, timeout, self._trusted or verify, cert, proxies)


def _watch(manager: PoolManager) -> PoolManager:
    if manager.pool_classes_by_scheme == pool_classes_by_scheme:  # a SOCKS proxy needs its own classes
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTls}
    return manager
