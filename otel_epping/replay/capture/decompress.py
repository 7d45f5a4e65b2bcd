# SPDX-License-Identifier: Apache-2.0
"""Decompresses a file while its bytes arrive. The supported formats are gzip, bzip2, xz, lzma, zstd and lz4.

The first bytes of the file determine the format. The Python standard library decompresses gzip, bzip2, xz and lzma, and
from Python 3.14 also zstd (PEP 784). With older versions of Python, zstd needs the package backports.zstd. With all
versions of Python, lz4 needs the package lz4. The extra `compression` of otel-epping installs both packages.

A compressed file may consist of several members, one after the other. For example, `cat a.gz b.gz`, bgzip, pbzip2 and
pzstd write files with several members.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

MAGIC_BYTES = 6
"""Number of bytes at the start of a file that format_of() needs."""

_READ_BYTES = 1 << 16
_PADDING = b"\0"


class DamagedError(Exception):
    """The compressed file is truncated or damaged. The message says whether the file is truncated or damaged."""


class MissingPackageError(Exception):
    """The package that decompresses the file is not installed.

    The message contains the cause, and a command that solves the problem.
    """


class _Member(Protocol):
    """A decompressor, with the interface of lzma.LZMADecompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    """Decompresses a gzip member with zlib, and has the interface of lzma.LZMADecompressor.

    If the file is damaged, this class returns all bytes before the first damage, however many bytes arrive at once.
    Python's gzip module would wait until a whole buffer of compressed bytes has arrived, and the size of the buffer
    depends on the Python version. If a buffer contains damage, the gzip module drops all bytes that it has decompressed
    from this buffer.
    """

    def __init__(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._compressed = b""
        self._holds_more = False
        self._damage: zlib.error | None = None

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def needs_input(self) -> bool:
        return not (self._compressed or self._holds_more or self._damage)

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if self._damage:
            raise self._damage
        self._compressed += data
        before = self._member.copy()
        try:
            found = self._member.decompress(self._compressed, max_length)
        except zlib.error as error:
            self._damage = error
            return b"".join(_up_to_damage(before, self._compressed))
        self._compressed = self._member.unconsumed_tail
        self._holds_more = len(found) == max_length  # if True, zlib may hold more output
        return found


def _up_to_damage(member: "zlib._Decompress", compressed: bytes) -> Iterator[bytes]:
    """Yields the decompressed bytes before the damage, one byte at a time.

    Each call of zlib requests only one byte, because the call in which zlib finds the damage returns no bytes.
    """
    try:
        for at in range(-1, len(compressed)):
            part = compressed[at : at + 1] if at >= 0 else b""  # b"" requests the output that zlib still holds
            while data := member.decompress(part, 1):
                yield data
                part = member.unconsumed_tail
    except zlib.error:
        return


def _bzip2() -> tuple[Callable[[], _Member], tuple[type[Exception], ...]]:
    return bz2.BZ2Decompressor, (OSError, ValueError)


def _gzip() -> tuple[Callable[[], _Member], tuple[type[Exception], ...]]:
    return _GzipMember, (zlib.error,)


def _xz() -> tuple[Callable[[], _Member], tuple[type[Exception], ...]]:
    return lzma.LZMADecompressor, (lzma.LZMAError,)


def _zstd() -> tuple[Callable[[], _Member], tuple[type[Exception], ...]]:
    zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    # The decompressor accepts files that were compressed with a window of up to 2 GB, as `zstd -d --long=31` does.
    options = {zstd.DecompressionParameter.window_log_max: zstd.DecompressionParameter.window_log_max.bounds()[1]}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)


def _lz4() -> tuple[Callable[[], _Member], tuple[type[Exception], ...]]:
    return import_module("lz4.frame").LZ4FrameDecompressor, (RuntimeError,)


@dataclass(frozen=True)
class Format:
    """A compressed file format.

    command      the command that decompresses a file to standard output
    load         returns a function that creates a decompressor, and the exceptions that a decompressor raises if the
                 data are damaged; raises ImportError if a package is missing
    max_output   maximum number of bytes that one call decompresses. If a file is damaged, at most this number of bytes
                 before the damage is lost. With gzip, no byte before the damage is lost.
    """

    name: str
    command: str
    load: Callable[[], tuple[Callable[[], _Member], tuple[type[Exception], ...]]]
    max_output: int = 4096


# The magic numbers of frames and of skippable frames (RFC 8878 section 3.1). A file that pzstd writes starts with a
# skippable frame.
_ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i, 0x2A, 0x4D, 0x18]) for i in range(16)))
_FORMATS: tuple[tuple[tuple[bytes, ...], Format], ...] = (
    ((b"\x1f\x8b",), Format("gzip", "gzip -dc", _gzip, _READ_BYTES)),  # RFC 1952
    ((b"BZh",), Format("bzip2", "bzip2 -dc", _bzip2)),
    ((b"\xfd7zXZ\0",), Format("xz", "xz -dc", _xz)),
    ((b"\x5d\0\0",), Format("lzma", "xz -dc", _xz)),
    (_ZSTD_MAGICS, Format("zstd", "zstd -dc", _zstd)),
    ((b"\x04\x22\x4d\x18",), Format("lz4", "lz4 -dc", _lz4)),
)


def format_of(head: bytes) -> Format | None:
    """Returns the format of a file that begins with `head`, or None if the file is not compressed.

    `head` contains the first MAGIC_BYTES bytes of the file, or all bytes if the file is shorter.
    """
    return next((format for magics, format in _FORMATS if head.startswith(magics)), None)


class Decompressor:
    """Reads a compressed file, and returns the decompressed bytes of all members. Skips zero bytes between members.

    `read_compressed(size)` returns at most `size` bytes, and no bytes at the end of the file. `head` contains the bytes
    that the caller has already read from the file, at least one byte. Raises MissingPackageError if the package for the
    format is not installed.
    """

    def __init__(self, format: Format, read_compressed: Callable[[int], bytes | None], head: bytes) -> None:
        self._name = format.name
        self._max_output = format.max_output
        try:
            self._open, self._errors = format.load()
        except ImportError:
            raise MissingPackageError(
                f"is compressed by {self._name}: pip install 'otel-epping[compression]', or "
                f"{format.command} FILE | otel-epping replay -"
            ) from None
        self._read_compressed = read_compressed
        self._compressed = head
        self._member: _Member | None = None

    def read(self, size: int) -> bytes:
        """Returns 1 to `size` bytes, or no bytes at the end of the file.

        If the file is truncated or damaged, read() first returns all bytes before the damage, and raises DamagedError
        in the next call.
        """
        while True:
            if not self._member:
                self._compressed = self._compressed.lstrip(_PADDING)
                if self._compressed:
                    self._member = self._open()
            if not self._compressed and (not self._member or self._member.needs_input):
                self._compressed = self._read_compressed(_READ_BYTES) or b""
                if not self._compressed:
                    if self._member:
                        raise DamagedError(f"the {self._name} file is truncated")
                    return b""
            elif self._member and (data := self._decompress(self._member, min(size, self._max_output))):
                return data

    def _decompress(self, member: _Member, max_length: int) -> bytes:
        compressed, self._compressed = self._compressed, b""
        try:
            data = member.decompress(compressed, max_length)
        except self._errors as error:
            raise DamagedError(f"the {self._name} file is damaged ({error})") from error
        if member.eof:
            self._compressed = member.unused_data or b""
            self._member = None
        return data
