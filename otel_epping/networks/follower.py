# SPDX-License-Identifier: Apache-2.0
"""Reads the file of named networks and the databases, and reads each of them again when it has changed."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.networks import files
from otel_epping.networks.databases import Databases
from otel_epping.networks.network import Networks
from otel_epping.process import heap

_log = logging.getLogger(__name__)

_PERIOD_S = 1.0
# The longest time that close() waits for the thread. The thread is a daemon thread, so it may continue until the
# process ends.
_CLOSE_S = 1.0


class _Reload(NamedTuple):
    path: str
    done: Callable[[], None]


class FilesFollower:
    """Reads the files that describe networks, and follows them in a thread after start().

    networks   the named networks in use, or None if `path` is None
    databases  the databases in use, or None if there are none

    path   the path of the file of named networks, or None
    read   reads a file of named networks; raises EppingError if the file is invalid
    paths  the paths of the databases

    The named networks are replaced all at once, or not at all. If a file is invalid, the thread logs one line, and
    reads the file again after its next change. A file of 100,000 lines takes 1 s. Meanwhile, all other threads
    continue.

    The constructor raises EppingError if a file is invalid.
    """

    def __init__(self, path: str | None, read: Callable[[str], Networks], paths: Sequence[str]) -> None:
        self._path, self._read = path, read
        self._watch = files.watch(path) if path else None  # created before the file is read, so no change is missed
        self.networks = read(path) if path else None
        self.databases = Databases(paths) if paths else None
        if path or paths:
            heap.trim()
        self._requests: queue.SimpleQueue[_Reload | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, change: Callable[[Networks], None]) -> None:
        """Starts to follow the files, if there are any.

        `change` replaces the named networks in use, or raises EppingError or OSError.
        """
        if self.networks or self.databases:
            self._thread = threading.Thread(target=self._follow, args=(change,), name="networks", daemon=True)
            self._thread.start()

    def reload(self, path: str, done: Callable[[], None]) -> None:
        """Makes the thread read the file of named networks `path`, and follow this file from now on.

        Does not wait for the thread. The thread calls `done` when the new networks are in use, or when the file has
        turned out to be invalid.
        """
        self._requests.put(_Reload(path, done))

    def close(self) -> None:
        """Ends the thread."""
        self._requests.put(None)
        if self._thread:
            self._thread.join(_CLOSE_S)

    def _follow(self, change: Callable[[Networks], None]) -> None:
        while True:
            request = None
            with suppress(queue.Empty):
                request = self._requests.get(timeout=_PERIOD_S)
                if request is None:
                    return
            try:
                self._step(request, change)
            except (EppingError, OSError, MemoryError) as error:
                _log.error("the named networks are unchanged: %s", "; ".join(str(error).splitlines()))
            except Exception:
                # An exception would end the thread, and no later change of a file would be noticed.
                _log.exception("the named networks are unchanged")
            if request:
                request.done()

    def _step(self, request: _Reload | None, change: Callable[[Networks], None]) -> None:
        if self.databases:
            self.databases.reopen()
        if request:
            self._path, self._watch = request.path, files.watch(request.path)
        if self._path and self._watch and (request or self._watch.has_changed()):
            self._load(self._path, change)
            heap.trim()

    def _load(self, path: str, change: Callable[[Networks], None]) -> None:
        began_s = time.monotonic()
        networks, old = self._read(path), self.networks or Networks()
        if networks.networks == old.networks and np.array_equal(networks.prefixes, old.prefixes):
            _log.info("read %s again: no network has changed", path)
            return
        before = {network: network for network in old.networks}
        # Equal networks of the old and the new file are one object, which saves memory.
        networks = replace(networks, networks=tuple(before.get(network, network) for network in networks.networks))
        change(networks)
        self.networks = networks
        after = set(networks.networks)
        _log.info(
            "read %s again in %.1f s: %d named networks with %d prefixes (new: %d, ended: %d)",
            path,
            time.monotonic() - began_s,
            len(after),
            len(networks.prefixes),
            len(after - before.keys()),
            len(before.keys() - after),
            extra={
                "networks": len(after),
                "prefixes": len(networks.prefixes),
                "new": len(after - before.keys()),
                "ended": len(before.keys() - after),
            },
        )
