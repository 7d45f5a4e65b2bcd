# SPDX-License-Identifier: Apache-2.0
"""RTTs of many lines: one histogram per line, with sums, minima and maxima."""

import numpy as np

from otel_epping.history.histograms import Floats, add, downscale, means, quantiles
from otel_epping.history.slice import Rtts
from otel_epping.kernel.arrays import Counts, Indexes, grow
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.sparse_histograms import SparseHistograms

# The scale of a line without RTTs. The scale is higher than any scale that OpenTelemetry allows.
NO_SCALE = 127


class LineRtts:
    """The RTTs of n lines.

    buckets  (n,) number of RTTs in each bucket. Bucket numbers are OTLP indexes
    scales   (n,) the scale of each histogram, which is the lowest scale of its parts; NO_SCALE if there is no RTT
    sum_ns   (n,) sum of the RTTs, ns
    max_ns   (n,) maximum RTT, ns; 0 if there is no RTT or if it is unknown
    """

    def __init__(self, lines: int = 0) -> None:
        self.buckets = SparseHistograms.empty(lines)
        self.scales: Indexes = np.full(lines, NO_SCALE, np.int64)
        self.sum_ns: Counts = np.zeros(lines, np.uint64)
        self.max_ns: Counts = np.zeros(lines, np.uint64)
        self._min_ns: Counts = np.full(lines, NO_MIN_NS, np.uint64)

    @property
    def min_ns(self) -> Counts:
        """Minimum RTT of each line, ns; 0 if there is no RTT or if it is unknown: (n,)."""
        return np.where(self._min_ns == NO_MIN_NS, np.uint64(0), self._min_ns)

    @property
    def counts(self) -> Counts:
        """Number of RTTs of each line: (n,)."""
        return self.buckets.totals()

    def quantiles(self, *qs: float) -> Floats:
        """Returns quantiles in seconds: (len(qs), n). A line without RTTs has NaN."""
        return quantiles(self.buckets, self.scales, self.min_ns, self.max_ns, qs)

    def means(self) -> Floats:
        """Returns the mean RTTs in seconds: (n,). A line without RTTs has NaN."""
        return means(self.buckets, self.sum_ns)

    def grow(self, lines: int) -> None:
        """Makes room for `lines` lines. New lines have no RTTs."""
        self.buckets, self.scales = self.buckets.grow(lines), grow(self.scales, lines, NO_SCALE)
        self.sum_ns, self.max_ns = grow(self.sum_ns, lines), grow(self.max_ns, lines)
        self._min_ns = grow(self._min_ns, lines, NO_MIN_NS)

    def copy(self) -> "LineRtts":
        """Returns a copy."""
        copy = LineRtts()
        copy.buckets = self.buckets._replace(counts=self.buckets.counts.copy())
        copy.scales, copy.sum_ns, copy.max_ns = self.scales.copy(), self.sum_ns.copy(), self.max_ns.copy()
        copy._min_ns = self._min_ns.copy()
        return copy

    def add(self, rtts: Rtts) -> None:
        """Adds histograms. The methods of the histograms are ignored. A line may have several histograms."""
        lines, scales = rtts.lines.astype(np.int64), rtts.scales.astype(np.int64)
        lowest = self.scales.copy()
        np.minimum.at(lowest, lines, scales)
        self.buckets = downscale(self.buckets, np.where(self.scales == NO_SCALE, 0, self.scales - lowest))
        self.scales = lowest
        self.buckets = add(self.buckets, lines, downscale(rtts.buckets, scales - lowest[lines]))
        np.add.at(self.sum_ns, lines, rtts.sum_ns.astype(np.uint64))
        np.minimum.at(self._min_ns, lines, np.where(rtts.min_ns == 0, NO_MIN_NS, rtts.min_ns).astype(np.uint64))
        np.maximum.at(self.max_ns, lines, rtts.max_ns.astype(np.uint64))

    def as_rtts(self, method: int) -> Rtts:
        """Returns the histograms of all lines that have RTTs."""
        lines = np.flatnonzero(self.scales != NO_SCALE)
        return Rtts(
            lines,
            np.full(len(lines), method),
            self.scales[lines],
            self.buckets.select(lines),
            self.sum_ns[lines],
            self.min_ns[lines],
            self.max_ns[lines],
        )
