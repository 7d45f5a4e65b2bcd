# SPDX-License-Identifier: Apache-2.0
"""Formats the table of networks that `replay` prints.

The lines of the table are the series that an export without limits would have (series/cardinality.py). So the table and
the export always agree.
"""

from collections.abc import Iterator

import numpy as np

from otel_epping.kernel import buckets
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT, Reading, RttTable
from otel_epping.networks.pseudonyms import Show, unchanged
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.columns import Labels
from otel_epping.otel.series_groups import series_groups
from otel_epping.series import histogram
from otel_epping.series.cardinality import CardinalityLimiter
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET, Grouping
from otel_epping.series.limits import Limits

_QUANTILES = (0.5, 0.9, 0.99)
_TIMES = ("min ms", *(f"p{100 * q:.0f} ms" for q in _QUANTILES), "max ms")
_OVERFLOW = "all others"
_NONE = "-"
# All attributes of RTTs that identify a network. In a capture, all packets have the same interface and side.
_KEYS = tuple(key for key in metric_table.RTT.keys if key not in (semconv.NETWORK_TRANSPORT, semconv.INTERFACE))
_EXPORTED = {metric_table.RTT: _KEYS, metric_table.SUBNET_PACKETS: _KEYS, metric_table.SUBNET_BYTES: _KEYS}


class _Columns:
    """The columns that identify a line: the network or the group and, with databases, the AS and the country."""

    def __init__(self, grouping: Grouping, *, has_names: bool) -> None:
        self._group_by = grouping.group_by
        self._has_places = bool(grouping.databases) and self._group_by in (SUBNET, NAME)
        first = "network" if self._group_by == SUBNET and has_names else self._group_by
        self.headings = ["AS" if first == ASN else first, *(["AS", "country"] if self._has_places else [])]

    def cells(self, labels: Labels, show: Show = unchanged) -> list[str]:
        """Returns the cells of a series with these attributes. `show` returns the text for a subnet or a name."""

        def shown(kind: str, key: str) -> str:
            return show(kind, str(labels[key])) if key in labels else ""

        network, subnet = shown("network", semconv.NETWORK_NAME), shown("subnet", semconv.SUBNET)
        number, organization = shown("AS", semconv.AS_NUMBER), shown("organization", semconv.AS_ORGANIZATION)
        autonomous_system = f"{number} {organization}".strip()
        country = str(labels.get(semconv.COUNTRY, ""))
        named = {SUBNET: network or subnet, NAME: network, ASN: autonomous_system, COUNTRY: country}
        if self._group_by in named:
            first = named[self._group_by]
        else:
            first = shown(self._group_by, f"{semconv.NETWORK_TAG}.{self._group_by}")
        places = [autonomous_system or _NONE, country or _NONE] if self._has_places else []
        return [first or f"no {self.headings[0]}", *places]

    def shared(self, text: str) -> list[str]:
        """Returns the cells of a line that many networks share."""
        return [text, *[_NONE] * (len(self.headings) - 1)]


def _times(rtts: RttTable, number: int, scale: int) -> list[str]:
    """Returns the cells of a histogram: the number of RTTs, and the minimum, quantiles and maximum in ms."""
    first, run = rtts.buckets.run(number)
    counts = histogram.trim(run, buckets.first_index(scale) + first, scale)
    minimum_s, maximum_s = rtts.min_ns[number] / 1e9, rtts.max_ns[number] / 1e9
    quantiles = [histogram.quantile(counts, q, minimum_s, maximum_s) for q in _QUANTILES]
    return [f"{counts.counts.sum():,}", *(f"{each * 1e3:.3f}" for each in (minimum_s, *quantiles, maximum_s))]


def _lines(
    reading: Reading, reader: Reader, collector: EppingCollector, grouping: Grouping, columns: _Columns, show: Show
) -> Iterator[list[str]]:
    """Yields the cells of each line of the table.

    The table has one line for each method of each network or group, and one line for all subnets that have not
    answered. The lines are sorted by the number of packets, in descending order, and then by the texts without
    pseudonyms.
    """
    config = collector.config
    (group,) = series_groups(_EXPORTED, reader.counters_dtype)
    limiter = CardinalityLimiter(config, reader, collector.started_ns, [group.projection], grouping)
    (series,) = limiter.limit(reading, Limits(max_series=None, roll_up=False), collector.networks)
    packets, octets = (
        series.counts.counters[:, group.columns.by_metric[metric]].sum(axis=1).tolist()
        for metric in (metric_table.SUBNET_PACKETS, metric_table.SUBNET_BYTES)
    )
    histograms: dict[int, list[int]] = {}
    for number in np.flatnonzero(series.rtts.counts.is_counted()).tolist():
        histograms.setdefault(int(series.rtts.rows[number]), []).append(number)
    plural = "s" * (reading.unanswered != 1)
    shared = {OVERFLOW_SLOT: _OVERFLOW, UNANSWERED_SLOT: f"never answered ({reading.unanswered:,} subnet{plural})"}
    rows = [row for row in range(len(packets)) if packets[row] or row in histograms]

    def first_cells(row: int, show: Show = unchanged) -> list[str]:
        return columns.shared(shared[row]) if row in shared else columns.cells(group.labels(series, row, config), show)

    for row in sorted(rows, key=lambda row: (-packets[row], first_cells(row))):
        cells, sums = first_cells(row, show), [f"{packets[row]:,}", f"{octets[row]:,}"]
        for number in sorted(histograms.get(row, []), key=lambda number: int(series.rtts.methods[number])):
            label = "all" if row == OVERFLOW_SLOT else METHODS[series.rtts.methods[number]].name
            yield [*cells, label, *_times(series.rtts, number, config.scale), *sums]
            # The network, its packets and its bytes are only in its first line.
            cells, sums = [""] * len(cells), [""] * len(sums)
        if row not in histograms:
            yield [*cells, _NONE, "0", *("" for _ in _TIMES), *sums]


def table(
    reading: Reading, reader: Reader, collector: EppingCollector, grouping: Grouping, show: Show = unchanged
) -> str:
    """Returns the table as text. `reader` has read the counts of the collector.

    The packets and bytes of a network are sums of both directions. `show` returns the text to print for a subnet or a
    name.
    """
    columns = _Columns(grouping, has_names=collector.config.named_networks)
    headings = [*columns.headings, "method", "RTTs", *_TIMES, "packets", "bytes"]
    left_columns = len(columns.headings) + 1
    lines = [headings, *_lines(reading, reader, collector, grouping, columns, show)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
