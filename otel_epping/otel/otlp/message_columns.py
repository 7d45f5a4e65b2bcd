# SPDX-License-Identifier: Apache-2.0
"""Encodes many messages column by column: all first pieces, then all second pieces, and so on.

A piece is a `bytes` object, and numpy moves only references to pieces. A piece that many points share, for example the
attributes of a subnet, is encoded once, and bytes.join() copies the piece into each point. The join takes a tenth of
the time that numpy takes to copy the same bytes to computed positions.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Flags, Indexes
from otel_epping.otel.otlp.protobuf import varint


class Column:
    """One piece for each of n messages.

    pieces   (n,) objects of type `bytes`
    lengths  (n,) the length of each piece
    """

    def __init__(self, pieces: npt.NDArray[np.object_], lengths: Indexes) -> None:
        self.pieces = pieces
        self.lengths = lengths

    @classmethod
    def of(cls, pieces: Iterable[bytes]) -> "Column":
        """Creates a column from pieces."""
        made = np.array(list(pieces), object)
        return cls(made, np.fromiter(map(len, made), np.int64, len(made)))

    @classmethod
    def of_records(cls, records: npt.NDArray[Any]) -> "Column":
        """Creates a column from a structured array, shape (n,). Each piece is a copy of the bytes of one record."""
        size = records.itemsize
        return cls(records.view((np.void, size)).astype(object), np.full(len(records), size))

    @classmethod
    def of_varints(cls, key: bytes, numbers: npt.NDArray[np.int64]) -> "Column":
        """Creates a column from numbers, shape (n,). A piece has the key of a field and one number as a varint.

        Each distinct number is encoded once.
        """
        distinct, which = np.unique(numbers, return_inverse=True)
        return cls.of(key + varint(number) for number in distinct.tolist())[which]

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> "Column":
        return Column(self.pieces[rows], self.lengths[rows])

    def where(self, wanted: Flags) -> "Column":
        """Returns a copy of the column. A piece is empty if its flag in `wanted`, shape (n,), is false."""
        return Column(np.where(wanted, self.pieces, b""), np.where(wanted, self.lengths, 0))


def join(*columns: Column) -> bytes:
    """Joins all messages into one `bytes` object. A message consists of its pieces, in the order of the columns."""
    table = np.empty((len(columns[0].pieces), len(columns)), object)
    for place, column in enumerate(columns):
        table[:, place] = column.pieces
    return b"".join(table.ravel().tolist())


class Pieces:
    """A table with one piece per row, for example the attributes of a slot. The table grows as needed."""

    def __init__(self) -> None:
        self._column = Column.of([])

    def __setitem__(self, row: int, piece: bytes) -> None:
        missing = row + 1 - len(self._column.pieces)
        if missing > 0:
            room = Column.of([b""] * max(missing, row))  # at least doubles the size
            self._column = Column(
                np.concatenate([self._column.pieces, room.pieces]), np.concatenate([self._column.lengths, room.lengths])
            )
        self._column.pieces[row] = piece
        self._column.lengths[row] = len(piece)

    def __getitem__(self, rows: npt.NDArray[np.intp]) -> Column:
        """Returns the pieces of `rows`. A piece must have been set for each row."""
        return self._column[rows]
