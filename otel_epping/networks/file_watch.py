# SPDX-License-Identifier: Apache-2.0
"""Detects changes of files by stat(), without reading the files."""

import time
from pathlib import Path

_SETTLED_NS = 1_000_000_000

# Device, inode, size and time of the last change of a file, or the error number of stat().
_State = tuple[int, int, int, int] | int


def _state(path: str) -> _State:
    try:
        status = Path(path).stat()
    except OSError as error:
        return error.errno or 0
    except ValueError:  # The path contains a NUL byte.
        return 0
    # The time of the last change of the inode also changes when the file becomes readable, and cannot be set by users.
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


class FileWatch:
    """Detects new contents or permissions, another file with the same name, and files that appear or disappear.

    Create the watch before you read the files. Then call has_changed() about once per second. The files may be missing.
    """

    def __init__(self, *paths: str) -> None:
        self._paths = paths
        self._seen = self._last = self._states()

    def has_changed(self) -> bool:
        """Returns true once for each change, when the change is complete.

        A change is complete if the files were the same at the previous call, and changed at least 1 s ago. So a file
        that is still being written is not reported. If the writer pauses for longer than 1 s, has_changed() may return
        true for an incomplete file, and again when the file is complete.
        """
        states = self._states()
        is_stable, self._last = states == self._last, states
        if states == self._seen or not is_stable or any(map(_is_new, states)):
            return False
        self._seen = states
        return True

    def _states(self) -> list[_State]:
        return [_state(path) for path in self._paths]


def _is_new(state: _State) -> bool:
    """Returns true if a file changed less than 1 s ago. A time in the future does not count: the clock was set back."""
    return not isinstance(state, int) and 0 <= time.time_ns() - state[3] < _SETTLED_NS
