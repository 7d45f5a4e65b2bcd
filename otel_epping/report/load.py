# SPDX-License-Identifier: Apache-2.0
"""The sections about latency and traffic: latency against traffic, and latency under load."""

import numpy as np

from otel_epping.history.load import MIN_PERIODS
from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.report.distributions import SIDES
from otel_epping.report.document import Figure, ReportColumn, ReportTable, Section, listed, value
from otel_epping.report.measurement import Measured
from otel_epping.report.text import count, duration, ms, plural
from otel_epping.report.timeline import PeriodTable

# The figure of latency under load has at most this number of networks.
_MAX_BARS = 25
# Periods with fewer RTTs are left out. With a higher limit, the periods with little traffic would be missing.
_MIN_RTTS = 5


def against_traffic(measurement: Measured, timeline: PeriodTable) -> Section:
    """Returns the section with latency against traffic: a figure of networks and a figure of periods."""
    found, numbers = measurement.statistics, measurement.measured
    numbers = numbers[found.is_certain[numbers]]
    bits = found.bits_from + found.bits_to
    points = [
        {
            "name": SIDES[side],
            "labels": [measurement.names[number] for number in ours.tolist()],
            "bits": listed(bits[ours]),
            "p95_s": listed(found.p95[ours]),
            "minimum_s": listed(found.minimum[ours]),
            "samples": found.samples[ours].tolist(),
        }
        for place, side in enumerate(measurement.sides)
        if len(ours := numbers[measurement.side_numbers[numbers] == place])
    ]
    samples = int(found.samples[numbers].sum())
    figures = []
    if points:
        figures.append(
            Figure(
                "networks",
                "bubbles",
                "Each point is a network",
                f"{plural(len(numbers), 'network')}, {plural(samples, 'RTT')}",
                {"points": points},
            )
        )
    periods = _periods(measurement, timeline)
    if periods:
        total = sum(sum(each["samples"]) for each in periods)
        figures.append(
            Figure(
                "periods",
                "periods",
                f"Each point is a period of {duration(timeline.step_ns / 1e9)}",
                plural(total, "RTT"),
                {"points": periods},
            )
        )
    sentences = [
        "If the points of periods rise from left to right, RTTs grow with traffic, and queues are the likely cause. "
        f"Networks with fewer than {MIN_SAMPLES} RTTs and periods with fewer than {_MIN_RTTS} RTTs are left out."
    ]
    return Section("traffic", "Latency against traffic", sentences, figures)


def _periods(measurement: Measured, timeline: PeriodTable) -> list[dict[str, list[float]]]:
    found = []
    for place, side in enumerate(measurement.sides):
        ours = np.flatnonzero(measurement.side_numbers == place)
        bits = np.nansum(timeline.bits[:, ours], axis=1)
        samples = timeline.side_samples[:, place]
        used = np.flatnonzero((samples >= _MIN_RTTS) & (bits > 0))
        if len(used):
            found.append(
                {
                    "name": SIDES[side],
                    "begins_ms": [timeline.begins_ms()[each] for each in used.tolist()],
                    "bits": listed(bits[used]),
                    "p50_s": listed(timeline.side_quantiles[0.5][used, place]),
                    "p95_s": listed(timeline.side_quantiles[0.95][used, place]),
                    "samples": samples[used].tolist(),
                }
            )
    return found


def under_load(measurement: Measured) -> Section:
    """Returns the section with the networks whose RTTs grow most while the networks are busy."""
    load = measurement.load
    numbers = measurement.measured
    known = numbers[~np.isnan(load.added[numbers])]
    known = known[np.argsort(-load.added[known], kind="stable")]
    shown = known[:_MAX_BARS]
    length = duration(load.period_ns / 1e9)
    sentences = [
        f"The time is divided into periods of {length}. Busy is the 80th percentile of the RTTs in the busiest tenth "
        "of the periods of a network. Quiet is the 80th percentile of the RTTs in the quietest tenth of its periods "
        "with traffic. Latency under load is busy - quiet."
    ]
    if not len(known):
        sentences.append(
            f"The latency under load is unknown for all networks. A network needs {MIN_PERIODS} periods with traffic, "
            f"and {MIN_SAMPLES} RTTs each in its busiest and in its quietest periods. Measure for a longer time."
        )
        return Section("load", "Latency under load", sentences)
    worst = shown[0]
    sentences.append(
        f"{measurement.names[worst]} has the greatest latency under load: {ms(load.added[worst])} ms. The latency "
        f"under load is known for {count(len(known))} of {plural(len(numbers), 'network')}."
    )
    samples = load.samples[shown]
    labels = [measurement.names[number] for number in shown.tolist()]
    caption = (
        f"{plural(len(shown), 'network')}, with at least {count(samples.min())} RTTs each in busy and in quiet periods"
    )
    figure = Figure(
        "networks",
        "dumbbells",
        "80th percentile of the RTTs in quiet and in busy periods",
        caption,
        {
            "labels": labels,
            "quiet_s": listed(load.quiet[shown]),
            "busy_s": listed(load.busy[shown]),
            "samples": load.samples[shown].tolist(),
        },
    )
    columns = [
        ReportColumn("network", "network", "text"),
        ReportColumn("added", "added by load", "change"),
        ReportColumn("quiet", "quiet", "time"),
        ReportColumn("busy", "busy", "time"),
        ReportColumn(
            "samples",
            "RTTs",
            "count",
            "The number of RTTs in the busiest or in the quietest periods, whichever is smaller.",
        ),
        ReportColumn("periods", "periods", "count", "The number of periods with traffic."),
    ]
    rows = [
        [
            measurement.names[number],
            *(value(each[number]) for each in (load.added, load.quiet, load.busy, load.samples, load.periods)),
        ]
        for number in shown.tolist()
    ]
    return Section("load", "Latency under load", sentences, [figure], [ReportTable("networks", caption, columns, rows)])
