# SPDX-License-Identifier: Apache-2.0
"""The page about one network: histogram, methods, both sides, losses, ECN, flows, and the history of the session."""

import math
from collections.abc import Iterator

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.line import Line as NetworkLine
from otel_epping.history.line_rtts import LineRtts
from otel_epping.otel import metric_table, semconv
from otel_epping.top import text
from otel_epping.top.frame import Frame
from otel_epping.top.measuring import Update
from otel_epping.top.pages import BOLD, Line, line_of
from otel_epping.top.strips import Axis, axis_of, strip_values
from otel_epping.top.text import Glyphs
from otel_epping.top.view import View

_MAX_BARS, _LINES_WITHOUT_BARS = 12, 17


def detail(update: Update, view: View, network: NetworkLine, width: int, height: int, glyphs: Glyphs) -> Iterator[Line]:
    """Yields the lines of the page. On a small screen, the histogram has fewer bars."""
    frame = update.frame
    if network not in frame.lines:
        yield line_of("This network has no counts now. Esc goes back.")
        return
    line = frame.lines.index(network)
    found = frame.statistics
    yield line_of(_title(network, view), BOLD)
    if network.tags and not view.is_redacted:
        yield line_of(", ".join(f"{name} {value}" for name, value in network.tags))
    times = ("min", found.minimum), ("p50", found.p50), ("p95", found.p95), ("p99", found.p99), ("max", found.maximum)
    parts = [f"{name} {text.milliseconds(float(values[line]))}" for name, values in times]
    yield line_of(f"RTT ms: {'  '.join(parts)}  n {int(found.samples[line]):,}")
    if not found.is_certain[line]:
        yield line_of("Fewer than 20 samples: these numbers are uncertain.", BOLD)
    change, load = float(frame.change_s[line]), float(frame.under_load_s[line])
    yield line_of(
        f"excess {text.milliseconds(float(found.excess[line]))} ms on average, change of p95 {text.change(change)} ms, "
        f"under load {text.change(load)} ms"
    )
    yield []
    bars = max(min(_MAX_BARS, height - _LINES_WITHOUT_BARS), _MAX_BARS // 2)
    yield from _histogram(frame.rtts, line, width, bars, glyphs)
    yield []
    yield from _methods(frame, line, glyphs)
    yield []
    yield from _history(update, line, width, glyphs)
    yield []
    yield from _traffic(frame, line)
    yield []
    yield from _other_sides(frame, network, view)


def _title(network: NetworkLine, view: View) -> str:
    place = [f"side {network.side}" if network.side else "", f"interface {view.interface(network)}"]
    return ", ".join(filter(None, [view.label(network), view.system(network), network.country, *place]))


def _histogram(rtts: LineRtts, line: int, width: int, bars: int, glyphs: Glyphs) -> Iterator[Line]:
    first, counts = rtts.buckets.run(line)
    if not counts.sum():
        yield line_of("No RTT in this window.")
        return
    times_s = np.exp2((first + np.arange(len(counts)) + 0.5) / 2.0 ** int(rtts.scales[line]))
    used = np.flatnonzero(counts)
    low, high = times_s[used[0]], times_s[used[-1]] * 1.0001
    bars = min(bars, len(used))
    edges = np.geomspace(low, max(high, low * 1.01), bars + 1)
    values, _ = np.histogram(times_s, edges, weights=counts)
    yield line_of("RTT ms           samples", BOLD)
    for place, number in enumerate(values.tolist()):
        name = f"{text.milliseconds(edges[place])}-{text.milliseconds(edges[place + 1])}"
        bar = glyphs.bar * math.ceil(number / values.max() * max(width - 34, 10))
        yield line_of(f"{name:>15} {number:>8,.0f}  {bar}")


def _methods(frame: Frame, line: int, glyphs: Glyphs) -> Iterator[Line]:
    axis = axis_of(frame.rtts, line)
    yield line_of(f"{'method':15} {'n':>7} {'min':>7} {'p50':>7} {'p95':>7} {'max':>7}  {_ends(axis)}", BOLD)
    for method in frame.total.methods:
        rtts = frame.total.rtts([method])
        number = int(rtts.counts[line])
        if number:
            p50, p95 = (float(each[line]) for each in rtts.quantiles(0.5, 0.95))
            cells = [rtts.min_ns[line] / 1e9, p50, p95, rtts.max_ns[line] / 1e9]
            shown = " ".join(f"{text.milliseconds(each):>7}" for each in cells)
            strip = glyphs.strip(strip_values(rtts, line, axis, 20))
            yield line_of(f"{method or 'all':15} {text.count(number):>7} {shown}  {strip}")


def _ends(axis: Axis) -> str:
    return f"{text.milliseconds(axis.low_s)} to {text.milliseconds(axis.high_s)} ms"


def _history(update: Update, line: int, width: int, glyphs: Glyphs) -> Iterator[Line]:
    timeline = update.timeline
    if timeline is None or not len(timeline.begins_ns) or line >= timeline.p50.shape[1]:
        return
    cells = max(width - 30, 10)
    columns = timeline.columns(cells)
    begin, end = timeline.ends()
    yield line_of(f"{'session':9} {begin}{end.rjust(cells - len(begin))}  maximum", BOLD)

    def row(name: str, values: Floats, shown: str) -> Line:
        found = np.where(columns >= 0, values[columns], np.nan)
        return line_of(f"{name:9} {glyphs.strip(found)}  {shown}")

    with np.errstate(invalid="ignore"):
        for name, table in (("p50 ms", timeline.p50), ("p95 ms", timeline.p95)):
            values = table[:, line]
            highest = float(np.nanmax(values)) if not np.isnan(values).all() else math.nan
            yield row(name, values, text.milliseconds(highest))
        bits = timeline.bits[:, line]
        yield row("Mbit/s", bits, text.megabits(float(np.nanmax(bits, initial=0))))


def _traffic(frame: Frame, line: int) -> Iterator[Line]:
    found, total = frame.statistics, frame.total
    yield line_of(f"{'':22} {'from':>10} {'to':>10}", BOLD)

    def both(name: str, values: tuple[str, str]) -> Line:
        return line_of(f"{name:22} {values[0]:>10} {values[1]:>10}")

    def counted(metric: str) -> tuple[str, str]:
        sums = [total.sum(metric, direction=way) for way in ("from", "to")]
        shown = [text.UNKNOWN if each is None else text.count(float(each[line])) for each in sums]
        return shown[0], shown[1]

    yield both("Mbit/s", (text.megabits(float(found.bits_from[line])), text.megabits(float(found.bits_to[line]))))
    yield both("packets", counted(metric_table.SUBNET_PACKETS.name))
    yield both("loss %", (text.percent(float(found.loss_from[line])), text.percent(float(found.loss_to[line]))))
    yield both("retransmitted", counted(metric_table.RETRANSMITTED.name))
    yield both("out of order", counted(metric_table.OUT_OF_ORDER.name))
    yield both("window of 0", counted(metric_table.ZERO_WINDOW.name))
    yield both("ECN CE %", (text.percent(float(found.ce_from[line])), text.percent(float(found.ce_to[line]))))
    yield line_of(
        f"TCP with timestamps {text.percent(float(found.coverage[line]))} %, active flows "
        f"{text.count(float(found.flows[line]))}"
    )
    yield from _flows(frame, line)


def _flows(frame: Frame, line: int) -> Iterator[Line]:
    for what, metric, key, attribute in (
        ("opened", metric_table.OPENED, "opening", semconv.FLOW_OPENING),
        ("closed", metric_table.CLOSED, "closing", semconv.FLOW_CLOSING),
    ):
        parts = []
        for value in semconv.ATTRIBUTES[attribute].values:
            counts = frame.total.sum(metric.name, **{key: value})
            if counts is not None and counts[line]:
                parts.append(f"by {value} {text.count(float(counts[line]))}")
        yield line_of(f"flows {what}: {', '.join(parts) or 'none'}")


def _other_sides(frame: Frame, network: NetworkLine, view: View) -> Iterator[Line]:
    """Yields a line for each side and interface of the network, if there are several."""
    place = network._replace(side="", interface="")
    same = [at for at, each in enumerate(frame.lines) if each._replace(side="", interface="") == place]
    if len(same) < 2:
        return
    found = frame.statistics
    yield line_of("The same network on each side and at each interface", BOLD)
    for at in same:
        each = frame.lines[at]
        p50, p95 = (text.milliseconds(float(values[at])) for values in (found.p50, found.p95))
        yield line_of(
            f"  {each.side:9} {view.interface(each):12} p50 {p50:>7} p95 {p95:>7} "
            f"n {text.count(float(found.samples[at])):>7} "
            f"Mbit/s {text.megabits(float(found.bits_from[at] + found.bits_to[at])):>7}"
        )
