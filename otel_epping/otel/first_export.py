# SPDX-License-Identifier: Apache-2.0
"""Logs the size of the first successful export, because most backends charge for data points, series or bytes."""

import logging
import zlib

_log = logging.getLogger(__name__)
_KB = 1000


class FirstExport:
    """Adds up the sizes of each export's requests until an export succeeds.

    After the first success, the methods do nothing.
    """

    def __init__(self, exporter: str) -> None:
        """`exporter` is the name of the exporter in the log."""
        self._exporter = exporter
        self._is_logged = False
        self.begin()

    def begin(self) -> None:
        """Starts a new export."""
        self._points = self._bytes = self._compressed = 0

    def add(self, points: int, body: bytes = b"") -> None:
        """Adds a request. `body` is empty if the code in otlp/ did not encode the request."""
        if self._is_logged:
            return
        self._points += points
        self._bytes += len(body)
        # gzip uses the same algorithm as zlib, and adds a header of 10 bytes. Compressing 1 MB takes 30 ms.
        self._compressed += len(zlib.compress(body)) if body else 0

    def succeed(self, subnets: int) -> None:
        """Logs the size of the export. `subnets` is the number of subnets and covering prefixes that have series."""
        if self._is_logged:
            return
        self._is_logged = True
        size = ""
        if self._bytes:
            size = f", {self._bytes / _KB:,.1f} kB ({self._compressed / _KB:,.1f} kB with gzip)"
        _log.info(
            "%s: one export: %s data points of %s subnets and covering prefixes%s: otel-epping cost shows what each "
            "group adds",
            self._exporter,
            f"{self._points:,}",
            f"{subnets:,}",
            size,
            extra={
                "exporter": self._exporter,
                "data_points": self._points,
                "subnets": subnets,
                "bytes": self._bytes,
            },
        )
