# SPDX-License-Identifier: Apache-2.0
"""Uncompresses a gzip file as its bytes arrive.

Why not the gzip module: it waits for a whole buffer of compressed bytes, whose size depends on the version of Python,
and it drops what it had uncompressed of the buffer in which it finds damage. Here nothing depends on how many bytes
arrive at once.
"""

import zlib
from collections.abc import Callable, Iterator

MAGIC = b"\x1f"
"""The first byte. Nothing else that is a capture begins with it."""

_READ_BYTES = 1 << 16
_GZIP_MEMBER = 16 + zlib.MAX_WBITS
_PADDING = b"\0"


class Gunzip:
    """Reads uncompressed bytes of all members of a gzip file, one behind the other, with zeros as padding in between.

    `read_compressed` returns at most as many bytes as it is asked for, and none at the end. `head` is what was read
    before. It must not be empty.
    """

    def __init__(self, read_compressed: Callable[[int], bytes | None], head: bytes) -> None:
        self._read_compressed = read_compressed
        self._compressed = head
        self._member = zlib.decompressobj(_GZIP_MEMBER)
        self._damage: zlib.error | None = None

    def read(self, size: int) -> bytes:
        """Returns 1 to `size` bytes, and none at the end.

        Raises EOFError if the file is cut short and zlib.error if it is damaged, after all bytes before that place.
        """
        while True:
            if self._damage:
                raise self._damage
            if self._member.eof:
                self._compressed = self._compressed.lstrip(_PADDING)
                if self._compressed:
                    self._member = zlib.decompressobj(_GZIP_MEMBER)
            if not self._member.eof and (data := self._uncompress(size)):
                return data
            if self._compressed or self._damage:
                continue
            self._compressed = self._read_compressed(_READ_BYTES) or b""
            if not self._compressed:
                if not self._member.eof:
                    raise EOFError
                return b""

    def _uncompress(self, size: int) -> bytes:
        before = self._member.copy()
        try:
            data = self._member.decompress(self._compressed, size)
        except zlib.error as error:
            self._damage = error
            return b"".join(_up_to_damage(before, self._compressed))
        self._compressed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return data


def _up_to_damage(member: "zlib._Decompress", compressed: bytes) -> Iterator[bytes]:
    """Yields what can be uncompressed, byte by byte: the call that finds damage returns nothing."""
    try:
        for at in range(-1, len(compressed)):
            part = compressed[at : at + 1] if at >= 0 else b""  # first what the member still holds
            while data := member.decompress(part, 1):
                yield data
                part = member.unconsumed_tail
    except zlib.error:
        return
