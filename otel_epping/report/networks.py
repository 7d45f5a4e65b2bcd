# SPDX-License-Identifier: Apache-2.0
"""The sections about single networks: the worst networks, the heat map and the smoke plots."""

import numpy as np

from otel_epping.history.line import OVERFLOW
from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.kernel.methods import METHODS
from otel_epping.otel.metric_table import SUBNET_BYTES, SUBNET_PACKETS
from otel_epping.report.document import Figure, ReportColumn, ReportTable, Section, Value, listed, shown_columns, value
from otel_epping.report.measurement import Measured
from otel_epping.report.text import count, duration, plural
from otel_epping.report.timeline import PeriodTable

_METHOD_QUANTILES = (0.5, 0.9, 0.99)
# These limits keep the page small.
MAX_ROWS = 1000
_MAX_BY_METHOD = 200
_MAX_CELLS = 1_000_000
_MAX_SMOKE = 30

_COLUMNS = (
    ReportColumn("network", "network", "text"),
    ReportColumn("place", "AS, country", "text"),
    ReportColumn("tags", "tags", "text"),
    ReportColumn("side", "side", "text"),
    ReportColumn("interface", "interface", "text"),
    ReportColumn(
        "impact",
        "impact",
        "impact",
        "Traffic x excess: the bytes in flight only because RTTs are longer than the minimum RTT.",
    ),
    ReportColumn("p50", "p50", "time", "Median RTT."),
    ReportColumn("p95", "p95", "time", "95th percentile of the RTTs."),
    ReportColumn("minimum", "min", "time", "The minimum RTT is about the RTT without queues."),
    ReportColumn("excess", "excess", "time", "Mean RTT - minimum RTT."),
    ReportColumn(
        "added_by_load", "by load", "change", "Latency under load: how much longer RTTs are while the network is busy."
    ),
    ReportColumn("samples", "RTTs", "count", f"Rows with fewer than {MIN_SAMPLES} RTTs are uncertain, and pale."),
    ReportColumn("loss_to", "loss to", "share", "Retransmitted segments / TCP segments to the network."),
    ReportColumn("loss_from", "loss from", "share", "Retransmitted segments / TCP segments from the network."),
    ReportColumn("bits_to", "to", "rate", "Traffic to the network."),
    ReportColumn("bits_from", "from", "rate", "Traffic from the network."),
    ReportColumn("flows", "flows", "count", "Active TCP flows at the end of the measurement."),
    ReportColumn("coverage", "coverage", "share", "TCP packets with timestamps / TCP packets."),
)


def worst(measurement: Measured) -> Section:
    """Returns the section with the table of networks, sorted by impact."""
    numbers = measurement.networks[:MAX_ROWS].tolist()
    rows = [_row(measurement, number) for number in numbers]
    columns, rows = shown_columns(_COLUMNS, rows)
    uncertain = frozenset(row for row, number in enumerate(numbers) if not measurement.statistics.is_certain[number])
    left_out = len(measurement.networks) - len(numbers)
    sentences = [
        "The networks are sorted by impact. Impact is traffic x excess, and excess is mean RTT - minimum RTT. So busy "
        "networks with long queues are at the top."
    ]
    if left_out:
        sentences.append(f"The table leaves out {plural(left_out, 'network')} with less impact.")
    caption = f"{plural(len(numbers), 'network')}, {plural(measurement.samples, 'RTT')}"
    return Section(
        "worst_networks",
        "Worst networks by impact",
        sentences,
        tables=[
            ReportTable("networks", caption, columns, rows, uncertain),
            _by_method(measurement, numbers[:_MAX_BY_METHOD]),
        ],
    )


def _by_method(measurement: Measured, networks: list[int]) -> ReportTable:
    """Returns the table with a row for each network and method. `otel-epping replay` prints the same numbers."""
    found: dict[int, dict[str, list[Value]]] = {}
    packets, octets = (measurement.total.sum(metric.name) for metric in (SUBNET_PACKETS, SUBNET_BYTES))
    for method in measurement.total.methods:
        rtts = measurement.total.rtts([method])
        quantiles = rtts.quantiles(*_METHOD_QUANTILES)
        counts = rtts.counts
        for number in np.flatnonzero(counts).tolist():
            extremes = (value(each[number] / 1e9) if each[number] else None for each in (rtts.min_ns, rtts.max_ns))
            minimum, maximum = extremes
            middle = [value(each[number]) for each in quantiles]
            found.setdefault(number, {})[method] = [value(counts[number]), minimum, *middle, maximum]
    order = {method.name: place for place, method in enumerate(METHODS)}
    others = [number for number, line in enumerate(measurement.lines) if line.kind == OVERFLOW]
    rows: list[list[Value]] = []
    for number in (*networks, *others):
        amounts = [None if each is None else value(each[number]) for each in (packets, octets)]
        methods = found.get(number, {})
        rows.extend(
            [measurement.names[number], method or "all", *methods[method], *amounts]
            for method in sorted(methods, key=lambda each: order.get(each, -1))
        )
    columns = [
        ReportColumn("network", "network", "text"),
        ReportColumn("method", "method", "text"),
        ReportColumn("samples", "RTTs", "count"),
        ReportColumn("minimum", "min", "time"),
        *(ReportColumn(f"p{q * 100:.0f}", f"p{q * 100:.0f}", "time") for q in _METHOD_QUANTILES),
        ReportColumn("maximum", "max", "time"),
        ReportColumn("packets", "packets", "count", "All packets of the network, in both directions."),
        ReportColumn("bytes", "traffic", "bytes", "All bytes of the network, in both directions."),
    ]
    which = "The same networks" if len(networks) < _MAX_BY_METHOD else f"The {len(networks)} worst networks"
    caption = f"{which} by method: {plural(sum(int(row[2] or 0) for row in rows), 'RTT')}"
    return ReportTable("methods", caption, columns, rows)


