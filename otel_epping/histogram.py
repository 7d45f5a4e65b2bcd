# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on exponential histograms: pure functions on arrays of counts.

A run of buckets is `counts`, with the OTLP index `offset` of its first and the `scale`: bucket i holds the values v
with 2^(i/2^scale) < v <= 2^((i+1)/2^scale), in seconds here (OpenTelemetry metrics data model, "ExponentialHistogram").
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.uint64]

# What SDKs keep (their default max_size), and what backends such as Mimir and deltatocumulative hold without merging.
MAX_BUCKETS = 160


class Buckets(NamedTuple):
    """A run of buckets without empty ones at its ends."""

    counts: Counts
    offset: int
    scale: int


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


def fit(buckets: Buckets, most: int = MAX_BUCKETS) -> Buckets:
    """The finest scale at which at most `most` buckets hold the histogram."""
    while len(buckets.counts) > most:
        buckets = halve(buckets)
    return buckets


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
