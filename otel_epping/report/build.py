# SPDX-License-Identifier: Apache-2.0
"""Builds a report from one measurement, or from two measurements that are compared."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from otel_epping.history.verdict import LOAD, NOT_LOAD, UNKNOWN, Thresholds, verdict
from otel_epping.networks.pseudonyms import Show
from otel_epping.process.escaping import printable
from otel_epping.report.comparison import comparison
from otel_epping.report.distributions import distributions, spread
from otel_epping.report.document import Report, ReportColumn, ReportTable, Section, Value, shown_columns, value
from otel_epping.report.features import coverage, features
from otel_epping.report.load import against_traffic, under_load
from otel_epping.report.measurement import LineTexts, Measured, Source
from otel_epping.report.networks import heat_map, smoke, worst
from otel_epping.report.text import count, duration, moment, ms, plural
from otel_epping.report.timeline import PeriodTable
from otel_epping.version import __version__

_CAUSES = {LOAD: "yes", NOT_LOAD: "no", UNKNOWN: "unknown"}
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


def build(sources: Sequence[Source], thresholds: Thresholds, show: Show, progress: Progress) -> Report:
    """Returns the report about the first source. If there is a second source, the report compares the sources.

    thresholds  the thresholds of the verdict and of the marks in tables
    show        returns the text to show for a name or an address
    progress    returns a context manager that yields a function. The function is called with the number of slices
                that were processed since the last call
    """
    names = LineTexts(show)
    measurements = [Measured(source, names) for source in sources]
    with progress("computing", 3 * sum(len(source.history) for source in sources)) as advance:
        timelines = [each.timeline(advance) for each in measurements]
        for each in measurements:
            _ = each.load
            advance(2 * len(each.history))
    first, times = measurements[0], timelines[0]
    sections = [_verdict(first, times, thresholds)]
    if len(measurements) > 1:
        compared = comparison(first, measurements[1], times, timelines[1])
        verdict_of_a, *others = sections[0].sentences
        sections = [replace(sections[0], sentences=[f"A: {verdict_of_a}", *compared.sentences[1:], *others]), compared]
    sections += [
        worst(first),
        heat_map(first, times),
        smoke(first, times),
        distributions(first),
        spread(first),
        against_traffic(first, times),
        under_load(first),
        features(first),
        coverage(first),
    ]
    notes = [
        printable(f"{each.title}: {note}" if len(measurements) > 1 else note)
        for each in measurements
        for note in each.history.notes
    ]
    limits = {"fair_s": thresholds.fair, "slow_s": thresholds.slow, "loss": thresholds.loss}
    return Report(_about(measurements), {"thresholds": limits}, sections, notes)


def _about(measurements: Sequence[Measured]) -> list[tuple[str, str, str]]:
    first = measurements[0]
    titles = [each.title for each in measurements]
    history = first.history
    interfaces = first.interfaces
    about = [
        ("source", "source", " against ".join(titles)),
        ("begin", "start (UTC)", moment(history.begin_ns) if len(history) else ""),
        ("measured", "measured", duration(first.total.seconds)),
        ("networks", "networks", plural(len(first.networks), "network")),
        ("samples", "RTTs", plural(first.samples, "RTT")),
        ("resolution", "resolution", ", ".join(filter(None, map(_resolution, measurements)))),
        ("interfaces", "interfaces", ", ".join(interfaces[:5]) + (" ..." if len(interfaces) > 5 else "")),
        ("version", "made by", f"otel-epping {__version__}"),
    ]
    return [each for each in about if each[2]]


def _resolution(measurement: Measured) -> str:
    """Returns the resolution of the RTTs if they were counted in bins of the same width, or ""."""
    bin_ns = measurement.history.bin_ns
    return f"{bin_ns / 1e6:g} ms" if bin_ns else ""


def _slow_periods(measurement: Measured, timeline: PeriodTable, number: int, slow_s: float) -> tuple[str, str, str]:
    """Returns three texts: the number of slow periods, the start of the first and the end of the last slow period."""
    excess = timeline.mean[:, number] - measurement.statistics.minimum[number]
    slow = np.flatnonzero(excess >= slow_s)
    known = int(np.count_nonzero(~np.isnan(excess)))
    if not len(slow):
        return f"0 of {count(known)}", "", ""
    begin_ns = max(int(timeline.begins_ns[slow[0]]), measurement.history.begin_ns)
    end_ns = min(int(timeline.begins_ns[slow[-1]]) + timeline.step_ns, measurement.history.end_ns)
    return f"{count(len(slow))} of {count(known)}", moment(begin_ns), moment(end_ns)


def _verdict(measurement: Measured, timeline: PeriodTable, thresholds: Thresholds) -> Section:
    found = verdict(
        measurement.history,
        thresholds,
        statistics=measurement.statistics,
        load=measurement.load,
        names=measurement.names,
    )
    samples = measurement.statistics.samples[measurement.networks]
    judged = int(samples[samples >= thresholds.min_samples].sum())
    sentences = [
        found.sentence,
        f"A network is slow if its mean RTT is at least {ms(thresholds.slow)} ms above its minimum RTT. "
        f"The verdict uses {plural(judged, 'RTT')} of {plural(found.judged, 'network')} with at least "
        f"{thresholds.min_samples} RTTs each.",
    ]
    if resolution := _resolution(measurement):
        sentences.append(
            f"The source has RTTs in bins of {resolution}. So all times except minima and maxima have a further error "
            "of up to half a bin."
        )
    step = duration(timeline.step_ns / 1e9)
    rows: list[list[Value]] = [
        [
            measurement.names[each.number],
            value(each.excess),
            value(each.p95),
            each.samples,
            value(each.load),
            value(each.loss),
            value(each.ce),
            _CAUSES[each.cause],
            *_slow_periods(measurement, timeline, each.number, thresholds.slow),
        ]
        for each in found.slow
    ]
    if rows and rows[0][-1]:
        name, _, _, _, _, _, _, _, periods, begin, end = rows[0]
        sentences.insert(1, f"{name} was slow in {periods} periods of {step}, from {begin} to {end} UTC.")
    columns = [
        ReportColumn("network", "network", "text"),
        ReportColumn("excess", "excess", "time", "Mean RTT - minimum RTT."),
        ReportColumn("p95", "p95", "time"),
        ReportColumn("samples", "RTTs", "count"),
        ReportColumn(
            "added_by_load",
            "by load",
            "change",
            "Latency under load: how much longer RTTs are while the network is busy.",
        ),
        ReportColumn("loss", "loss", "share"),
        ReportColumn("ce", "ECN CE", "share"),
        ReportColumn("cause", "because of load", "text"),
        ReportColumn(
            "slow_periods", "slow periods", "text", f"Periods of {step} in which the excess was at least the threshold."
        ),
        ReportColumn("slow_from", "from (UTC)", "text", "The start of the first slow period."),
        ReportColumn("slow_until", "until (UTC)", "text", "The end of the last slow period."),
    ]
    columns, rows = shown_columns(columns, rows)
    table = ReportTable(
        "slow",
        f"{plural(len(found.slow), 'slow network')}, {plural(sum(each.samples for each in found.slow), 'RTT')}",
        columns,
        rows,
    )
    return Section("verdict", "Verdict", sentences, tables=[table] if rows else [])
