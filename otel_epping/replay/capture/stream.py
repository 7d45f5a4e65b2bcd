# SPDX-License-Identifier: Apache-2.0
"""A moving window over the bytes of a capture, plain or compressed, from a file or standard input.

Why not mmap: if a mapped file is truncated meanwhile, SIGBUS ends the process; pipes and compressed files cannot be
mapped. Reading a megabyte at a time into the same memory is as fast, and link_types.py may write into that memory.
"""

import os
import stat
from pathlib import Path

import numpy as np

from otel_epping.replay.capture.decompress import (
    MAGIC_BYTES,
    DamagedError,
    Decompressor,
    MissingPackageError,
    format_of,
)
from otel_epping.replay.capture.errors import CaptureError

STANDARD_INPUT = "-"
WINDOW = 1 << 20
# Bytes before and after the window, so that reading or writing a link header at its edges stays inside the buffer.
_MARGIN = 64
# Bytes decompressed at a time; they stay in the processor's cache.
_DECOMPRESSED_READ = 1 << 16


class Stream:
    """A window over a capture: `buffer[start:end]` holds bytes that were read and are not yet processed.

    The caller advances `start` past the bytes that it has processed. `name` is the path, or "standard input". `size` is
    the file size in bytes, or 0 for pipes and devices. `memory` is `buffer` as a memoryview.
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
            # Unbuffered: a buffered file would wait for more bytes than a pipe has.
            if path == STANDARD_INPUT:
                self._file = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
            else:
                self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115
            head = self._read_head()
        except IsADirectoryError as error:
            raise CaptureError(f"{self.name}: is a directory; name the files in it: {Path(path) / '*'}") from error
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror}") from error
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        self._decompressor: Decompressor | None = None
        if format := format_of(head):
            try:
                self._decompressor = Decompressor(format, self._file.read, head)
            except MissingPackageError as error:
                self._file.close()
                raise CaptureError(f"{self.name}: {error}") from error
        else:
            self.memory[self.end : self.end + len(head)] = head
            self.end += len(head)

    def _read_head(self) -> bytes:
        """Returns the first MAGIC_BYTES bytes of the file, or all bytes of a shorter file."""
        head = b""
        while len(head) < MAGIC_BYTES and (more := self._file.read(MAGIC_BYTES - len(head))):
            head += more
        return head

    def close(self) -> None:
        """Closes the file. Standard input stays open."""
        self._file.close()

    @property
    def position(self) -> int:
        """Number of bytes read from the file; 0 if `size` is 0."""
        return self._file.tell() if self.size else 0

    @property
    def offset(self) -> int:
        """Position of the buffer's first byte in the (decompressed) capture."""
        return self._passed - _MARGIN

    @property
    def unread(self) -> int:
        """Number of bytes in the window."""
        return self.end - self.start

    def fill(self, size: int) -> bool:
        """Reads until the window has `size` bytes (at most WINDOW); returns False if the capture ends before.

        Reads more than `size` bytes if they are available. Raises CaptureError if the file cannot be read, or if its
        compressed data are damaged; all bytes before the damage are returned first.
        """
        if self.unread >= size:
            return True
        unread = self.unread
        self.buffer[_MARGIN : _MARGIN + unread] = self.buffer[self.start : self.end].copy()
        self._passed += self.start - _MARGIN
        self.start, self.end = _MARGIN, _MARGIN + unread
        while not self._failure and (count := self._read()):
            self.end += count
            # The next bytes of a pipe may take long to arrive.
            if self.unread >= size and not self.size:
                break
        if self._failure and self.unread < size:
            raise self._failure
        return self.unread >= size

    def _read(self) -> int:
        """Returns the number of bytes read; 0 if the file ends, the window is full, or reading fails.

        fill() raises the failure later.
        """
        # One read per call: bytes before a damaged place are kept.
        free = self.memory[self.end : _MARGIN + WINDOW]
        try:
            if self._decompressor is None:
                return self._file.readinto(free) or 0
            if not free:
                return 0
            data = self._decompressor.read(min(len(free), _DECOMPRESSED_READ))
            free[: len(data)] = data
            return len(data)
        except DamagedError as error:
            self._failure = self.error(str(error), self.end)
        except OSError as error:
            self._failure = self.error(f"cannot be read ({error.strerror})", self.end)
        return 0

    def skip(self, size: int) -> bool:
        """Skips `size` bytes; returns False if the capture ends before."""
        while size > self.unread:
            size -= self.unread
            self.start = self.end
            if not self.fill(1):
                return False
        self.start += size
        return True

    def error(self, cause: str, at: int) -> CaptureError:
        """Returns an error with the file, the cause, and the position of buffer[at] in the capture."""
        where = f"byte {self.offset + at}" + (" of the decompressed data" if self._decompressor else "")
        return CaptureError(f"{self.name}: {cause}, at {where}")
