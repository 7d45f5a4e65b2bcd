# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on exponential histograms: pure functions on arrays of counts.

A run of buckets is `counts`, with the OTLP index `offset` of its first and the `scale`: bucket i holds the values v
with 2^(i/2^scale) < v <= 2^((i+1)/2^scale), in seconds here (OpenTelemetry metrics data model, "ExponentialHistogram").
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.sparse import Numbers, SparseHistograms, spans, starts_of

# What SDKs keep (their default max_size), and what backends such as Mimir and deltatocumulative hold without merging.
MAX_BUCKETS = 160


class Buckets(NamedTuple):
    """A run of buckets without empty ones at its ends."""

    counts: Counts
    offset: int
    scale: int


class Fitted(NamedTuple):
    """Histograms, (rows,), as they are told: a run of buckets each, without empty ones at its ends.

    starts  (rows + 1,) where the run begins in `counts`; it ends where the next one begins
    counts  (buckets of all runs,)
    offset  (rows,) OTLP index of the run's first bucket, at the row's scale
    scale   (rows,)
    """

    starts: Numbers
    counts: Counts
    offset: Numbers
    scale: Numbers


def trim(counts: Counts, offset: int, scale: int) -> Buckets:
    """Leaves off the empty buckets at both ends. `counts` must not be empty of counts."""
    occupied = np.flatnonzero(counts)
    first, last = int(occupied[0]), int(occupied[-1])
    return Buckets(counts[first : last + 1], offset + first, scale)


def halve(buckets: Buckets) -> Buckets:
    """The same histogram at the next lower scale. Exact: each bucket there is a pair of buckets here."""
    odd = buckets.offset & 1
    padded = np.zeros(odd + len(buckets.counts) + (odd + len(buckets.counts)) % 2, np.uint64)
    padded[odd : odd + len(buckets.counts)] = buckets.counts
    return Buckets(padded.reshape(-1, 2).sum(1), buckets.offset >> 1, buckets.scale - 1)


def fit_all(runs: SparseHistograms, offset: int, scale: int, most: int = MAX_BUCKETS) -> Fitted:
    """The finest scale for each row at which at most `most` buckets hold its histogram, exactly.

    Bucket 0 of the runs has the OTLP index `offset`, at `scale`.
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
        # Bucket i becomes i >> 1 with each halving; neighbours that become the same one are added up.
        halved = np.where(lengths, (last >> halvings) - (first >> halvings) + 1, 0)
        place = (spans(first, lengths) >> np.repeat(halvings, lengths)) + np.repeat(
            starts_of(halved)[:-1] - (first >> halvings), lengths
        )
        counts = np.add.reduceat(counts, np.flatnonzero(np.diff(place, prepend=-1)))
        lengths = halved
    return Fitted(starts_of(lengths), counts, first >> halvings, scale - halvings)


def upper_bounds(buckets: Buckets) -> npt.NDArray[np.float64]:
    """Upper bound of each bucket, in seconds, inclusive."""
    indexes = buckets.offset + 1 + np.arange(len(buckets.counts))
    return np.asarray(2.0 ** (indexes / 2.0**buckets.scale))


def quantile(buckets: Buckets, q: float, least: float, greatest: float) -> float:
    """The q-quantile (0 to 1) in seconds: the geometric middle of the bucket it falls into, within the extremes.

    So its error is half a bucket at the most: 2^(2^-(scale+1)) - 1, 2.2 % at scale 4.
    """
    cumulative = np.cumsum(buckets.counts)
    rank = max(1, int(np.ceil(q * int(cumulative[-1]))))
    upper = float(upper_bounds(buckets)[int(np.searchsorted(cumulative, rank))])
    middle = float(upper * 2.0 ** (-0.5 / 2.0**buckets.scale))
    return min(max(middle, least), greatest)
