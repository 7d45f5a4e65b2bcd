# SPDX-License-Identifier: Apache-2.0
"""Connections of `requests` that an Exchange can shut down, and whose TLS is what the exporter is set up with."""

import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager, pool_classes_by_scheme

from otel_epping.otel.otlp.http_exchange import Exchange


class _Watched(HTTPConnection):
    """A connection that the exchange knows whose thread uses it."""

    def _new_conn(self) -> socket.socket:
        exchange = Exchange.current()
        if not exchange:
            return super()._new_conn()
        return exchange.connect(self._dns_host, self.port, self.source_address, self.socket_options)

    def putrequest(self, *arguments: Any, **options: Any) -> None:
        """Begins a request, on a connection that may be there already."""
        if (exchange := Exchange.current()) and self.sock:
            exchange.reused = True
            exchange.watch(self.sock)
        super().putrequest(*arguments, **options)


class _WatchedTls(_Watched, HTTPSConnection):
    """The same with TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _PoolTls(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class Adapter(HTTPAdapter):
    """Opens such connections.

    `trusted`, a file of certificates, goes before REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE, which else win over what a
    session is set up with.
    """

    def __init__(self, trusted: str | None = None) -> None:
        self._trusted = trusted
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Called by HTTPAdapter."""
        super().init_poolmanager(*arguments, **options)
        _watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Called by HTTPAdapter."""
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
        """Called by Session."""
        return super().send(request, stream, timeout, self._trusted or verify, cert, proxies)


def _watch(manager: PoolManager) -> PoolManager:
    if manager.pool_classes_by_scheme == pool_classes_by_scheme:  # not those of SOCKS
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTls}
    return manager
