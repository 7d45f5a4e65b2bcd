# SPDX-License-Identifier: Apache-2.0
"""The statistics of each network and of each side in each period of time."""

from collections.abc import Callable
from itertools import islice

import numpy as np
import numpy.typing as npt

from otel_epping.history.history import History
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.statistics import line_statistics

Table32 = npt.NDArray[np.float32]

_NS = 10**9
_MS = 10**6
# The lengths of a period, in seconds.
_STEPS_S = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10_800,
    21_600,
    43_200,
    86_400,
    604_800,
)
# A figure has at most _MAX_PERIODS periods, which is enough for the 744 hours of a month. With few RTTs, a figure has
# fewer periods, so that a period has at least about _RTTS_PER_PERIOD RTTs of all networks.
_MAX_PERIODS, _MIN_PERIODS = 750, 30
_RTTS_PER_PERIOD = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def step_of(history: History) -> int:
    """Returns the length of a period in ns.

    A period is about as long as a slice. If there are many slices or few RTTs, a period is longer.
    """
    rtts = int(history.total().rtts().counts.sum())
    most = min(max(rtts // _RTTS_PER_PERIOD, _MIN_PERIODS), _MAX_PERIODS)
    lengths = [total.end_ns - total.begin_ns for total in islice(history.over_time(), 100)]
    slice_ns = float(np.median(lengths)) if lengths else 0
    span_ns = history.end_ns - history.begin_ns
    for step_ns in (round(step_s * _NS) for step_s in _STEPS_S):
        if step_ns >= 0.9 * slice_ns and span_ns / step_ns <= most:
            return step_ns
    week_ns = round(_STEPS_S[-1] * _NS)
    return -(-span_ns // (_MAX_PERIODS * week_ns)) * week_ns


class PeriodTable:
    """The statistics of n lines in p periods of the same length. NaN means that a value is unknown.

    step_ns    length of a period, ns
    begins_ns  (p,) the start of each period, Unix time, ns. There are no gaps between periods
    samples    (p, n) number of RTTs
    quantiles  (p, n) quantiles of the RTTs in seconds, for each of QUANTILES
    mean       (p, n) mean RTT in seconds
    loss       (p, n) retransmitted segments / TCP segments, in the direction with more loss
    bits       (p, n) traffic in both directions, bit/s
    side_samples, side_quantiles  the same for each side of the measurement
    """

    def __init__(
        self,
        history: History,
        step_ns: int,
        by_side: Callable[[LineRtts], LineRtts],
        progress: Callable[[int], object],
    ) -> None:
        self.step_ns = step_ns
        first = history.begin_ns // step_ns
        periods = max(1, -(-history.end_ns // step_ns) - first) if len(history) else 0
        lines, sides = len(history.numbering.lines), len(by_side(LineRtts(0)).scales)
        self.begins_ns = (first + np.arange(periods)) * step_ns

        def table(columns: int) -> Table32:
            return np.full((periods, columns), np.nan, np.float32)

        self.samples = np.zeros((periods, lines), np.uint32)
        self.quantiles = {q: table(lines) for q in QUANTILES}
        self.mean, self.loss, self.bits = table(lines), table(lines), table(lines)
        self.side_samples = np.zeros((periods, sides), np.uint64)
        self.side_quantiles = {q: table(sides) for q in QUANTILES}
        period, slices = -1, len(history)
        for total in history.over_time(step_ns):
            # With slices of unequal lengths, two sums must not be stored in the same period.
            before = period
            period = min(max((total.begin_ns + total.end_ns) // 2 // step_ns - first, period + 1), periods - 1)
            rtts = total.rtts()
            grouped = by_side(rtts)
            for samples, quantiles, each in (
                (self.samples, self.quantiles, rtts),
                (self.side_samples, self.side_quantiles, grouped),
            ):
                samples[period] = each.counts
                for q, values in zip(QUANTILES, each.quantiles(*QUANTILES), strict=True):
                    quantiles[q][period] = values
            statistics = line_statistics(total)
            self.mean[period] = statistics.mean
            self.bits[period] = statistics.bits_from + statistics.bits_to
            self.loss[period] = np.fmax(statistics.loss_from, statistics.loss_to)
            progress(slices * (period + 1) // periods - slices * (before + 1) // periods)

    def begins_ms(self, span: slice = slice(None)) -> list[int]:
        """Returns the start of each period, Unix time, ms."""
        return list((self.begins_ns[span] // _MS).tolist())

    @property
    def step_ms(self) -> int:
        """The length of a period, ms."""
        return self.step_ns // _MS
