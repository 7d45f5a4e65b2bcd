# SPDX-License-Identifier: Apache-2.0
"""Reads a capture into a moving window. The capture may be compressed, and may be a file or standard input.

The file is not mapped into memory with mmap. If another process truncates a mapped file, SIGBUS ends this process.
Also, pipes and decompressed data cannot be mapped. Reading one megabyte at a time into the same buffer is as fast as
mmap, and link_types.py may write into the buffer.
"""

import os
import stat
from pathlib import Path

import numpy as np

from otel_epping.process.escaping import escaped_path
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
# Number of additional bytes before and after the window. If a link header at an edge of the window is read or written,
# the access may be outside of the window, but is inside the buffer.
_MARGIN = 64
# Maximum number of bytes that are decompressed at a time. This number of bytes fits into the processor's cache.
_DECOMPRESSED_READ = 1 << 16


class Stream:
    """A window over a capture: `buffer[start:end]` contains the bytes that the caller has not processed yet.

    When the caller has processed bytes, the caller increases `start` by the number of processed bytes. `name` is the
    escaped path, or "standard input". `size` is the file size in bytes, or 0 if the file is a pipe or a device.
    `memory` is `buffer` as a memoryview. Raises CaptureError if the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == STANDARD_INPUT else escaped_path(path)
        self.buffer = np.empty(WINDOW + 2 * _MARGIN, np.uint8)
        self.memory = self.buffer.data
        self.start = self.end = _MARGIN
        self._passed = 0
        self._failure: CaptureError | None = None
        try:
            # The file is unbuffered, because a buffered file would wait for more bytes than a pipe currently contains.
            if path == STANDARD_INPUT:
                self._file = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
            else:
                self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115
            head = self._read_head()
        except IsADirectoryError as error:
            raise CaptureError(f"{self.name}: is a directory; name the files in it: {Path(self.name) / '*'}") from error
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
        """Returns the first MAGIC_BYTES bytes of the file, or all bytes if the file is shorter."""
        head = b""
        while len(head) < MAGIC_BYTES and (more := self._file.read(MAGIC_BYTES - len(head))):
            head += more
        return head

    def close(self) -> None:
        """Closes the file. Standard input stays open."""
        self._file.close()

    @property
    def position(self) -> int:
        """Number of bytes that were read from the file, or 0 if `size` is 0."""
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
        """Reads until the window contains at least `size` bytes. `size` is at most WINDOW.

        Also reads further bytes if they are available. Returns False if the capture ends before the window contains
        `size` bytes. Raises CaptureError if the file cannot be read, or if the compressed data are damaged. If a
        part of the file is damaged, fill() reads all bytes before the damage, and then raises the exception.
        """
        if self.unread >= size:
            return True
        unread = self.unread
        self.buffer[_MARGIN : _MARGIN + unread] = self.buffer[self.start : self.end].copy()
        self._passed += self.start - _MARGIN
        self.start, self.end = _MARGIN, _MARGIN + unread
        while not self._failure and (count := self._read()):
            self.end += count
            # If the input is a pipe, fill() waits for only `size` bytes, because further bytes may arrive much later.
            if self.unread >= size and not self.size:
                break
        if self._failure and self.unread < size:
            raise self._failure
        return self.unread >= size

    def _read(self) -> int:
        """Reads once. Returns the number of bytes, or 0 if the file ends, the window is full, or the read fails.

        If the read fails, fill() raises the exception later.
        """
        # Each call reads only once, so that no bytes before the damage are lost.
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
        """Skips `size` bytes. Returns False if the capture ends before `size` bytes are skipped."""
        while size > self.unread:
            size -= self.unread
            self.start = self.end
            if not self.fill(1):
                return False
        self.start += size
        return True

    def error(self, cause: str, at: int) -> CaptureError:
        """Returns an exception with the file, the cause, and the position of `buffer[at]` in the capture."""
        where = f"byte {self.offset + at}" + (" of the decompressed data" if self._decompressor else "")
        return CaptureError(f"{self.name}: {cause}, at {where}")
