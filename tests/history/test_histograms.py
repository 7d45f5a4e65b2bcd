# SPDX-License-Identifier: Apache-2.0
"""Compares the arithmetic on tables of histograms with the arithmetic on single histograms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.history import histograms
from otel_epping.kernel.buckets import index_of
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of
from otel_epping.series import histogram

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

SCALE = 4
RTT_NS = st.integers(1_000, 64 * 10**9)
QUANTILES = (0.0, 0.05, 0.5, 0.95, 0.99, 1.0)
# Rows of (first bucket, counts). A row may have no buckets, or empty buckets at both ends.
ROWS = st.lists(st.tuples(st.integers(-400, 400), st.lists(st.integers(0, 2**40), max_size=40)), max_size=8)


def table(rows: list[tuple[int, list[int]]]) -> SparseHistograms:
    counts = [count for _, run in rows for count in run]
    starts = starts_of(np.array([len(run) for _, run in rows], np.int64))
    return SparseHistograms(np.array([first for first, _ in rows], np.int64), starts, np.array(counts, np.uint64))


def counts_of(rows: SparseHistograms) -> list[dict[int, int]]:
    """Return the counts of each row by bucket number, without empty buckets."""
    runs = (rows.run(row) for row in range(len(rows.first)))
    return [{first + place: int(n) for place, n in enumerate(run) if n} for first, run in runs]


@given(ROWS, st.lists(st.integers(0, 6), min_size=8, max_size=8))
def test_downscaling_merges_pairs_of_buckets(rows: list[tuple[int, list[int]]], halvings: list[int]) -> None:
    lower = histograms.downscale(table(rows), np.array(halvings[: len(rows)], np.int64))
    for row, found in enumerate(counts_of(lower)):
        expected: dict[int, int] = {}
        for bucket, count in counts_of(table(rows))[row].items():
            expected[bucket >> halvings[row]] = expected.get(bucket >> halvings[row], 0) + count
        assert found == expected


@given(st.data())
def test_rows_are_added(data: st.DataObject) -> None:
    whole, part = data.draw(ROWS), data.draw(ROWS)
    to = [data.draw(st.integers(0, len(whole) - 1)) for _ in part] if whole else []
    part = part[: len(to)]
    expected = counts_of(table(whole))
    for row, counts in zip(to, counts_of(table(part)), strict=True):
        for bucket, count in counts.items():
            expected[row][bucket] = expected[row].get(bucket, 0) + count
    assert counts_of(histograms.add(table(whole), np.array(to, np.int64), table(part))) == expected


@given(st.lists(st.tuples(st.lists(RTT_NS, max_size=30), st.integers(0, 6), st.booleans()), max_size=8))
def test_quantiles_are_those_of_single_histograms(rows: list[tuple[list[int], int, bool]]) -> None:
    runs, expected = [], []
    for rtts_ns, scale, has_bounds in rows:
        indexes = [index_of(each, scale) for each in rtts_ns]
        first = min(indexes, default=0)
        run = np.bincount(np.array(indexes, np.int64) - first).tolist()
        runs.append((first, run))
        low, high = (min(rtts_ns), max(rtts_ns)) if rtts_ns and has_bounds else (0, 0)
        if rtts_ns:
            one = histogram.trim(np.array(run, np.uint64), first, scale)
            limits = (low / 1e9, high / 1e9) if has_bounds else (0.0, float("inf"))
            expected.append([histogram.quantile(one, q, *limits) for q in QUANTILES])
        else:
            expected.append([np.nan] * len(QUANTILES))
    low_ns = np.array([min(each, default=0) if known else 0 for each, _, known in rows], np.uint64)
    high_ns = np.array([max(each, default=0) if known else 0 for each, _, known in rows], np.uint64)
    scales = np.array([scale for _, scale, _ in rows], np.int64)
    found = histograms.quantiles(table(runs), scales, low_ns, high_ns, QUANTILES)
    np.testing.assert_allclose(found.T, np.array(expected).reshape(len(rows), len(QUANTILES)), rtol=1e-12)


def test_the_mean_of_no_rtts_is_unknown() -> None:
    found = histograms.means(table([(0, []), (3, [2])]), np.array([0, 5 * 10**8], np.uint64))
    np.testing.assert_array_equal(found, [np.nan, 0.25])


@pytest.mark.parametrize("count", [1, 2**53, 2**60])
def test_quantiles_of_large_counts(count: int) -> None:
    rows = table([(0, [count, 0, count]), (5, [count])])
    found = histograms.quantiles(rows, np.array([SCALE, SCALE]), np.zeros(2, np.uint64), np.zeros(2, np.uint64), (0, 1))
    bounds = [[2 ** (0.5 / 16), 2 ** (5.5 / 16)], [2 ** (2.5 / 16), 2 ** (5.5 / 16)]]
    np.testing.assert_allclose(found, bounds)
