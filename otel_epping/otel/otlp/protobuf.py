# SPDX-License-Identifier: Apache-2.0
"""The wire format of protobuf, as far as OTLP's points need it (https://protobuf.dev/programming-guides/encoding).

A message is its fields in any order, one after the other: so messages can be written piece by piece, and one that is
written already goes on when more fields are put behind it.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64] | npt.NDArray[np.uint64]

VARINT: Final = 0
I64: Final = 1
LEN: Final = 2

_BITS = 7  # of a number in each byte of a varint; the eighth says that more follow
_MORE = 1 << _BITS


def varint(number: int) -> bytes:
    """One number, not negative."""
    written = bytearray()
    while number >= _MORE:
        written.append(number & (_MORE - 1) | _MORE)
        number >>= _BITS
    written.append(number)
    return bytes(written)


def key(number: int, wire_type: int) -> bytes:
    """What stands before a field's value: its number, and VARINT, I64 or LEN."""
    return varint(number << 3 | wire_type)


def field(number: int, *parts: bytes) -> list[bytes]:
    """A field of type LEN: a message, or text, in parts. They are not joined, so nesting copies nothing."""
    return [key(number, LEN), varint(sum(map(len, parts))), *parts]


def zigzag(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers of a field of type sint32, as the varints that stand for them."""
    return np.asarray((numbers << 1) ^ (numbers >> 63))


def varints(numbers: npt.NDArray[np.uint64]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Numbers, (n,), one after the other as in a packed field; and the bytes that each takes, (n,)."""
    lengths = np.ones(len(numbers), np.int64)
    rest = numbers >> np.uint64(_BITS)
    while rest.any():
        lengths += rest != 0
        rest >>= np.uint64(_BITS)
    # A row for each, as wide as the longest; then what a number doesn't fill falls out.
    rows = np.empty((len(numbers), int(lengths.max(initial=1))), np.uint8)
    for place in range(rows.shape[1]):
        rows[:, place] = numbers >> np.uint64(_BITS * place)
    places = np.arange(rows.shape[1])
    rows &= _MORE - 1
    rows |= (places < lengths[:, None] - 1).astype(np.uint8) << np.uint8(_BITS)
    return rows[places < lengths[:, None]], lengths
