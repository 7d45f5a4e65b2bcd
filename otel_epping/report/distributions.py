# SPDX-License-Identifier: Apache-2.0
"""The sections about distributions: the RTTs of each side, and the spread of RTTs within and across networks."""

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.sparse_histograms import SparseHistograms
from otel_epping.report.document import Figure, ReportColumn, ReportTable, Section, Value, listed, value
from otel_epping.report.measurement import QUANTILES, Measured
from otel_epping.report.text import plural

# The minimum number of RTTs of a network in the figure of spreads. The study of a wireless ISP (IMC 2024) uses the same
# number.
_MIN_RTTS = 100
# For fewer networks, there is no curve, because the table shows the same numbers.
_MIN_NETWORKS = 3
SIDES = {
    "internal": "inside (customers)",
    "external": "outside (internet)",
    "unknown": "side unknown",
    "": "all networks",
}
_MEASURES = (
    ("p50", "median"),
    ("p95", "p95"),
    ("p99", "p99"),
    ("iqr", "interquartile range"),
    ("p1_p99", "range p1 to p99"),
)


def cumulative(buckets: SparseHistograms, scale: int, row: int) -> tuple[Floats, Floats]:
    """Returns the upper bounds of the used buckets of a row in seconds, and the share of RTTs up to each bound."""
    first, counts = buckets.run(row)
    shares = np.cumsum(counts, dtype=np.float64) / max(1, int(counts.sum()))
    bounds = np.exp2((first + 1 + np.arange(len(counts))) / 2.0**scale)
    used = np.flatnonzero(counts)
    if not len(used):
        return bounds[:0], shares[:0]
    span = slice(max(0, used[0] - 1), used[-1] + 1)
    bounds, shares = bounds[span], shares[span]
    if used[0] == 0:  # the curve begins at the lower bound of the first bucket
        bounds, shares = np.insert(bounds, 0, np.exp2(first / 2.0**scale)), np.insert(shares, 0, 0.0)
    return bounds, shares


def distributions(measurement: Measured) -> Section:
    """Returns the section with the distribution of all RTTs of each side."""
    rtts = measurement.by_side(measurement.rtts)
    curves, rows = [], []
    found = dict(zip(QUANTILES, rtts.quantiles(*QUANTILES), strict=True))
    means = rtts.means()
    for place, side in enumerate(measurement.sides):
        bounds, shares = cumulative(rtts.buckets, int(rtts.scales[place]), place)
        samples = int(rtts.counts[place])
        name = SIDES[side]
        curves.append({"name": name, "samples": samples, "rtt_s": listed(bounds), "share": listed(shares)})
        row: list[Value] = [name, samples, value(means[place])]
        rows.append([*row, *(value(found[q][place]) for q in QUANTILES)])
    samples = int(rtts.counts[: len(measurement.sides)].sum())
    figure = Figure(
        "cdf",
        "cdf",
        "Share of RTTs that are at most as long as the time on the axis",
        plural(samples, "RTT"),
        {"curves": curves},
    )
    columns = [
        ReportColumn("side", "side", "text"),
        ReportColumn("samples", "RTTs", "count"),
        ReportColumn("mean", "mean", "time"),
        *(ReportColumn(f"p{round(q * 100):02d}", f"p{round(q * 100)}", "time") for q in QUANTILES),
    ]
    return Section(
        "distributions",
        "Inside and outside",
        [
            "If a curve is steep, the RTTs are similar. If a curve has a long tail to the right, some RTTs are much "
            "longer than the others."
        ],
        [figure] if curves else [],
        [ReportTable("sides", plural(samples, "RTT"), columns, rows)],
    )


def spread(measurement: Measured) -> Section:
    """Returns the section with the spread and the quantiles of each network, as distributions over all networks."""
    figures, rows = [], []
    sums = measurement.by_side(measurement.rtts)
    overall = _measures(dict(zip(QUANTILES, sums.quantiles(*QUANTILES), strict=True)))
    each = _measures(measurement.quantiles)
    enough = measurement.measured[measurement.statistics.samples[measurement.measured] >= _MIN_RTTS]
    for place, side in enumerate(measurement.sides):
        numbers = enough[measurement.side_numbers[enough] == place]
        if not len(numbers):
            continue
        curves: list[dict[str, object]] = []
        for key, name in _MEASURES:
            values = np.sort(each[key][numbers])
            curves.append(_curve(name, values, float(overall[key][place])))
            middle = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
            rows.append([SIDES[side], name, *middle, value(overall[key][place]), len(numbers)])
        if len(numbers) < _MIN_NETWORKS:
            continue
        samples = int(measurement.statistics.samples[numbers].sum())
        figures.append(
            Figure(
                side or "all",
                "spread",
                f"{SIDES[side]}: share of networks whose value is at most the time on the axis",
                f"{plural(len(numbers), 'network')}, {plural(samples, 'RTT')}",
                {"curves": curves},
            )
        )
    columns = [
        ReportColumn("side", "side", "text"),
        ReportColumn("measure", "measure", "text"),
        ReportColumn("p10", "10 % of networks below", "time"),
        ReportColumn("p50", "half of networks below", "time"),
        ReportColumn("p90", "90 % of networks below", "time"),
        ReportColumn("together", "all RTTs together", "time", "The value for the sum of the RTTs of all networks."),
        ReportColumn("networks", "networks", "count"),
    ]
    left_out = _left_out(measurement.measured, enough)
    sentences = [
        "The medians show how networks differ from each other. The ranges show how RTTs differ within a network. Each "
        "point on a curve marks the value for all RTTs together. "
        f"Networks with fewer than {_MIN_RTTS} RTTs are left out{left_out}."
    ]
    caption = f"{plural(len(enough), 'network')} with at least {_MIN_RTTS} RTTs"
    return Section(
        "spread",
        "Spread within and across networks",
        sentences,
        figures,
        [ReportTable("measures", caption, columns, rows)],
    )


def _left_out(measured: Indexes, enough: Indexes) -> str:
    return f": {plural(len(measured) - len(enough), 'network')}"


def _measures(quantiles: dict[float, Floats]) -> dict[str, Floats]:
    return {
        "p50": quantiles[0.5],
        "p95": quantiles[0.95],
        "p99": quantiles[0.99],
        "iqr": quantiles[0.75] - quantiles[0.25],
        "p1_p99": quantiles[0.99] - quantiles[0.01],
    }


def _curve(name: str, values: Floats, overall: float) -> dict[str, object]:
    shares = np.arange(1, len(values) + 1) / len(values)
    return {
        "name": name,
        "rtt_s": listed(values),
        "share": listed(shares),
        "overall_s": value(overall),
        "overall_share": float((values <= overall).mean()),
    }
