# SPDX-License-Identifier: Apache-2.0
"""The columns of the table of networks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.top import text
from otel_epping.top.frame import Frame

Values = Callable[[Frame], Floats]


@dataclass(frozen=True)
class TableColumn:
    """A column of numbers.

    key       the name of the column in filters, in the option --sort, and in CSV and JSON
    heading   the heading
    width     the width in characters
    help      the description of the column
    values    returns the value of each line of a frame, in the unit `unit`
    show      returns the text of a value
    unit      the factor between the unit of filters, CSV and JSON, and the unit of `values`
    is_time   true for RTTs and differences of RTTs. If the table is sorted by such a column, lines with few samples
              come last
    """

    key: str
    heading: str
    width: int
    help: str
    values: Values
    show: Callable[[float], str]
    unit: float = 1.0
    is_time: bool = False


def _time(key: str, heading: str, width: int, help: str, values: Values) -> TableColumn:
    return TableColumn(key, heading, width, help, values, text.milliseconds, 1e3, is_time=True)


def _share(key: str, heading: str, width: int, help: str, values: Values) -> TableColumn:
    return TableColumn(key, heading, width, help, values, text.percent, 100.0)


def _rate(key: str, heading: str, width: int, help: str, values: Values) -> TableColumn:
    return TableColumn(key, heading, width, help, values, text.megabits, 1e-6)


COLUMNS = (
    _share(
        "impact",
        "impact",
        6,
        "Share of the impact of all networks, in %. Impact is traffic x (mean RTT - minimum RTT): the "
        "delay of the network's traffic beyond the minimum RTT. By default, the table is sorted by impact",
        lambda frame: frame.impact_share,
    ),
    _time("p50", "p50 ms", 6, "Median RTT, ms", lambda frame: frame.statistics.p50),
    _time("p95", "p95 ms", 6, "95th percentile of the RTTs, ms", lambda frame: frame.statistics.p95),
    TableColumn(
        "change",
        "change",
        7,
        "p95 minus p95 of the baseline, ms. The baseline is the first minute, until b sets another baseline",
        lambda frame: frame.change_s,
        text.change,
        1e3,
        is_time=True,
    ),
    TableColumn(
        "n",
        "n",
        6,
        "Number of RTT samples. Lines with fewer than 20 samples are dim, because the RTTs are uncertain",
        lambda frame: frame.statistics.samples.astype(np.float64),
        text.count,
    ),
    _rate(
        "mbit",
        "Mbit/s",
        6,
        "Traffic from and to the network, Mbit/s",
        lambda frame: frame.statistics.bits_from + frame.statistics.bits_to,
    ),
    _share(
        "loss",
        "loss%",
        5,
        "Retransmitted segments / TCP segments, from and to the network, %",
        lambda frame: frame.loss,
    ),
    _time(
        "min",
        "min",
        6,
        "Minimum RTT of the session, ms. The minimum RTT is approximately the RTT without queues",
        lambda frame: frame.statistics.minimum,
    ),
    _time("excess", "excess", 6, "Mean RTT - minimum RTT, ms", lambda frame: frame.statistics.excess),
    _time(
        "load",
        "load",
        6,
        "Latency under load, ms: p80 of the RTTs in the busiest 10 % of the periods - p80 of the RTTs in the quietest "
        "10 %. The value is known after 20 periods with traffic. A period is 1 s, 10 s or 1 min, or the time between "
        "two readings if this time is longer",
        lambda frame: frame.under_load_s,
    ),
    _share(
        "cover",
        "cover%",
        6,
        "Coverage: TCP packets with timestamps / TCP packets, %. Packets without timestamps give fewer RTTs",
        lambda frame: frame.statistics.coverage,
    ),
    TableColumn(
        "flows", "flows", 6, "Active TCP flows. Updated every 30 s", lambda frame: frame.statistics.flows, text.count
    ),
    _rate("from", "Mb/s<", 6, "Traffic from the network, Mbit/s", lambda frame: frame.statistics.bits_from),
    _rate("to", "Mb/s>", 6, "Traffic to the network, Mbit/s", lambda frame: frame.statistics.bits_to),
    _share("lossfrom", "loss<", 5, "Retransmitted segments from the network, %", lambda f: f.statistics.loss_from),
    _share("lossto", "loss>", 5, "Retransmitted segments to the network, %", lambda f: f.statistics.loss_to),
    _share(
        "ce",
        "CE%",
        5,
        "Packets marked as congested (ECN CE) / packets with ECN, the greater of both directions, %",
        lambda frame: np.fmax(frame.statistics.ce_from, frame.statistics.ce_to),
    ),
    _time("p99", "p99 ms", 6, "99th percentile of the RTTs, ms", lambda frame: frame.statistics.p99),
    _time("max", "max ms", 6, "Maximum RTT, ms", lambda frame: frame.statistics.maximum),
    TableColumn(
        "packets", "packets", 7, "Packets from and to the network", lambda f: f.statistics.packets, text.scaled
    ),
)

BY_KEY = {column.key: column for column in COLUMNS}
DEFAULT_SORT = "impact"

NETWORK_WIDTH = 20
STRIP_WIDTH = 12
_SIDE_WIDTH, _INTERFACE_WIDTH, _AS_WIDTH, _COUNTRY_WIDTH = 4, 8, 22, 2
# A terminal with fewer columns than _NARROW shows neither the side nor the interface.
_NARROW = 60
# The most important columns come first. A narrow terminal leaves out columns from the end of _NEEDED, but never p95 or
# the column by which the table is sorted.
_NEEDED = ("impact", "p50", "p95", "change", "n", "mbit")
_STRIP_AFTER = "mbit"


@dataclass(frozen=True)
class Layout:
    """The columns that fit into the terminal.

    labels   (field of Line, heading, width) for each column of text. The first column is the network
    columns  the columns of numbers
    strip    the width of the histogram strip; 0 if there are too few columns
    """

    labels: tuple[tuple[str, str, int], ...]
    columns: tuple[TableColumn, ...]
    strip: int


def layout(width: int, frame: Frame | None, sort: str) -> Layout:
    """Returns the columns for a terminal with `width` columns. The column by which the table is sorted is included."""
    lines = [line for line in frame.lines if line.is_network] if frame else []
    sides = len({line.side for line in lines}) > 1
    interfaces = len({line.interface for line in lines}) > 1
    is_narrow = width < _NARROW
    labels = [("label", "network", min(NETWORK_WIDTH, max(width - _NARROW // 3, 8)) if is_narrow else NETWORK_WIDTH)]
    if sides and not is_narrow:
        labels.append(("side", "side", _SIDE_WIDTH))
    if interfaces and not is_narrow:
        labels.append(("interface", "if", _INTERFACE_WIDTH))
    room = width - sum(each + 1 for _, _, each in labels)
    keys = list(_NEEDED)
    if sort in BY_KEY and sort not in keys:
        keys.insert(1, sort)
    while sum(BY_KEY[key].width + 1 for key in keys) > room and len(keys) > 2:
        keys.remove(next(key for key in reversed(keys) if key not in (sort, "p95")))
    room -= sum(BY_KEY[key].width + 1 for key in keys)
    strip = min(room - 1, STRIP_WIDTH)
    if strip < 6:
        strip = 0
    room -= strip + 1 if strip else 0
    for column in COLUMNS:
        if column.key not in keys and column.width + 1 <= room and len(keys) >= len(_NEEDED):
            keys.append(column.key)
            room -= column.width + 1
    has_as = any(line.as_number is not None for line in lines)
    if has_as and room > _AS_WIDTH:
        labels.append(("system", "AS", _AS_WIDTH))
        room -= _AS_WIDTH + 1
    if any(line.country for line in lines) and room > _COUNTRY_WIDTH:
        labels.append(("country", "cc", _COUNTRY_WIDTH))
        room -= _COUNTRY_WIDTH + 1
    wider = min(room, 24) if room > 0 else 0
    labels[0] = ("label", "network", labels[0][2] + wider)
    room -= wider
    strip += min(room, 20) if strip else 0
    return Layout(tuple(labels), tuple(BY_KEY[key] for key in sorted(keys, key=list(BY_KEY).index)), strip)
