# SPDX-License-Identifier: Apache-2.0
"""Encodes the parts of the protobuf wire format that OTLP data points need.

See https://protobuf.dev/programming-guides/encoding. A message consists of its fields, in any order. So messages can be
encoded piece by piece, and fields can be appended to an encoded message.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64] | npt.NDArray[np.uint64]

VARINT: Final = 0
I64: Final = 1
LEN: Final = 2

_BITS = 7  # number of payload bits in each byte of a varint; the eighth bit is set if more bytes follow
_MORE = 1 << _BITS


def varint(number: int) -> bytes:
    """Encodes one number, which must not be negative."""
    written = bytearray()
    while number >= _MORE:
        written.append(number & (_MORE - 1) | _MORE)
        number >>= _BITS
    written.append(number)
    return bytes(written)


def key(number: int, wire_type: int) -> bytes:
    """Encodes the key that precedes a field's value: the field number and the wire type (VARINT, I64 or LEN)."""
    return varint(number << 3 | wire_type)


def field(number: int, *parts: bytes) -> list[bytes]:
    """Encodes a field of type LEN: a message or a text. The parts are not joined, so nested fields are not copied."""
    return [key(number, LEN), varint(sum(map(len, parts))), *parts]


def zigzag(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Maps the signed numbers of a sint32 field to nonnegative numbers, which can be encoded as varints."""
    return np.asarray((numbers << 1) ^ (numbers >> 63))


def varints(numbers: npt.NDArray[np.uint64]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Encodes numbers, shape (n,), for a packed field. Returns all bytes, and the length of each encoded number."""
    lengths = np.ones(len(numbers), np.int64)
    rest = numbers >> np.uint64(_BITS)
    while rest.any():
        lengths += rest != 0
        rest >>= np.uint64(_BITS)
    # In the array `rows`, each row has the bytes of one number and is as wide as the longest varint. The last line of
    # varints() removes the unused bytes.
    rows = np.empty((len(numbers), int(lengths.max(initial=1))), np.uint8)
    for place in range(rows.shape[1]):
        rows[:, place] = numbers >> np.uint64(_BITS * place)
    places = np.arange(rows.shape[1])
    rows &= _MORE - 1
    rows |= (places < lengths[:, None] - 1).astype(np.uint8) << np.uint8(_BITS)
    return rows[places < lengths[:, None]], lengths
