# SPDX-License-Identifier: Apache-2.0
"""Types of arrays, and arrays with one row per slot, which grow as slots come into use."""

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
    """Returns an array with at least `rows` rows: the array itself, or a copy with additional rows of `fill`."""
    missing = rows - len(array)
    if missing <= 0:
        return array
    more = np.zeros((missing, *array.shape[1:]), array.dtype)
    if fill:
        more[...] = fill
    return np.concatenate([array, more])


def as_matrix(records: Records) -> Counts:
    """Returns a view of structs that consist of 64-bit counters only: (records, counters)."""
    return records.view(np.uint64).reshape(len(records), -1)
