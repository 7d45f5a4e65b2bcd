# SPDX-License-Identifier: Apache-2.0
"""Tests that the counts of freed newcomers are added to the shared row exactly once, and never decrease."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.read.unanswered import UnansweredCounts

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

NUMBERS = st.integers(0, 1000)


def counts_of(*numbers: int) -> Counts:
    return np.array(numbers, np.uint64)


def unanswered(counters: int) -> UnansweredCounts:
    shape: Any = SimpleNamespace(zero=lambda: np.zeros(counters, np.uint64))
    return UnansweredCounts(shape)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 1))))
def test_the_sum_is_the_programs_own_counts_plus_the_folded_counts(steps: list[tuple[int, int, int]]) -> None:
    added, row, folded = unanswered(2), counts_of(0, 0), counts_of(0, 0)
    own = counts_of(0, 0)
    for more, more_folded, column in steps:
        own[column] += np.uint64(more)
        folded[column] += np.uint64(more_folded)
        added.subtract_from(row)
        assert (row <= own).all(), "the row has only the program's own counts"
        row[:] = own
        added.add_to(row, folded)
        assert (row == own + folded).all()


def test_counts_that_the_reader_has_read_never_decrease() -> None:
    added, row = unanswered(1), counts_of(3)
    added.add_to(row, counts_of(0))
    # When the reader read the flows of two newcomers, 5 flows of the first newcomer and 2 flows of the second newcomer
    # had ended in silence. One of these flows was then closed.
    added.forget(np.array([[5], [2]], np.uint64))
    for folded, expected in ((6, 10), (6, 10), (7, 10), (9, 12)):
        added.subtract_from(row)
        assert row == 3
        added.add_to(row, counts_of(folded))
        assert row == expected
