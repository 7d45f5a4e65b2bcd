# SPDX-License-Identifier: Apache-2.0
"""Types of numpy arrays, a function that adds rows to an array, and a function that views structs as a matrix."""

from typing import Any, TypeVar

import numpy as np
import numpy.ma  # np.unique() imports this module when it is first called, which fails if no descriptor is free
import numpy.typing as npt

# Counts, sums of counts, and RTTs in ns.
Counts = npt.NDArray[np.uint64]
# Row numbers, bucket numbers, positions in arrays, and lengths.
Indexes = npt.NDArray[np.int64]
# Times in ns. A time is a Unix time unless a docstring names another clock.
Times = npt.NDArray[np.int64]
# 32-bit numbers from the program's maps.
Words = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
# Structs.
Records = npt.NDArray[Any]

_T = TypeVar("_T", bound=np.generic)


def grow(array: npt.NDArray[_T], rows: int, fill: int = 0) -> npt.NDArray[_T]:
    """Returns an array with at least `rows` rows: the array itself, or a copy with new rows that contain `fill`."""
    missing = rows - len(array)
    if missing <= 0:
        return array
    more = np.zeros((missing, *array.shape[1:]), array.dtype)
    if fill:
        more[...] = fill
    return np.concatenate([array, more])


def spread(rows: Indexes, each: int) -> Indexes:
    """Returns the numbers from i * each to i * each + each - 1, for each row number i in `rows`."""
    return (rows[:, None] * each + np.arange(each)).ravel()


def as_matrix(records: Records) -> Counts:
    """Returns a matrix of the 64-bit counters in `records`, without a copy. The shape is (records, counters)."""
    return records.view(np.uint64).reshape(len(records), -1)
