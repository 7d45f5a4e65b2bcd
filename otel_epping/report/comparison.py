# SPDX-License-Identifier: Apache-2.0
"""The section that compares two measurements. A is the measurement of the report, and B is the other measurement."""

import numpy as np

from otel_epping.history.line import Line
from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.kernel.arrays import Indexes
from otel_epping.report.distributions import SIDES, cumulative
from otel_epping.report.document import Figure, ReportColumn, ReportTable, Section, Value, listed, value
from otel_epping.report.measurement import Measured
from otel_epping.report.networks import MAX_ROWS
from otel_epping.report.text import duration, ms, plural
from otel_epping.report.timeline import PeriodTable

_DAY_NS = 86_400 * 10**9
_MAX_CELLS = 500_000


def comparison(a: Measured, b: Measured, a_times: PeriodTable, b_times: PeriodTable) -> Section:
    """Returns the section that compares A against B. Positive differences mean that A is slower."""
    pairs = _pairs(a, b)
    enough = [(mine, its) for mine, its in pairs if a.statistics.is_certain[mine] and b.statistics.is_certain[its]]
    changes = {mine: float(a.statistics.p95[mine] - b.statistics.p95[its]) for mine, its in enough}
    enough.sort(key=lambda pair: -abs(changes[pair[0]]))
    slower = sum(change > 0 for change in changes.values())
    sentences = [
        f"A is {a.title}. B is {b.title}. All other sections are about A. "
        f"Networks with RTTs in A and in B: {len(pairs):,}. Networks with at least {MIN_SAMPLES} RTTs in A and in B: "
        f"{len(enough):,}."
    ]
    if enough:
        largest = enough[0][0]
        sentences.append(
            f"A against B: networks with a longer p95 in A: {slower:,}. Other networks: {len(enough) - slower:,}. "
            f"{a.names[largest]} has the largest change: in A, its p95 is {ms(abs(changes[largest]))} ms "
            f"{'longer' if changes[largest] > 0 else 'shorter'}."
        )
    figures = [_curves(a, b)]
    if enough:
        figures.append(_heat(a, a_times, b_times, np.array(enough, np.int64)))
    rows: list[list[Value]] = [_row(a, b, mine, its, changes[mine]) for mine, its in enough[:MAX_ROWS]]
    columns = [
        ReportColumn("network", "network", "text"),
        ReportColumn("change_p95", "p95 A - B", "change"),
        ReportColumn("a_p95", "p95 A", "time"),
        ReportColumn("b_p95", "p95 B", "time"),
        ReportColumn("a_p50", "p50 A", "time"),
        ReportColumn("b_p50", "p50 B", "time"),
        ReportColumn("a_samples", "RTTs A", "count"),
        ReportColumn("b_samples", "RTTs B", "count"),
        ReportColumn("a_bits", "traffic A", "rate"),
        ReportColumn("b_bits", "traffic B", "rate"),
    ]
    caption = f"A: {plural(a.samples, 'RTT')}; B: {plural(b.samples, 'RTT')}"
    return Section("comparison", "A against B", sentences, figures, [ReportTable("networks", caption, columns, rows)])


def _key(line: Line) -> Line:
    return line._replace(agent="")


def _pairs(a: Measured, b: Measured) -> list[tuple[int, int]]:
    """Returns the numbers in A and in B of each network with RTTs in both. The agents of A and B may differ."""
    in_b = {_key(b.lines[number]): number for number in b.measured.tolist()}
    found = ((number, in_b.get(_key(a.lines[number]))) for number in a.measured.tolist())
    return [(mine, its) for mine, its in found if its is not None]


def _row(a: Measured, b: Measured, mine: int, its: int, change: float) -> list[Value]:
    ours, theirs = a.statistics, b.statistics
    both = ((ours.p95, theirs.p95), (ours.p50, theirs.p50), (ours.samples, theirs.samples))
    bits = ours.bits_from[mine] + ours.bits_to[mine], theirs.bits_from[its] + theirs.bits_to[its]
    numbers = [value(each) for pair in both for each in (pair[0][mine], pair[1][its])]
    return [a.names[mine], change, *numbers, *map(value, bits)]


def _curves(a: Measured, b: Measured) -> Figure:
    curves = []
    for name, each in (("A", a), ("B", b)):
        rtts = each.by_side(each.rtts)
        for place, side in enumerate(each.sides):
            bounds, shares = cumulative(rtts.buckets, int(rtts.scales[place]), place)
            samples = int(rtts.counts[place])
            text = f"{name}, {SIDES[side]}"
            curves.append({"name": text, "samples": samples, "rtt_s": listed(bounds), "share": listed(shares)})
    samples = sum(int(each["samples"]) for each in curves)  # type: ignore[call-overload]
    return Figure(
        "cdf",
        "cdf",
        "Share of RTTs that are at most as long as the time on the axis",
        plural(samples, "RTT"),
        {"curves": curves},
    )


def _heat(a: Measured, a_times: PeriodTable, b_times: PeriodTable, pairs: Indexes) -> Figure:
    """Returns the heat map of the differences.

    If both measurements are longer than a day, the periods of A and B are compared at the same time of the day.
    Otherwise, the periods are compared at the same time since the start.
    """
    step_ns = a_times.step_ns
    offset = 0
    by_day = min(len(a_times.begins_ns) * step_ns, len(b_times.begins_ns) * b_times.step_ns) >= _DAY_NS
    if by_day:
        # The offset is at most half a day, so that most periods of B have a period of A.
        offset_ns = int(a_times.begins_ns[0] - b_times.begins_ns[0]) + _DAY_NS // 2
        offset = (offset_ns % _DAY_NS - _DAY_NS // 2) // step_ns
    # For each period of B, the number of the period of A.
    at_b = np.arange(len(b_times.begins_ns)) * b_times.step_ns // step_ns - offset
    at_a = np.arange(len(a_times.begins_ns))
    periods = int(min(at_a[-1], at_b[-1])) + 1
    rows = pairs[: max(1, _MAX_CELLS // max(1, periods))]
    its_period = np.searchsorted(at_b, at_a[:periods])
    usable = (its_period < len(at_b)) & (at_b[np.minimum(its_period, len(at_b) - 1)] == at_a[:periods])
    theirs = b_times.quantiles[0.95][np.minimum(its_period, len(at_b) - 1)][:, rows[:, 1]]
    theirs[~usable] = np.nan
    ours = a_times.quantiles[0.95][:periods, rows[:, 0]]
    samples = int(a_times.samples[:, rows[:, 0]].sum()) + int(b_times.samples[:, rows[:, 1]].sum())
    how = "at the same time of the day" if by_day else "at the same time since the start"
    return Figure(
        "difference",
        "difference",
        f"95th percentile in A / 95th percentile in B, in periods of {duration(step_ns / 1e9)}, {how}",
        f"{plural(samples, 'RTT')} of {plural(len(rows), 'network')}",
        {
            "networks": [a.names[number] for number in rows[:, 0].tolist()],
            "begins_ms": a_times.begins_ms(slice(periods)),
            "step_ms": a_times.step_ms,
            "a_p95_s": listed(ours.T),
            "b_p95_s": listed(theirs.T),
        },
    )
