# SPDX-License-Identifier: Apache-2.0
"""Reads the file of named networks again when the file has changed."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.networks import files
from otel_epping.networks.network import Networks

_log = logging.getLogger(__name__)

_PERIOD_S = 1.0
# The longest time that close() waits for the thread. The thread is a daemon thread, so it may continue until the
# process ends.
_CLOSE_S = 1.0


class _Reload(NamedTuple):
    path: str
    done: Callable[[], None]


class NetworksFollower:
    """Reads the file of named networks, and reads it again when it has changed or when reload() is called.

    path      the path of the file
    networks  the networks in use
    read      reads a file; raises EppingError if the file is invalid

    The networks in use are replaced all at once, or not at all. If the file is invalid, the follower logs one line, and
    reads the file again after the next change. A thread reads the file, because a file of 100,000 lines takes 1 s.

    The constructor raises EppingError if the file is invalid.
    """

    def __init__(self, path: str, read: Callable[[str], Networks]) -> None:
        self._path, self._read = path, read
        self._watch = files.watch(path)  # created before the file is read, so no change is missed
        self.networks = read(path)
        self._requests: queue.SimpleQueue[_Reload | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, change: Callable[[Networks], None]) -> None:
        """Starts to follow the file. `change` replaces the networks in use, or raises EppingError or OSError."""
        self._thread = threading.Thread(target=self._follow, args=(change,), name="networks", daemon=True)
        self._thread.start()

    def reload(self, path: str, done: Callable[[], None]) -> None:
        """Makes the thread read the file `path`, and follow this file from now on. Does not wait for the thread.

        The thread calls `done` when the new networks are in use, or when the file turned out to be invalid.
        """
        self._requests.put(_Reload(path, done))

    def close(self) -> None:
        """Ends the thread, if it was started."""
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
                if request:
                    self._path, self._watch = request.path, files.watch(request.path)
                if request or self._watch.has_changed():
                    self._load(change)
            except (EppingError, OSError, MemoryError) as error:
                _log.error("the named networks are unchanged: %s", "; ".join(str(error).splitlines()))
            except Exception:
                # An exception would end the thread, and no later change of the file would be noticed.
                _log.exception("the named networks are unchanged")
            if request:
                request.done()

    def _load(self, change: Callable[[Networks], None]) -> None:
        began_s = time.monotonic()
        networks, old = self._read(self._path), self.networks
        if networks.networks == old.networks and np.array_equal(networks.prefixes, old.prefixes):
            _log.info("read %s again: no network has changed", self._path)
            return
        change(networks)
        self.networks = networks
        before, after = set(old.networks), set(networks.networks)
        _log.info(
            "read %s again in %.1f s: %d networks with %d prefixes; %d networks are new, %d have ended",
            self._path,
            time.monotonic() - began_s,
            len(after),
            len(networks.prefixes),
            len(after - before),
            len(before - after),
            extra={
                "networks": len(after),
                "prefixes": len(networks.prefixes),
                "new": len(after - before),
                "ended": len(before - after),
            },
        )
