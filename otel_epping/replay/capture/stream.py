# SPDX-License-Identifier: Apache-2.0
"""The bytes of a capture, plain or compressed, from a file or standard input, as a window that moves along.

Not mmap: a file that is cut while it is read would end the process with SIGBUS, and a pipe or a compressed file has to
be read anyway. Reading a megabyte at a time into the same memory is as fast, and that memory is ours to write into
(`links.py`).
"""

import os
import stat
from pathlib import Path

import numpy as np

from otel_epping.replay.capture.errors import CaptureError
from otel_epping.replay.capture.uncompress import MAGIC_BYTES, DamagedError, MissingPackageError, Uncompress, format_of

STANDARD_INPUT = "-"
WINDOW = 1 << 20
# In front of the window and behind it, so that whoever looks at or writes a link header there stays inside the buffer.
_MARGIN = 64
# What is uncompressed at a time: as much as a processor's cache holds.
_UNCOMPRESSED_READ = 1 << 16


class Stream:
    """A window on a capture: `buffer[start:end]` was read, and is still to be looked at.

    Whoever has looked at bytes moves `start` on. `size` is that of the file in bytes; 0 if it has none, as a pipe.
    Raises CaptureError if the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == STANDARD_INPUT else path
        self.buffer = np.empty(WINDOW + 2 * _MARGIN, np.uint8)
        self.memory = self.buffer.data
        self.start = self.end = _MARGIN
        self._passed = 0
        self._failure: CaptureError | None = None
        try:
            # Without a buffer, which would wait for more than a pipe has.
            if path == STANDARD_INPUT:
                self._file = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
            else:
                self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115
            head = self._read_head()
        except IsADirectoryError as error:
            raise CaptureError(f"{self.name}: is a directory: name the files in it, {Path(path) / '*'}") from error
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror}") from error
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._uncompress: Uncompress | None = None
        if format := format_of(head):
            try:
                self._uncompress = Uncompress(format, self._file.read, head)
            except MissingPackageError as error:
                self._file.close()
                raise CaptureError(f"{self.name}: {error}") from error
        else:
            self.memory[self.end : self.end + len(head)] = head
            self.end += len(head)

    def _read_head(self) -> bytes:
        """As many bytes as tell whether the file is compressed; fewer if it has no more."""
        head = b""
        while len(head) < MAGIC_BYTES and (more := self._file.read(MAGIC_BYTES - len(head))):
            head += more
        return head

    def close(self) -> None:
        """Closes the file; standard input stays open."""
        self._file.close()

    @property
    def position(self) -> int:
        """Bytes of the file that were read; 0 if it has no `size`."""
        return self._file.tell() if self.size else 0

    @property
    def offset(self) -> int:
        """Where in the (uncompressed) capture the buffer's first byte stands."""
        return self._passed - _MARGIN

    @property
    def unread(self) -> int:
        """Bytes in the window."""
        return self.end - self.start

    def fill(self, size: int) -> bool:
        """Reads until `size` bytes, at most WINDOW, are in the window, and more if they come; False if it ends.

        Raises CaptureError if it cannot be read, or is compressed and damaged, once there is nothing whole before that.
        """
        if self.unread >= size:
            return True
        unread = self.unread
        self.buffer[_MARGIN : _MARGIN + unread] = self.buffer[self.start : self.end].copy()
        self._passed += self.start - _MARGIN
        self.start, self.end = _MARGIN, _MARGIN + unread
        while not self._failure and (count := self._read()):
            self.end += count
            # A pipe may have no more for long.
            if self.unread >= size and not self.size:
                break
        if self._failure and self.unread < size:
            raise self._failure
        return self.unread >= size

    def _read(self) -> int:
        """Bytes that came; 0 at the end, if the window is full, and for a failure, which is kept."""
        # One read at a time, and not all at once: what came before a damaged place is not lost with it.
        free = self.memory[self.end : _MARGIN + WINDOW]
        try:
            if self._uncompress is None:
                return self._file.readinto(free) or 0
            if not free:
                return 0
            data = self._uncompress.read(min(len(free), _UNCOMPRESSED_READ))
            free[: len(data)] = data
            return len(data)
        except DamagedError as error:
            self._failure = self.error(str(error), self.end)
        except OSError as error:
            self._failure = self.error(f"cannot be read ({error.strerror})", self.end)
        return 0

    def skip(self, size: int) -> bool:
        """Passes over `size` bytes; False if it ends before."""
        while size > self.unread:
            size -= self.unread
            self.start = self.end
            if not self.fill(1):
                return False
        self.start += size
        return True

    def error(self, cause: str, at: int) -> CaptureError:
        """The error that `cause` is what is wrong with the bytes at buffer[at]."""
        where = f"byte {self.offset + at}" + (" of what was compressed" if self._uncompress else "")
        return CaptureError(f"{self.name}: {cause}, at {where}")
