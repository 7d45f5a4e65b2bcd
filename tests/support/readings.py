# SPDX-License-Identifier: Apache-2.0
"""Functions that several tests use to examine a reading."""

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.reading import Reading
from otel_epping.kernel.sparse_histograms import SparseHistograms
from otel_epping.series import histogram


def traffic(reading: Reading) -> npt.NDArray[np.uint64]:
    """Return the packets and bytes of a reading as an array (rows, from or to, classes, packets or bytes)."""
    ways = [
        np.stack([reading.counters["classes"][way][field] for field in ("packets", "bytes")], -1)
        for way in ("from", "to")
    ]
    return np.stack(ways, 1)


def dense(runs: SparseHistograms, buckets: int) -> Counts:
    """Return all buckets of all rows as an array (rows, buckets)."""
    found = np.zeros((len(runs.first), buckets), np.uint64)
    for row, (whole, first) in enumerate(zip(found, runs.first.tolist(), strict=True)):
        counts = runs.counts[runs.starts[row] : runs.starts[row + 1]]
        assert not counts[: max(0, -first)].any(), "there are counts before bucket 0"
        assert not counts[max(0, buckets - first) :].any(), "there are counts after the last bucket"
        whole[max(0, first) : first + len(counts)] = counts[max(0, -first) : buckets - first]
    return found


def buckets_of(reading: Reading, histogram: int, buckets: int) -> Counts:
    """Return all buckets of a histogram."""
    return np.asarray(dense(reading.rtts.buckets.select(np.array([histogram])), buckets)[0])


def runs_of(dense: Counts) -> SparseHistograms:
    """Convert an array (rows, buckets) to sparse histograms. The histogram of each row begins and ends with a bucket
    that is not empty."""
    first, starts, counts = [], [0], []
    for row in dense:
        occupied = np.flatnonzero(row)
        begin, end = (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 0)
        first.append(begin)
        starts.append(starts[-1] + end - begin)
        counts.append(row[begin:end])
    return SparseHistograms(
        np.array(first, np.int64), np.array(starts, np.int64), np.concatenate([*counts, dense[:0].ravel()])
    )


def fit(buckets: histogram.Buckets, most: int = histogram.MAX_BUCKETS) -> histogram.Buckets:
    """Reduce the scale of a histogram until it has at most `most` buckets."""
    while len(buckets.counts) > most:
        buckets = histogram.halve(buckets)
    return buckets
