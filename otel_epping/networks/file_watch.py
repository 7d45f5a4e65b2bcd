# SPDX-License-Identifier: Apache-2.0
"""Detects that a file has changed."""

import os
import time
from contextlib import suppress

# A file that changed within this time may still be written.
_STABLE_S = 1.0


def _state(path: str) -> tuple[int, int, int] | None:
    with suppress(OSError, ValueError):
        status = os.stat(path)  # noqa: PTH116
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None


class FileWatch:
    """Reports that a file has changed, when the file is complete."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reported = self._seen = _state(path)

    def changed(self) -> bool:
        """Returns True once after each change."""
        state, before = _state(self._path), self._seen
        self._seen = state
        if state != before or state == self._reported or (state and time.time() - state[2] / 1e9 < _STABLE_S):
            return False
        self._reported = state
        return True
