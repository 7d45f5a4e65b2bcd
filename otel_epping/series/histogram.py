# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on exponential histograms: pure functions on arrays of counts.

A histogram consists of an array of counts, the OTLP index `offset` of the first bucket, and the `scale`. Bucket i holds
the values v with 2^(i/2^scale) < v <= 2^((i+1)/2^scale) (OpenTelemetry metrics data model, "ExponentialHistogram"). All
values are in seconds.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, Indexes
from otel_epping.kernel.sparse_histograms import SparseHistograms, spans, starts_of

# The default max_size of OpenTelemetry SDKs. Mimir and the deltatocumulative processor do not merge the buckets of a
# histogram that has at most MAX_BUCKETS buckets.
MAX_BUCKETS = 160


class Buckets(NamedTuple):
    """One histogram. The first and the last bucket of the histogram are not empty."""

    counts: Counts
    offset: int
    scale: int


class Fitted(NamedTuple):
    """The exported histograms. Each row has one run of buckets.

    The first and last bucket of a run are not empty.

    starts  (rows + 1,) the position in `counts` where each run starts. A run ends where the next run starts
    counts  (buckets of all runs,) the counts of all runs, one run after the other
    offset  (rows,) OTLP index of the run's first bucket, at the row's scale
    scale   (rows,) the scale of each row
    """

    starts: Indexes
    counts: Counts
    offset: Indexes
    scale: Indexes


def trim(counts: Counts, offset: int, scale: int) -> Buckets:
    """Returns a histogram without the empty buckets at both ends. At least one count must not be 0."""
    occupied = np.flatnonzero(counts)
    first, last = int(occupied[0]), int(occupied[-1])
    return Buckets(counts[first : last + 1], offset + first, scale)


def halve(buckets: Buckets) -> Buckets:
    """Returns the histogram at the next lower scale.

    The result is exact, because each new bucket is the union of two old buckets.
    """
    odd = buckets.offset & 1
    padded = np.zeros(odd + len(buckets.counts) + (odd + len(buckets.counts)) % 2, np.uint64)
    padded[odd : odd + len(buckets.counts)] = buckets.counts
    return Buckets(padded.reshape(-1, 2).sum(1), buckets.offset >> 1, buckets.scale - 1)


def fit_all(runs: SparseHistograms, offset: int, scale: int, most: int = MAX_BUCKETS) -> Fitted:
    """Returns each histogram at the highest scale at which the histogram has at most `most` buckets.

    The result is exact. No scale in the result is higher than `scale`. Bucket 0 of `runs` has the OTLP index `offset`
    at the scale `scale`.
    """
    occupied = np.flatnonzero(runs.counts)
    bounds = np.searchsorted(occupied, runs.starts)
    rows = np.flatnonzero(np.diff(bounds))
    begins, lengths = runs.starts[:-1].copy(), np.zeros(len(runs.first), np.int64)
    begins[rows] = occupied[bounds[rows]]
    lengths[rows] = occupied[bounds[rows + 1] - 1] + 1 - begins[rows]
    counts = runs.counts[spans(begins, lengths)]
    first = begins - runs.starts[:-1] + runs.first + offset
    last = first + lengths - 1
    halvings = np.zeros(len(first), np.int64)
    while (wide := (last >> halvings) - (first >> halvings) >= most).any():
        halvings += wide
    if halvings.any():
        # Each halving merges the buckets 2 * i and 2 * i + 1 into the new bucket i. The counts of merged buckets are
        # added.
        halved = np.where(lengths, (last >> halvings) - (first >> halvings) + 1, 0)
        place = (spans(first, lengths) >> np.repeat(halvings, lengths)) + np.repeat(
            starts_of(halved)[:-1] - (first >> halvings), lengths
        )
        counts = np.add.reduceat(counts, np.flatnonzero(np.diff(place, prepend=-1)))
        lengths = halved
    return Fitted(starts_of(lengths), counts, first >> halvings, scale - halvings)


def upper_bounds(buckets: Buckets) -> npt.NDArray[np.float64]:
    """Returns the inclusive upper bound of each bucket, in seconds. The shape is (buckets,)."""
    indexes = buckets.offset + 1 + np.arange(len(buckets.counts))
    return np.asarray(2.0 ** (indexes / 2.0**buckets.scale))


def quantile(buckets: Buckets, q: float, minimum: float, maximum: float) -> float:
    """Returns the q-quantile in seconds, with q from 0 to 1.

    The result is the geometric mean of the two bounds of the quantile's bucket, limited to the range from `minimum` to
    `maximum`. The relative error is at most 2^(2^-(scale+1)) - 1, the relative width of half a bucket. At scale 4, the
    relative error is at most 2.2 %.
    """
    cumulative = np.cumsum(buckets.counts)
    rank = max(1, int(np.ceil(q * int(cumulative[-1]))))
    upper = float(upper_bounds(buckets)[int(np.searchsorted(cumulative, rank))])
    middle = float(upper * 2.0 ** (-0.5 / 2.0**buckets.scale))
    return min(max(middle, minimum), maximum)
