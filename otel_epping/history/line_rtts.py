# SPDX-License-Identifier: Apache-2.0
"""RTTs of many lines: one histogram per line, with sums, minima and maxima."""

import numpy as np

from otel_epping.history.histograms import Floats, add, downscale, means, outer_bounds_ns, quantiles
from otel_epping.history.slice import Rtts
from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.sparse_histograms import SparseHistograms

# The scale of a line without RTTs. The scale is higher than any scale that OpenTelemetry allows.
NO_SCALE = 127


class LineRtts:
    """The RTTs of n lines.

    buckets  (n,) number of RTTs in each bucket. Bucket numbers are OTLP indexes
    scales   (n,) the scale of each histogram: the lowest scale of the added histograms; NO_SCALE if there is no RTT
    """

    def __init__(self, lines: int = 0) -> None:
        self.buckets = SparseHistograms.empty(lines)
        self.scales: Indexes = np.full(lines, NO_SCALE, np.int64)
        self._sum_ns: Counts = np.zeros(lines, np.uint64)
        self._min_ns: Counts = np.full(lines, NO_MIN_NS, np.uint64)
        self._max_ns: Counts = np.zeros(lines, np.uint64)
        # True for a line if a histogram without a sum, or without a minimum or a maximum, was added.
        self._has_no_sum: Flags = np.zeros(lines, np.bool_)
        self._has_no_extremes: Flags = np.zeros(lines, np.bool_)

    @property
    def sum_ns(self) -> Counts:
        """Sum of the RTTs of each line, ns; 0 if there is no RTT or if the sum of a histogram is unknown: (n,)."""
        return np.where(self._has_no_sum, np.uint64(0), self._sum_ns)

    @property
    def min_ns(self) -> Counts:
        """Minimum RTT of each line, ns; 0 if there is no RTT or if the minimum is unknown: (n,)."""
        return self._extremes()[0]

    @property
    def max_ns(self) -> Counts:
        """Maximum RTT of each line, ns; 0 if there is no RTT or if the maximum is unknown: (n,)."""
        return self._extremes()[1]

    def _extremes(self) -> tuple[Counts, Counts]:
        """Returns minima and maxima.

        If an added histogram has no minimum, the RTTs in the buckets can be less than the minimum of the other
        histograms. In this case, the minimum is unknown. The same applies to the maximum.
        """
        min_ns, max_ns = np.where(self._min_ns == NO_MIN_NS, np.uint64(0), self._min_ns), self._max_ns
        rows = np.flatnonzero(self._has_no_extremes)
        if len(rows):
            shortest_ns, longest_ns = outer_bounds_ns(self.buckets.select(rows), self.scales[rows])
            max_ns = max_ns.copy()
            min_ns[rows[min_ns[rows] > shortest_ns]] = 0
            max_ns[rows[max_ns[rows] < longest_ns]] = 0
        return min_ns, max_ns

    @property
    def counts(self) -> Counts:
        """Number of RTTs of each line: (n,)."""
        return self.buckets.totals()

    def quantiles(self, *qs: float) -> Floats:
        """Returns quantiles in seconds: (len(qs), n). A line without RTTs has NaN."""
        return quantiles(self.buckets, self.scales, *self._extremes(), qs)

    def means(self) -> Floats:
        """Returns the mean RTTs in seconds: (n,). A line without RTTs, or with an unknown sum, has NaN."""
        return means(self.buckets, self.sum_ns)

    def grow(self, lines: int) -> None:
        """Makes room for `lines` lines. New lines have no RTTs."""
        self.buckets, self.scales = self.buckets.grow(lines), grow(self.scales, lines, NO_SCALE)
        self._sum_ns, self._max_ns = grow(self._sum_ns, lines), grow(self._max_ns, lines)
        self._min_ns = grow(self._min_ns, lines, NO_MIN_NS)
        self._has_no_sum = grow(self._has_no_sum, lines)
        self._has_no_extremes = grow(self._has_no_extremes, lines)

    def copy(self) -> "LineRtts":
        """Returns a copy."""
        copy = LineRtts()
        copy.buckets = self.buckets._replace(counts=self.buckets.counts.copy())
        copy.scales, copy._sum_ns = self.scales.copy(), self._sum_ns.copy()
        copy._min_ns, copy._max_ns = self._min_ns.copy(), self._max_ns.copy()
        copy._has_no_sum, copy._has_no_extremes = self._has_no_sum.copy(), self._has_no_extremes.copy()
        return copy

    def add(self, rtts: Rtts) -> None:
        """Adds histograms. The methods of the histograms are ignored. A line may have several histograms."""
        lines, scales = rtts.lines.astype(np.int64), rtts.scales.astype(np.int64)
        lowest = self.scales.copy()
        np.minimum.at(lowest, lines, scales)
        self.buckets = downscale(self.buckets, np.where(self.scales == NO_SCALE, 0, self.scales - lowest))
        self.scales = lowest
        self.buckets = add(self.buckets, lines, downscale(rtts.buckets, scales - lowest[lines]))
        np.add.at(self._sum_ns, lines, rtts.sum_ns.astype(np.uint64))
        np.minimum.at(self._min_ns, lines, np.where(rtts.min_ns == 0, NO_MIN_NS, rtts.min_ns).astype(np.uint64))
        np.maximum.at(self._max_ns, lines, rtts.max_ns.astype(np.uint64))
        self._has_no_sum[lines[rtts.sum_ns == 0]] = True
        self._has_no_extremes[lines[(rtts.min_ns == 0) | (rtts.max_ns == 0)]] = True

    def as_rtts(self, method: int) -> Rtts:
        """Returns the histograms of all lines that have RTTs."""
        lines = np.flatnonzero(self.scales != NO_SCALE)
        min_ns, max_ns = self._extremes()
        return Rtts(
            lines,
            np.full(len(lines), method),
            self.scales[lines],
            self.buckets.select(lines),
            self.sum_ns[lines],
            min_ns[lines],
            max_ns[lines],
        )
