# SPDX-License-Identifier: Apache-2.0
"""Many messages, written column by column: all their first pieces, all their second ones, and so on; then joined.

A piece is a `bytes` object, and numpy moves references to it: what many points share (a subnet's attributes, a
counter's labels) is written once and copied once into each, by bytes.join(), which takes a tenth of the time of
scattering the same bytes by an array of indexes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.otel.otlp.protobuf import varint

Lengths = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Column:
    """A piece of each of n messages: (n,) objects, all `bytes`, and (n,) lengths."""

    def __init__(self, pieces: npt.NDArray[np.object_], lengths: Lengths) -> None:
        self.pieces = pieces
        self.lengths = lengths

    @classmethod
    def of(cls, pieces: Iterable[bytes]) -> "Column":
        """A piece for each message."""
        made = np.array(list(pieces), object)
        return cls(made, np.fromiter(map(len, made), np.int64, len(made)))

    @classmethod
    def of_records(cls, records: npt.NDArray[Any]) -> "Column":
        """The records of a structured array, (n,), as they are in memory."""
        size = records.itemsize
        return cls(records.view((np.void, size)).astype(object), np.full(len(records), size))

    @classmethod
    def of_varints(cls, key: bytes, numbers: npt.NDArray[np.int64]) -> "Column":
        """The key and a number, (n,) of them. Few differ, so each that does is written once."""
        distinct, which = np.unique(numbers, return_inverse=True)
        return cls.of(key + varint(number) for number in distinct.tolist())[which]

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> "Column":
        return Column(self.pieces[rows], self.lengths[rows])

    def where(self, wanted: Flags) -> "Column":
        """The same, with nothing in those messages that are not `wanted`, (n,)."""
        return Column(np.where(wanted, self.pieces, b""), np.where(wanted, self.lengths, 0))


def join(*columns: Column) -> bytes:
    """The messages one after the other, each with its pieces in the order of the columns."""
    table = np.empty((len(columns[0].pieces), len(columns)), object)
    for place, column in enumerate(columns):
        table[:, place] = column.pieces
    return b"".join(table.ravel().tolist())


class Pieces:
    """A piece for each row of a table that grows and whose rows are given to others: the attributes of slots."""

    def __init__(self) -> None:
        self._column = Column.of([])

    def __setitem__(self, row: int, piece: bytes) -> None:
        missing = row + 1 - len(self._column.pieces)
        if missing > 0:
            room = Column.of([b""] * max(missing, row))  # twice as much each time
            self._column = Column(
                np.concatenate([self._column.pieces, room.pieces]), np.concatenate([self._column.lengths, room.lengths])
            )
        self._column.pieces[row] = piece
        self._column.lengths[row] = len(piece)

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> Column:
        """Those of some rows, each of which has been set."""
        return self._column[rows]
