# SPDX-License-Identifier: Apache-2.0
"""Types of arrays, and functions for arrays that grow when more slots are in use."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

# Counts, sums of counts, and RTTs in ns.
Counts = npt.NDArray[np.uint64]
# Numbers of rows and of buckets, positions in arrays, and lengths.
Indexes = npt.NDArray[np.int64]
# Times in ns: Unix time, unless a docstring names another clock.
Times = npt.NDArray[np.int64]
# The program's 32-bit numbers.
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


def as_matrix(records: Records) -> Counts:
    """Returns structs of 64-bit counters as a matrix of the shape (records, counters). The result is a view."""
    return records.view(np.uint64).reshape(len(records), -1)
