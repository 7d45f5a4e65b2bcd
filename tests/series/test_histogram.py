# SPDX-License-Identifier: Apache-2.0
"""Compares operations on histograms with three references.

The references are the SDK's mapping of values to buckets, a count of the values per bucket in Python, and percentiles
of numpy.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping import Mapping
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.exponent_mapping import ExponentMapping
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import LogarithmMapping

from otel_epping.kernel import buckets
from otel_epping.kernel.buckets import RTT_MAX_NS, RTT_MIN_NS
from otel_epping.series import histogram
from otel_epping.series.histogram import Buckets
from tests.support.readings import fit

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


SCALES = st.sampled_from(buckets.SCALES)
RTTS_NS = st.lists(
    st.integers(RTT_MIN_NS, RTT_MAX_NS)
    | st.floats(np.log2(RTT_MIN_NS), np.log2(RTT_MAX_NS)).map(lambda power: round(2**power)),
    min_size=1,
    max_size=200,
)


def mapping(scale: int) -> Mapping:
    """Return the SDK's mapping from values to buckets."""
    return LogarithmMapping(scale) if scale > 0 else ExponentMapping(scale)


def of_indexes(indexes: list[int], scale: int) -> Buckets:
    """Return a histogram. Each bucket index in the list adds one to the count of the bucket."""
    counted = Counter(indexes)
    first, last = min(counted), max(counted)
    return Buckets(np.array([counted[i] for i in range(first, last + 1)], np.uint64), first, scale)


def of_rtts(rtts_ns: list[int], scale: int) -> Buckets:
    return of_indexes([buckets.index_of(rtt, scale) for rtt in rtts_ns], scale)


def same(one: Buckets, other: Buckets) -> bool:
    return one[1:] == other[1:] and one.counts.tolist() == other.counts.tolist()


@given(RTTS_NS, SCALES.filter(lambda scale: scale > 0))
def test_halving_equals_counting_at_the_next_lower_scale(rtts_ns: list[int], scale: int) -> None:
    assert same(histogram.halve(of_rtts(rtts_ns, scale)), of_rtts(rtts_ns, scale - 1))


@given(st.lists(st.integers(-1000, 1000), min_size=1), st.integers(-5, 8))
def test_halving_shifts_each_index_as_sdks_do(indexes: list[int], scale: int) -> None:
    assert same(histogram.halve(of_indexes(indexes, scale)), of_indexes([i >> 1 for i in indexes], scale - 1))


@given(RTTS_NS, SCALES, st.integers(27, 160))
def test_fitting_finds_the_finest_scale_and_loses_no_count(rtts_ns: list[int], scale: int, most: int) -> None:
    whole = of_rtts(rtts_ns, scale)
    fitted = fit(whole, most)
    assert len(fitted.counts) <= most
    assert int(fitted.counts.sum()) == len(rtts_ns)
    assert same(fitted, of_rtts(rtts_ns, fitted.scale))
    if fitted.scale < scale:
        assert len(of_rtts(rtts_ns, fitted.scale + 1).counts) > most


@given(st.lists(st.integers(0, 2**40), min_size=1).filter(any), st.integers(-500, 500), SCALES)
def test_trimming_removes_only_empty_ends(counts: list[int], offset: int, scale: int) -> None:
    trimmed = histogram.trim(np.array(counts, np.uint64), offset, scale)
    assert trimmed.counts[0]
    assert trimmed.counts[-1]
    before = {offset + i: count for i, count in enumerate(counts) if count}
    assert {trimmed.offset + i: count for i, count in enumerate(trimmed.counts.tolist()) if count} == before


@pytest.mark.parametrize("scale", buckets.SCALES)
def test_bounds_are_where_the_sdk_changes_to_the_next_bucket(scale: int) -> None:
    first = buckets.first_index(scale)
    every = Buckets(np.ones(buckets.bucket_count(scale), np.uint64), first, scale)
    sdk = mapping(scale)
    for index, bound in enumerate(histogram.upper_bounds(every).tolist(), first):
        # The computed bound has a rounding error. So the test uses values slightly below and above the bound. If the
        # bound is a power of two, it has no rounding error, and the value at the bound belongs to the lower bucket.
        assert sdk.map_to_index(bound * (1 - 1e-12)) == index
        assert sdk.map_to_index(bound * (1 + 1e-12)) == index + 1
        if (index + 1) % 2**scale == 0:
            assert sdk.map_to_index(bound) == index


@given(RTTS_NS, SCALES)
def test_indexes_are_those_of_the_sdk(rtts_ns: list[int], scale: int) -> None:
    sdk = mapping(scale)
    assert [buckets.index_of(rtt, scale) for rtt in rtts_ns] == [sdk.map_to_index(rtt / 1e9) for rtt in rtts_ns]


@given(RTTS_NS, SCALES, st.floats(0, 1))
def test_a_quantile_is_at_most_half_a_bucket_from_that_of_the_values(rtts_ns: list[int], scale: int, q: float) -> None:
    values = np.array(rtts_ns) / 1e9
    found = histogram.quantile(of_rtts(rtts_ns, scale), q, float(values.min()), float(values.max()))
    true = float(np.percentile(values, q * 100, method="inverted_cdf"))
    half_a_bucket = 2 ** (2.0 ** -(scale + 1))
    # If q * n is almost an integer, percentile() may return the neighbouring value because of rounding. If percentile()
    # returns the neighbouring value, both values are right.
    neighbours = [
        float(np.percentile(values, p * 100, method="inverted_cdf")) for p in (max(0, q - 1e-9), min(1, q + 1e-9))
    ]
    assert any(
        1 / half_a_bucket <= found / near * (1 + 1e-12) and found / near <= half_a_bucket * (1 + 1e-12)
        for near in (true, *neighbours)
    )


def test_the_extremes_are_quantiles_too() -> None:
    one = of_rtts([5_000_000, 7_000_000], 4)
    assert histogram.quantile(one, 0, 0.005, 0.007) == pytest.approx(0.005, rel=0.022)
    assert histogram.quantile(one, 1, 0.005, 0.007) == pytest.approx(0.007, rel=0.022)
    single = of_rtts([5_000_000], 0)
    assert histogram.quantile(single, 0.5, 0.005, 0.005) == 0.005
