# SPDX-License-Identifier: Apache-2.0
"""Histogram strips: the distribution of the RTTs of a line as a row of characters on a logarithmic axis.

All strips of a screen have the same axis, so the strips can be compared.
"""

from typing import NamedTuple

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.line_rtts import NO_SCALE, LineRtts
from otel_epping.kernel.arrays import Counts

# The axis contains all RTTs except this share at each end. RTTs outside of the axis are shown at the ends of the axis.
# The axis begins at _LEAST_S or more, because RTTs between hosts on one machine would make the axis much longer.
_OUTSIDE = 0.002
_LEAST_S = 1e-4
_STEPS = (1, 2, 5)


class Axis(NamedTuple):
    """A logarithmic axis of round-trip times, in seconds."""

    low_s: float
    high_s: float

    def places(self, times_s: Floats, width: int) -> Counts:
        """Returns the number of the cell of each time, if the axis has `width` cells."""
        share = (np.log(times_s) - np.log(self.low_s)) / (np.log(self.high_s) - np.log(self.low_s))
        found: Counts = np.clip(share * width, 0, width - 1).astype(np.uint64)
        return found


DEFAULT_AXIS = Axis(1e-3, 1.0)


def axis_of(rtts: LineRtts, line: int | None = None) -> Axis:
    """Returns the axis for the RTTs of all lines or of one line. Both ends are 1, 2 or 5 times a power of ten."""
    buckets, scales = rtts.buckets, rtts.scales
    if line is not None:
        buckets, scales = buckets.select(np.array([line])), scales[[line]]
    lengths, counts = buckets.lengths, buckets.counts
    if not counts.sum():
        return DEFAULT_AXIS
    # Buckets at scale 2 are exact enough for the ends of an axis. Higher scales would need more buckets.
    index = np.repeat(buckets.first - buckets.starts[:-1], lengths) + np.arange(len(counts))
    scales = np.where(scales == NO_SCALE, 0, scales)
    quarter = np.floor(4.0 * index / np.repeat(np.exp2(scales), lengths)).astype(np.int64)
    first = int(quarter.min())
    cumulative = np.cumsum(np.bincount(quarter - first, weights=counts))
    ends = np.searchsorted(cumulative, cumulative[-1] * np.array([_OUTSIDE, 1 - _OUTSIDE]))
    low, high = 2.0 ** ((first + ends[0]) / 4), 2.0 ** ((first + ends[1] + 1) / 4)
    low, high = max(low, _LEAST_S), max(high, 2 * _LEAST_S)
    low = max(step for step in _round_times() if step <= low * 1.0001)
    high = min(step for step in _round_times() if step >= high * 0.9999 and step >= low * 9.999)
    return Axis(low, high)


def _round_times() -> list[float]:
    return [float(f"{step}e{power}") for power in range(-8, 5) for step in _STEPS]


def strip_values(rtts: LineRtts, line: int, axis: Axis, width: int) -> Floats:
    """Returns the number of RTTs of a line in each cell of a strip."""
    first, counts = rtts.buckets.run(line)
    if not len(counts):
        return np.zeros(width)
    times_s = np.exp2((first + np.arange(len(counts)) + 0.5) / 2.0 ** int(rtts.scales[line]))
    places = axis.places(times_s, width).astype(np.int64)
    return np.bincount(places, weights=counts, minlength=width).astype(np.float64)
