# SPDX-License-Identifier: Apache-2.0
"""The pages next to the table: heat map, traffic features, health of the measurement, and help."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from rich.segment import Segment
from rich.style import Style

from otel_epping.kernel.arrays import Times
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.top import text
from otel_epping.top.columns import COLUMNS
from otel_epping.top.filter import METHOD_WORD, TEXT_WORDS
from otel_epping.top.frame import Frame
from otel_epping.top.measuring import Update
from otel_epping.top.text import Glyphs
from otel_epping.top.timeline import Timeline
from otel_epping.top.view import View, shown_lines

Line = list[Segment]

BOLD, PLAIN, DIM = Style(bold=True), Style(), Style(dim=True)
_LABEL_WIDTH = 24
_MAX_ROWS = 200
# The upper limits of the levels of the heat map: p95 - minimum RTT, in seconds. The last level has no upper limit.
LEVELS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
# The colours of viridis, as numbers in the palette of 256 colours. A light colour stands for a long delay.
_COLOURS = (25, 31, 37, 36, 35, 77, 149, 226)
_STYLES = tuple(Style(color=f"color({number})") for number in _COLOURS)


def line_of(words: str, style: Style = PLAIN) -> Line:
    """Returns a line of text in one style."""
    return [Segment(words, style)]


def paragraphs(texts: Sequence[str], width: int, style: Style = PLAIN, indent: str = "") -> Iterator[Line]:
    """Yields each text in one line, or in several lines if the text is longer than `width` columns."""
    for each in texts:
        yield from (line_of(indent + line, style) for line in text.wrapped(each, max(width - len(indent), 1)))


def heat_map(update: Update, view: View, width: int, glyphs: Glyphs) -> Iterator[Line]:
    """Yields a row for each network in the order of the table, and a column for each interval of time."""
    timeline, frame = update.timeline, update.frame
    if timeline is None or not len(timeline.begins_ns):
        yield line_of("The heat map appears after the first reading.")
        return
    cells = max(width - _LABEL_WIDTH - 1, 10)
    begin, end = timeline.ends()
    title = "p95 - minimum RTT"
    yield line_of(f"{glyphs.fit(title, _LABEL_WIDTH)} {begin}{end.rjust(cells - len(begin))}", BOLD)
    columns = timeline.columns(cells)
    yield _legend(glyphs)
    for line in shown_lines(frame, view)[:_MAX_ROWS].tolist():
        if frame.lines[line].is_network:
            label = glyphs.fit(view.label(frame.lines[line]), _LABEL_WIDTH)
            yield [Segment(label + " "), *_heat_row(timeline, frame, line, columns, glyphs)]


def _legend(glyphs: Glyphs) -> Line:
    names = [*(f"<{each * 1e3:g}" for each in LEVELS_S), f">={LEVELS_S[-1] * 1e3:g}"]
    levels = [Segment(f"{_character(level, glyphs) * 2} {name}  ", _STYLES[level]) for level, name in enumerate(names)]
    return [Segment("ms: ", BOLD), *levels]


def _character(level: int, glyphs: Glyphs) -> str:
    return glyphs.levels[1 + level * (len(glyphs.levels) - 2) // len(LEVELS_S)]


def _heat_row(timeline: Timeline, frame: Frame, line: int, columns: Times, glyphs: Glyphs) -> Iterator[Segment]:
    if line >= timeline.p95.shape[1]:
        return
    values = timeline.p95[:, line] - float(frame.statistics.minimum[line])
    levels = np.where(np.isnan(values), -1, np.searchsorted(LEVELS_S, values, side="right"))
    for level, cells in groupby(np.where(columns >= 0, levels[columns], -1).tolist()):
        width = len(list(cells))
        yield Segment(_character(level, glyphs) * width, _STYLES[level]) if level >= 0 else Segment(" " * width)


def traffic(update: Update, width: int, glyphs: Glyphs) -> Iterator[Line]:
    """Yields the features of the traffic of all networks: protocols, timestamps, ECN, losses and flows."""
    total = update.frame.total
    yield line_of(f"Features of the traffic on {update.name}", BOLD)

    def shares(title: str, parts: dict[str, float]) -> Iterator[Line]:
        whole = sum(parts.values())
        if not whole:
            return
        yield []
        yield line_of(f"{title}: {text.scaled(whole)}", BOLD)
        for name, number in parts.items():
            if number:
                bar = glyphs.bar * round(number / whole * max(width - 50, 10))
                share = text.percent(number / whole)
                yield line_of(f"  {glyphs.fit(name, 22)} {text.scaled(number):>7} {share:>5} %  {bar}")

    def sums(metric: str, key: str, values: Sequence[str], **attributes: str) -> dict[str, float]:
        found = {}
        for value in values:
            counts = total.sum(metric, **{key: value}, **attributes)
            found[value] = 0.0 if counts is None else float(counts.sum())
        return found

    kinds = {
        kind: total.agent_sum(metric_table.INTERFACE_PACKETS.name, kind=kind) or 0.0 for kind in semconv.PACKET_KINDS
    }
    yield from shares("packets on interfaces, by kind", kinds)
    classes = sums(metric_table.SUBNET_PACKETS.name, "traffic_class", semconv.TRAFFIC_CLASSES, direction="from")
    tcp = {name: number for name, number in classes.items() if name.startswith("tcp")}
    yield from shares("TCP packets, with and without timestamps", tcp)
    ecn = {
        name: total.agent_sum(metric_table.ECN_PACKETS.name, ecn=name) or 0.0
        for name in semconv.ATTRIBUTES[semconv.ECN].values
    }
    yield from shares("IP packets, by ECN code point", ecn)
    segments = sum(tcp.values())
    yield []
    yield line_of("TCP segments", BOLD)
    for name, metric in (
        ("retransmitted", metric_table.RETRANSMITTED),
        ("out of order", metric_table.OUT_OF_ORDER),
        ("with a window of 0", metric_table.ZERO_WINDOW),
    ):
        counts = total.sum(metric.name, direction="from")
        number = 0.0 if counts is None else float(counts.sum())
        share = text.percent(number / segments) if segments else text.UNKNOWN
        yield line_of(f"  {glyphs.fit(name, 22)} {text.scaled(number):>7} {share:>5} %")
    for title, metric, key, attribute in (
        ("TCP flows opened (at both ends)", metric_table.OPENED, "opening", semconv.FLOW_OPENING),
        ("TCP flows closed (at both ends)", metric_table.CLOSED, "closing", semconv.FLOW_CLOSING),
    ):
        yield from shares(title, sums(metric.name, key, tuple(semconv.ATTRIBUTES[attribute].values)))


def health(update: Update, messages: Sequence[str], width: int) -> Iterator[Line]:
    """Yields the faults, the limits and the losses of the measurement. `messages` are the latest log messages."""
    total = update.frame.total
    yield line_of("Faults", BOLD)
    yield from paragraphs(update.faults or ["none"], width, indent="  ")
    causes = [each for each in update.reasons if each not in update.faults]
    if causes:
        yield []
        yield line_of("Missing RTTs", BOLD)
        yield from paragraphs(causes, width, indent="  ")
    yield []
    yield line_of("RTT samples in the window", BOLD)
    for outcome, meaning in _OUTCOMES.items():
        number = total.agent_sum(metric_table.MEASUREMENTS.name, outcome=outcome) or 0
        yield line_of(f"  {outcome:12} {text.scaled(number):>7}  {meaning}")
    yield []
    yield line_of("Directions of flows whose TCP timestamps stopped working", BOLD)
    for fault in semconv.TIMESTAMP_FAULTS:
        number = total.agent_sum(metric_table.TIMESTAMPS_FAILED.name, fault=fault) or 0
        yield line_of(f"  {fault:12} {text.scaled(number):>7}")
    yield []
    yield line_of("Limits", BOLD)
    for title, used, limit in (
        ("slots of subnets", agent_metrics.SUBNET_USAGE, agent_metrics.SUBNET_LIMIT),
        ("TCP flows", agent_metrics.FLOW_USAGE, agent_metrics.FLOW_LIMIT),
    ):
        numbers = [total.agent_sum(each.name) or 0 for each in (used, limit)]
        share = text.percent(numbers[0] / numbers[1]) if numbers[1] else text.UNKNOWN
        yield line_of(f"  {title:20} {numbers[0]:>10,.0f} of {numbers[1]:,.0f} ({share} %)")
    evicted = total.agent_sum(agent_metrics.FLOW_EVICTED.name) or 0
    yield line_of(f"  {'flows evicted':20} {evicted:>10,.0f}")
    if update.is_live:
        yield []
        yield line_of("Interfaces: packets that otel-epping sees, and packets that the kernel counts", BOLD)
        yield from _interfaces(update)
        yield []
        spent, interval = f"{update.spent_s * 1e3:.0f} ms", text.duration(update.interval_s)
        yield line_of(f"A reading takes {spent} of CPU time. The time between two readings is {interval}.")
    for title, lines in (("Remarks", update.notes), ("Log", messages)):
        if lines:
            yield []
            yield line_of(title, BOLD)
            yield from paragraphs(lines, width, indent="  ")


_OUTCOMES = {
    "begun": "samples were started",
    "measured": "got a reply: each sample is an RTT",
    "expired": "got no reply in time",
    "superseded": "a later packet was answered first",
    "repeated": "the packet was retransmitted, so the reply is ambiguous",
    "abandoned": "the flow restarted or was evicted",
    "not_begun": "not started: four samples of the flow were pending",
}


def _interfaces(update: Update) -> Iterator[Line]:
    agent = update.frame.total.agent
    names = sorted({dict(key.attributes).get("interface", "") for key in agent} - {""})
    for name in names:
        parts = []
        for way in semconv.IO_DIRECTIONS:
            where = {"interface": name, "direction": way}
            seen = update.frame.total.agent_sum(metric_table.INTERFACE_PACKETS.name, **where) or 0
            parts.append(f"{way} {text.scaled(seen)}")
        attached = update.frame.total.agent_sum(metric_table.INTERFACE_ATTACHED.name, interface=name)
        yield line_of(f"  {name:16} {'attached' if attached else 'NOT ATTACHED':13} {', '.join(parts)}")


KEYS = (
    ("1 2 3 4", "networks, heat map, traffic, health"),
    ("arrows, j k, PgUp PgDn, Home End", "move"),
    ("Enter, click", "show the details of a network; Esc goes back"),
    ("s S", "sort by the next or the previous column; or click on a heading"),
    ("i", "invert the order"),
    ("/", "filter; Enter keeps the filter, Esc removes it"),
    ("g", "group: subnets, names, AS, countries, tags"),
    ("w", "window: 10 s, 1 min, 5 min, the whole session"),
    ("Space", "freeze and continue; with captures: play and pause"),
    ("b", "compare with the RTTs of this window from now on"),
    ("p", "show pseudonyms instead of names and addresses"),
    ("Left Right", "with captures: move the time slider"),
    ("r", "reset order, filter, group, window and freeze"),
    ("?", "this help"),
    ("q, Ctrl-C", "quit; Q quits and leaves the table on the screen"),
)


def help_page(width: int) -> Iterator[Line]:
    """Yields the help: keys, columns and filter words."""
    yield line_of("Keys", BOLD)
    for keys, meaning in KEYS:
        yield from _described(keys, meaning, width)
    yield []
    yield line_of("Columns, with the word for filters and order", BOLD)
    for column in COLUMNS:
        yield from _described(column.key, column.help, width)
    yield []
    yield line_of("Filter words; a network must match all of them", BOLD)
    for name, (meaning, _) in TEXT_WORDS.items():
        yield from _described(f"{name}:", meaning, width)
    yield from _described(f"{METHOD_WORD}:", "use only RTTs of this method", width)
    yield from _described("p95>100", "a column with > < >= <= or =", width)
    yield from _described("site:Berlin", "a tag of named networks", width)
    yield []
    yield line_of("Dim rows have fewer than 20 samples. Dim italic rows have no recent packet.", DIM)


def _described(word: str, meaning: str, width: int) -> Iterator[Line]:
    """Yields a word and its meaning. A long meaning is wrapped."""
    indent = 16
    lines = text.wrapped(meaning, max(width - indent - 1, 20))
    if len(word) >= indent - 2:
        yield line_of(f"  {word}")
        word = ""
    for number, part in enumerate(lines):
        yield line_of(f"  {word if number == 0 else '':{indent - 2}}{part}")