def _row(measurement: Measured, number: int) -> list[Value]:
    line, found, texts = measurement.lines[number], measurement.statistics, measurement.texts
    measured = {
        name: value(getattr(found, name)[number])
        for name in ("impact", "p50", "p95", "minimum", "excess", "samples", "loss_to", "loss_from", "bits_to")
    }
    return [
        measurement.names[number],
        ", ".join(filter(None, (texts.autonomous_system(line), texts.country(line)))),
        texts.tags(line),
        line.side if measurement.sides != ["unknown"] else "",
        texts.interface(line) if len(measurement.interfaces) > 1 else "",
        *(measured[name] for name in ("impact", "p50", "p95", "minimum", "excess")),
        value(measurement.load.added[number]),
        *(measured[name] for name in ("samples", "loss_to", "loss_from", "bits_to")),
        *(value(getattr(found, name)[number]) for name in ("bits_from", "flows", "coverage")),
    ]


def heat_map(measurement: Measured, timeline: PeriodTable) -> Section:
    """Returns the section with the heat map of networks over time."""
    periods = len(timeline.begins_ns)
    numbers = measurement.measured[: max(1, _MAX_CELLS // max(1, periods))]
    samples = timeline.samples[:, numbers]
    step = duration(timeline.step_ns / 1e9)
    sentences = [
        f"Each cell is one network in a period of {step}. Its colour stands for p95 - minimum RTT of the network. So a "
        "distant network is not dark only because of its distance. The networks have the same order as in the table of "
        "the worst networks. Empty cells have no RTTs."
    ]
    if left_out := len(measurement.measured) - len(numbers):
        sentences.append(f"The figure leaves out {plural(left_out, 'network')} with less impact.")
    figure = Figure(
        "p95",
        "heat",
        "95th percentile of the RTTs - minimum RTT, in ms",
        f"{plural(int(samples.sum()), 'RTT')} of {plural(len(numbers), 'network')} in {plural(periods, 'period')}",
        {
            "networks": [measurement.names[number] for number in numbers.tolist()],
            "begins_ms": timeline.begins_ms(),
            "step_ms": timeline.step_ms,
            "p95_s": listed(timeline.quantiles[0.95][:, numbers].T),
            "minimum_s": listed(measurement.statistics.minimum[numbers]),
            "samples": samples.T.tolist(),
        },
    )
    return Section("heat_map", "Networks over time", sentences, [figure] if len(numbers) else [])


def smoke(measurement: Measured, timeline: PeriodTable) -> Section:
    """Returns the section with a smoke plot of each of the worst networks."""
    numbers = measurement.measured[:_MAX_SMOKE].tolist()
    has_loss = not np.isnan(timeline.loss[:, numbers]).all()
    sentences = [
        f"The line is the median RTT of each period of {duration(timeline.step_ns / 1e9)}. The dark band is from the "
        "25th to the 75th percentile, and the pale band is from the 5th to the 95th percentile. The curve below "
        "is the traffic in both directions. Times are in UTC.",
        "The colour of a point shows the loss: retransmitted segments / TCP segments."
        if has_loss
        else "The loss is unknown, because the source does not have its counts.",
    ]
    if left_out := len(measurement.measured) - len(numbers):
        sentences.append(
            f"There are plots of the {len(numbers)} worst networks. Networks without a plot: {count(left_out)}."
        )
    return Section(
        "smoke", "Smoke plots", sentences, [_smoke(measurement, timeline, place, n) for place, n in enumerate(numbers)]
    )


def _smoke(measurement: Measured, timeline: PeriodTable, place: int, number: int) -> Figure:
    samples = timeline.samples[:, number]
    used = np.flatnonzero(samples)
    span = slice(used[0], used[-1] + 1) if len(used) else slice(0)
    quantiles = {f"p{round(q * 100):02d}_s": listed(table[span, number]) for q, table in timeline.quantiles.items()}
    return Figure(
        f"network_{place + 1}",
        "smoke",
        measurement.names[number],
        plural(int(samples.sum()), "RTT"),
        {
            "network": measurement.names[number],
            "begins_ms": timeline.begins_ms(span),
            "step_ms": timeline.step_ms,
            "samples": samples[span].tolist(),
            **quantiles,
            "loss": listed(timeline.loss[span, number]),
            "bits": listed(timeline.bits[span, number]),
        },
    )
