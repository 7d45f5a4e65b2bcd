# SPDX-License-Identifier: Apache-2.0
"""Latency under load: RTTs of a line while the line has much traffic, minus RTTs while the line has little traffic."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.history.histograms import Floats
from otel_epping.history.history import History
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.history.stored import union
from otel_epping.kernel.arrays import Counts, Indexes
from otel_epping.otel import metric_table

# The quantile of the RTTs in the busiest and in the quietest tenth of the periods.
QUANTILE = 0.8
TENTH = 10
# A line with fewer periods with traffic has no latency under load.
MIN_PERIODS = 20
# The possible lengths of periods. The longest length with which the history has MIN_PERIODS periods is used. If there
# is no such length, the shortest length is used.
PERIODS_NS = (60 * 10**9, 10 * 10**9, 10**9)


class LoadLatency(NamedTuple):
    """Latency under load of n lines. All arrays have the shape (n,). NaN means that a value is unknown.

    added      busy - quiet, in seconds; unknown if there are fewer than MIN_PERIODS periods with traffic, or fewer than
               MIN_SAMPLES RTTs in the busiest or in the quietest periods
    busy       the 80th percentile of the RTTs in the busiest tenth of the line's periods with traffic, in seconds
    quiet      the 80th percentile of the RTTs in the quietest tenth of the line's periods with traffic, in seconds
    samples    the smaller number of RTTs: in the busiest or in the quietest periods
    periods    number of periods with traffic
    period_ns  the length of the periods, ns
    """

    added: Floats
    busy: Floats
    quiet: Floats
    samples: Counts
    periods: Indexes
    period_ns: int


def latency_under_load(history: History, period_ns: int | None = None) -> LoadLatency:
    """Returns the latency under load of all lines.

    `period_ns` is the length of the periods. By default, the length is one of PERIODS_NS, or the median length of a
    slice if the slices are longer.
    """
    if period_ns is None:
        span_ns = history.end_ns - history.begin_ns
        period_ns = next((each for each in PERIODS_NS if each * MIN_PERIODS <= span_ns), PERIODS_NS[-1])
        lengths_ns = [stored.end_ns - stored.begin_ns for (stored,) in history.periods(None)]
        period_ns = max(period_ns, int(np.median(lengths_ns)) if lengths_ns else 0)
    lines = len(history.numbering.lines)
    rates = _rates(history, period_ns)
    with_traffic = rates > 0
    periods: Indexes = np.asarray(with_traffic.sum(axis=0), np.int64)
    tenth = -(-periods // TENTH)
    # The position of each period in the order of a line's rates. Periods without traffic come last.
    order = np.argsort(np.where(with_traffic, rates, np.inf), axis=0, kind="stable")
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.arange(len(rates))[:, None], axis=0)
    is_quiet = with_traffic & (position < tenth)
    is_busy = with_traffic & (position >= periods - tenth)
    busy, quiet = LineRtts(lines), LineRtts(lines)
    for period, busy_lines, quiet_lines in zip(history.periods(period_ns), is_busy, is_quiet, strict=True):
        for rtts in (each.load() for stored in period for each in stored.rtts.values()):
            busy.add(rtts.select(np.flatnonzero(busy_lines[rtts.lines])))
            quiet.add(rtts.select(np.flatnonzero(quiet_lines[rtts.lines])))
    samples = np.minimum(busy.counts, quiet.counts)
    is_certain = (periods >= MIN_PERIODS) & (samples >= MIN_SAMPLES)
    ((after,), (before,)) = busy.quantiles(QUANTILE), quiet.quantiles(QUANTILE)
    added = np.where(is_certain, after - before, np.nan)
    return LoadLatency(added, after, before, samples, periods, period_ns)


def _rates(history: History, period_ns: int) -> npt.NDArray[np.float32]:
    """Returns the bytes per second of each period and line: (periods, lines)."""
    columns = history.numbering.columns.matching(metric_table.SUBNET_BYTES.name, {}) or []
    rates = []
    for period in history.periods(period_ns):
        octets = np.zeros(len(history.numbering.lines))
        for stored in period:
            for column in stored.columns.keys() & columns:
                octets[stored.line_numbers()] += stored.columns[column]
        covered = union((), tuple(interval for stored in period for interval in stored.covered))
        length_ns = sum(end - begin for begin, end in covered)
        rates.append(octets * 1e9 / length_ns if length_ns else np.zeros(len(octets)))
    return np.array(rates, np.float32).reshape(len(rates), len(history.numbering.lines))
