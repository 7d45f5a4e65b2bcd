# SPDX-License-Identifier: Apache-2.0
"""Arrays that have a row for each slot, and get longer as slots come into use."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_T = TypeVar("_T", bound=np.generic)


def grow(array: npt.NDArray[_T], rows: int, fill: int = 0) -> npt.NDArray[_T]:
    """The array with at least `rows` rows; itself if it has them."""
    missing = rows - len(array)
    if missing <= 0:
        return array
    more = np.zeros((missing, *array.shape[1:]), array.dtype)
    if fill:
        more[...] = fill
    return np.concatenate([array, more])


Counts = npt.NDArray[np.uint64]
