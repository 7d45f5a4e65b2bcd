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
from otel_epping.networks.file_watch import FileWatch
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
    """A thread that reads the file again when the file has changed, or when reload() is called.

    path      the path of the file
    networks  the networks that were read from the file at the start
    read      reads a file; raises EppingError if the file is invalid
    change    replaces the networks in use; raises EppingError or OSError if it fails

    The networks in use are replaced all at once, or not at all. If the file is invalid, the follower logs one line, and
    reads the file again after the next change. The thread needs about 1 s for a file of 100,000 lines. Meanwhile, the
    other threads continue.
    """

    def __init__(
        self,
        path: str,
        networks: Networks,
        read: Callable[[str], Networks],
        change: Callable[[Networks], None],
    ) -> None:
        self._path, self._networks, self._read, self._change = path, networks, read, change
        self._watch = FileWatch(path)
        self._requests: queue.SimpleQueue[_Reload | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="networks", daemon=True)
        self._thread.start()

    def reload(self, path: str, done: Callable[[], None]) -> None:
        """Makes the thread read the file `path`, and follow this file from now on. Does not wait for the thread.

        The thread calls `done` when the new networks are in use, or when the file turned out to be invalid.
        """
        self._requests.put(_Reload(path, done))

    def close(self) -> None:
        """Ends the thread."""
        self._requests.put(None)
        self._thread.join(_CLOSE_S)

    def _follow(self) -> None:
        while True:
            request = None
            with suppress(queue.Empty):
                request = self._requests.get(timeout=_PERIOD_S)
                if request is None:
                    return
            try:
                self._step(request)
            except (EppingError, OSError, MemoryError) as error:
                _log.error("the named networks are unchanged: %s", "; ".join(str(error).splitlines()))
            except Exception:
                # An exception would end the thread, and no later change of the file would be noticed.
                _log.exception("the named networks are unchanged")
            if request:
                request.done()

    def _step(self, request: _Reload | None) -> None:
        if request:
            self._path = request.path
            self._watch = FileWatch(request.path)  # created before the file is read, so no change is missed
            self._load()
        elif self._watch.has_changed():
            self._load()

    def _load(self) -> None:
        began_s = time.monotonic()
        networks, old = self._read(self._path), self._networks
        if networks.networks == old.networks and np.array_equal(networks.prefixes, old.prefixes):
            _log.info("read %s again: no network has changed", self._path)
            return
        self._change(networks)
        self._networks = networks
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
