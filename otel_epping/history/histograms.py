# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on tables of histograms, for all rows at once. Bucket numbers are OTLP indexes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, Indexes
from otel_epping.kernel.sparse_histograms import SparseHistograms, spans, starts_of

Floats = npt.NDArray[np.float64]

_NS = 1e9
# add() widens runs to multiples of _BLOCK buckets, so that a run seldom has to be widened again.
_BLOCK = 16
_FAR = 2**40  # greater than any bucket number


def downscale(buckets: SparseHistograms, halvings: Indexes) -> SparseHistograms:
    """Returns the histograms at lower scales. The result is exact.

    halvings  (rows,) the number by which the scale of each row is lowered. Each lower scale merges pairs of buckets
    """
    if not halvings.any():
        return buckets
    lengths = buckets.lengths
    last = (buckets.first + lengths - 1) >> halvings
    first = buckets.first >> halvings
    lower = np.where(lengths, last - first + 1, 0)
    place = (spans(buckets.first, lengths) >> np.repeat(halvings, lengths)) + np.repeat(
        starts_of(lower)[:-1] - first, lengths
    )
    counts = buckets.counts
    if len(counts):
        counts = np.add.reduceat(counts, np.flatnonzero(np.diff(place, prepend=-1)), dtype=np.uint64)
    return SparseHistograms(first, starts_of(lower), counts)


def is_trimmed(buckets: SparseHistograms) -> bool:
    """Returns true if the first and the last bucket of each run are not empty, and each run has a bucket."""
    if not (buckets.lengths > 0).all():
        return False
    return bool(buckets.counts[buckets.starts[:-1]].all() and buckets.counts[buckets.starts[1:] - 1].all())


def add(whole: SparseHistograms, rows: Indexes, part: SparseHistograms) -> SparseHistograms:
    """Adds each row of `part` to a row of `whole`. `rows` has the numbers of these rows of `whole`.

    Row numbers may repeat. Returns the sum. The sum may share memory with the counts of `whole`. SparseHistograms.add()
    returns the same sum, but needs three times as long.
    """
    lengths = part.lengths
    used = lengths > 0
    if not used.any():
        return whole
    if not len(whole.counts) and (rows[1:] > rows[:-1]).all():
        first, all_lengths = np.zeros(len(whole.first), np.int64), np.zeros(len(whole.first), np.int64)
        first[rows], all_lengths[rows] = part.first, lengths
        return SparseHistograms(first, starts_of(all_lengths), part.counts.astype(np.uint64))
    first, end = whole.first.copy(), whole.first + whole.lengths
    is_empty = first == end
    first[is_empty], end[is_empty] = _FAR, -_FAR
    np.minimum.at(first, rows[used], part.first[used])
    np.maximum.at(end, rows[used], (part.first + lengths)[used])
    longer = (first < whole.first) | (end > whole.first + whole.lengths) | is_empty
    longer &= first < end
    first = np.where(longer, first // _BLOCK * _BLOCK, whole.first)
    end = np.where(longer, -(-end // _BLOCK) * _BLOCK, whole.first + whole.lengths)
    counts, starts = whole.counts, whole.starts
    if longer.any():
        starts = starts_of(end - first)
        counts = np.zeros(starts[-1], np.uint64)
        counts[spans(starts[:-1] + whole.first - first, whole.lengths)] = whole.counts
    places = spans(starts[rows] + part.first - first[rows], lengths)
    if np.bincount(rows, minlength=1).max() == 1:
        counts[places] += part.counts
    else:
        np.add.at(counts, places, part.counts.astype(np.uint64))
    return SparseHistograms(first, starts, counts)


def quantiles(
    buckets: SparseHistograms, scales: Indexes, min_ns: Counts, max_ns: Counts, qs: Sequence[float]
) -> Floats:
    """Returns quantiles of each row in seconds: (len(qs), rows). A row without RTTs has NaN.

    The result of series/histogram.quantile() is the same.

    scales          (rows,) the scale of each row
    min_ns, max_ns  (rows,) minimum and maximum RTT, ns; 0 if these are unknown
    """
    found = np.full((len(qs), len(buckets.first)), np.nan)
    cumulative = np.concatenate([np.zeros(1, np.uint64), np.cumsum(buckets.counts, dtype=np.uint64)])
    before = cumulative[buckets.starts[:-1]]
    totals = cumulative[buckets.starts[1:]] - before
    rows = np.flatnonzero(totals)
    if not len(rows):
        return found
    before, totals = before[rows], totals[rows]
    base = np.exp2(scales[rows])
    low = min_ns[rows] / _NS
    high = np.where(max_ns[rows] != 0, max_ns[rows] / _NS, np.inf)
    for place, q in enumerate(qs):
        rank = np.maximum(np.ceil(q * totals.astype(np.float64)), 1).astype(np.uint64)
        at = np.searchsorted(cumulative[1:], before + np.minimum(rank, totals))
        index = at - buckets.starts[rows] + buckets.first[rows]
        middle = np.exp2((index + 0.5) / base)
        found[place, rows] = np.minimum(np.maximum(middle, low), high)
    return found


def outer_bounds_ns(buckets: SparseHistograms, scales: Indexes) -> tuple[Floats, Floats]:
    """Returns the upper bound of the lowest bucket with RTTs, and the lower bound of the highest, in ns: (rows,) each.

    The minimum RTT of a row is at most the first bound, and the maximum RTT is at least the second bound. A row without
    RTTs has infinite bounds. The bounds are 1 ns wider because of rounding.
    """
    upper, lower = np.full(len(scales), np.inf), np.full(len(scales), -np.inf)
    used = np.flatnonzero(buckets.counts)
    ends = np.searchsorted(used, buckets.starts)
    rows = np.flatnonzero(np.diff(ends))
    base = np.exp2(scales[rows])
    lowest, highest = (used[at] - buckets.starts[rows] + buckets.first[rows] for at in (ends[rows], ends[rows + 1] - 1))
    upper[rows], lower[rows] = np.exp2((lowest + 1) / base) * _NS + 1, np.exp2(highest / base) * _NS - 1
    return upper, lower


def means(buckets: SparseHistograms, sum_ns: Counts) -> Floats:
    """Returns the mean RTT of each row in seconds. A row without RTTs, or with the sum 0, has NaN."""
    totals = buckets.totals().astype(np.float64)
    return np.asarray(np.divide(sum_ns / _NS, totals, out=np.full(len(totals), np.nan), where=sum_ns > 0))
