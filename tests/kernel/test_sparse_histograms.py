# SPDX-License-Identifier: Apache-2.0
"""Compares sparse histograms with dense numpy arrays.

The function that fits many histograms at once must give the same result as a fit of each single histogram.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.sparse_histograms import SparseHistograms, spans
from otel_epping.series import histogram
from tests.support.readings import dense, fit, runs_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


BUCKETS = 24
# Many counts are zero, at the ends and in the middle. Some counts exceed 32 bits. Some counts exceed 2^53, and a float
# cannot hold every integer above 2^53.
COUNT = st.sampled_from([0, 0, 0, 1, 2, 2**32 - 1, 2**32, 2**53 + 1, 2**60])
HISTOGRAMS = st.lists(st.lists(COUNT, min_size=BUCKETS, max_size=BUCKETS), max_size=8).map(
    lambda rows: np.array(rows, np.uint64).reshape(-1, BUCKETS)
)


@st.composite
def wider(draw: st.DrawFn, runs: SparseHistograms, least: int = 0) -> SparseHistograms:
    """Returns the same histograms with additional empty buckets at both ends. No histogram
    starts before the bucket `least`."""
    before = np.array([draw(st.integers(0, max(0, int(first) - least))) for first in runs.first], np.int64)
    after = np.array([draw(st.integers(0, 3)) for _ in runs.first], np.int64)
    lengths = before + runs.lengths + after
    return runs.widen(runs.first - before, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@given(HISTOGRAMS)
def test_runs_hold_complete_histograms(whole: Counts) -> None:
    runs = runs_of(whole)
    assert (dense(runs, BUCKETS) == whole).all()
    assert (runs.totals() == whole.sum(axis=1)).all()
    for row, buckets in enumerate(whole):
        first, counts = runs.run(row)
        assert (counts == buckets[first : first + len(counts)]).all()
        assert counts.sum() == buckets.sum()


@given(st.data(), HISTOGRAMS)
def test_select_returns_the_rows_in_the_given_order(data: st.DataObject, whole: Counts) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1))) if len(whole) else [], np.int64)
    selected = runs_of(whole).select(rows)
    assert (dense(selected, BUCKETS) == whole[rows]).all()
    assert selected.starts[-1] == len(selected.counts)


@given(st.data(), HISTOGRAMS, st.integers(0, 3))
def test_wider_and_more_runs_hold_the_same_counts(data: st.DataObject, whole: Counts, more: int) -> None:
    runs = data.draw(wider(runs_of(whole), least=-4))
    assert (dense(runs, BUCKETS + 3) == np.pad(whole, ((0, 0), (0, 3)))).all()
    grow = runs.grow(len(whole) + more)
    assert (dense(grow, BUCKETS + 3) == np.pad(whole, ((0, more), (0, 3)))).all()
    assert (grow.totals()[len(whole) :] == 0).all()


@given(st.data(), HISTOGRAMS, st.sampled_from([0, 1, 2**32 - 1]))
def test_delta_is_exact_if_the_earlier_counts_have_32_bits(data: st.DataObject, whole: Counts, more: int) -> None:
    runs = data.draw(wider(runs_of(whole)))
    earlier = SparseHistograms.empty(len(whole), np.uint32).widen(runs.first, runs.starts)
    rows = np.arange(len(whole))
    earlier.assign(rows, runs)
    later = runs._replace(counts=runs.counts + np.uint64(more))
    increments = later.delta(rows, earlier).counts
    assert increments.dtype == np.uint64
    assert (increments == more).all()


@given(st.data(), HISTOGRAMS)
def test_assign_replaces_the_given_rows(data: st.DataObject, whole: Counts) -> None:
    runs = data.draw(wider(runs_of(whole)))
    other = runs._replace(counts=runs.counts + np.uint64(1))
    rows = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole))))
    expected, new = dense(runs, BUCKETS + 3), dense(other, BUCKETS + 3)
    expected[rows] = new[rows]
    runs.assign(rows, other)
    assert (dense(runs, BUCKETS + 3) == expected).all()


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 9))), st.integers(1, 8))
def test_spans_are_ranges_one_after_the_other(parts: list[tuple[int, int]], step: int) -> None:
    begins, lengths = np.array(parts, np.int64).reshape(-1, 2).T
    found = spans(begins, lengths, step)
    assert found.tolist() == [begin + step * i for begin, length in parts for i in range(length)]


@given(st.data(), HISTOGRAMS, st.integers(-300, 300), st.integers(0, 6), st.integers(2, BUCKETS))
def test_fitting_many_histograms_equals_fitting_each(
    data: st.DataObject, whole: Counts, offset: int, scale: int, most: int
) -> None:
    fitted = histogram.fit_all(data.draw(wider(runs_of(whole), least=-4)), offset, scale, most)
    assert fitted.starts[-1] == len(fitted.counts)
    for row, counts in enumerate(whole):
        found = fitted.counts[fitted.starts[row] : fitted.starts[row + 1]].tolist()
        if counts.any():
            one = fit(histogram.trim(counts, offset, scale), most)
            assert (found, fitted.offset[row], fitted.scale[row]) == (one.counts.tolist(), one.offset, one.scale)
        else:
            assert found == []
