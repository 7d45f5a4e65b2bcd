# SPDX-License-Identifier: Apache-2.0
"""Reads text files line by line. The files may be compressed, and a line may have many megabytes."""

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from otel_epping.errors import EppingError
from otel_epping.process.escaping import escaped_path
from otel_epping.replay.capture.decompress import (
    MAGIC_BYTES,
    DamagedError,
    Decompressor,
    Format,
    MissingPackageError,
    format_of,
)

Progress = Callable[[int], object]
"""A function that is called with the number of bytes that were read from the file since the previous call."""
RANGE_SIZE = 1000
"""The size of a range of time in Prometheus, for progress. The number of bytes is unknown before the answer."""

HEAD_BYTES = 4096
_READ_BYTES = 1 << 18
_MAX_LINE_BYTES = 1 << 28
# The Collector's file exporter writes the number of compressed bytes in front of each compressed message. With the
# feature gate exporter.file.nativeCompression, the exporter writes an ordinary zstd file.
_LENGTH = struct.Struct(">I")
_ZSTD = b"\x28\xb5\x2f\xfd"
# Some editors and shells begin a text file with a byte order mark. RFC 8259 allows a parser to ignore this mark.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class InputFile:
    """An open file, or standard input if the path is `-`. The file may be compressed.

    name    the name of the file for messages, escaped (process/escaping.py)
    head    the first HEAD_BYTES decompressed bytes, or all bytes if the file is shorter
    damage  the reason why the file could not be read to the end, or ""

    Raises EppingError if the file cannot be opened or is empty, or if a package for its compression is missing.
    """

    def __init__(self, path: str, progress: Progress = lambda _: None) -> None:
        self.name = "standard input" if path == "-" else escaped_path(path)
        self.damage = ""
        self._progress = progress
        try:
            self._file: BinaryIO = open(0 if path == "-" else path, "rb", closefd=path != "-")  # noqa: SIM115
            start = self._read_file(_LENGTH.size + MAGIC_BYTES)
        except OSError as error:
            raise EppingError(f"{self.name}: {error.strerror}") from None
        if not start:
            raise EppingError(f"{self.name}: is empty")
        try:
            self._data = self._open(start)
        except MissingPackageError:
            raise EppingError(
                f"{self.name}: its compression needs a package: pip install 'otel-epping[compression]'"
            ) from None
        self.head = b""
        while len(self.head) < HEAD_BYTES and (more := self._read()):
            self.head += more
        self.head = self.head.removeprefix(_BYTE_ORDER_MARK)

    @property
    def is_pipe(self) -> bool:
        """True if the file can be read only once."""
        return not self._file.seekable()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def lines(self) -> Iterator[bytes]:
        """Yields the lines without line ends, up to the end of the file or the first damage. May be called once.

        The last line may be incomplete if `damage` is set.
        """
        parts: list[bytes] = []
        size = 0
        for data in self.blocks():
            # split() copies the data, and most lines of a large network have many blocks.
            first, *others = data.split(b"\n") if b"\n" in data else (data,)
            parts.append(first)
            size += len(first)
            if others:
                yield b"".join(parts)
                yield from others[:-1]
                parts, size = [others[-1]], len(others[-1])
            if size > _MAX_LINE_BYTES:
                self.damage = f"a line has more than {_MAX_LINE_BYTES >> 20} MB"
                return
        if size:
            yield b"".join(parts)

    def blocks(self) -> Iterator[bytes]:
        """Yields the bytes of the file, up to the end or the first damage. May be called once, instead of lines()."""
        data = self.head
        while data:
            yield data
            data = self._read()

    def _read_file(self, size: int) -> bytes:
        data = self._file.read(size)
        self._progress(len(data))
        return data

    def _read(self) -> bytes:
        """Returns the next decompressed bytes, or no bytes at the end of the file and at the first damage."""
        try:
            return next(self._data, b"")
        except DamagedError as error:
            self.damage = str(error)
        except OSError as error:
            self.damage = f"the file cannot be read: {error.strerror}"
        return b""

    def _open(self, start: bytes) -> Iterator[bytes]:
        zstd = format_of(_ZSTD)
        if zstd and start[_LENGTH.size :].startswith(_ZSTD):
            Decompressor(zstd, self._read_file, _ZSTD)  # raises MissingPackageError
            return self._messages(start, zstd)
        if format := format_of(start):
            decompressor = Decompressor(format, self._read_file, start)
            return iter(lambda: decompressor.read(_READ_BYTES), b"")
        return self._plain(start)

    def _plain(self, start: bytes) -> Iterator[bytes]:
        data = start
        while data:
            yield data
            data = self._read_file(_READ_BYTES)

    def _messages(self, start: bytes, format: Format) -> Iterator[bytes]:
        """Yields the messages of a file with lengths, one line each."""
        compressed = self._fill(start, _LENGTH.size)
        while compressed:
            end = _LENGTH.size + _LENGTH.unpack_from(compressed)[0]
            compressed = self._fill(compressed, end)
            decompressor = Decompressor(format, lambda _: b"", compressed[_LENGTH.size : end])
            while data := decompressor.read(_READ_BYTES):
                yield data
            yield b"\n"
            compressed = self._fill(compressed[end:], _LENGTH.size)

    def _fill(self, data: bytes, size: int) -> bytes:
        """Returns `data` with more bytes of the file, at least `size` bytes; or no bytes at the end of the file."""
        parts, missing = [data], size - len(data)
        while missing > 0 and (more := self._read_file(min(missing, _READ_BYTES))):
            parts.append(more)
            missing -= len(more)
        if missing > 0 and any(parts):
            raise DamagedError("the zstd file is truncated")
        return b"".join(parts)
