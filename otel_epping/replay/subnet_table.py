# SPDX-License-Identifier: Apache-2.0
"""Formats the table of subnets that `replay` prints."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from otel_epping.kernel import buckets
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT, Reading, RttTable, has_owner
from otel_epping.networks.pseudonyms import Show, unchanged
from otel_epping.series import histogram
from otel_epping.series.subnet import subnet_of

_QUANTILES = (0.5, 0.9, 0.99)
_TIMES = ("min ms", *(f"p{100 * q:.0f} ms" for q in _QUANTILES), "max ms")
_HEADINGS = ("subnet", "method", "RTTs", *_TIMES, "packets", "bytes")
_LEFT_COLUMNS = 2
_OVERFLOW = "all others"


@dataclass
class _SubnetCounts:
    """The counts of a subnet.

    histograms  maps each method with RTTs to a histogram of the reading. The overflow point has one histogram for all
                methods, with the key len(METHODS)
    packets     number of packets from and to the subnet
    bytes       number of bytes from and to the subnet
    """

    histograms: dict[int, int] = field(default_factory=dict)
    packets: int = 0
    bytes: int = 0


def _names(reading: Reading, config: EppingConfig, show: Show) -> dict[int, str]:
    """Returns the name of the table line that shows the counts of each row.

    All subnets that have not answered share one line.
    """
    is_newcomer = has_owner(reading.generation) & ~reading.answered
    is_newcomer[UNANSWERED_SLOT] = True
    unanswered = f"never answered ({reading.unanswered:,} subnet{'s' * (reading.unanswered != 1)})"
    names = dict.fromkeys(np.flatnonzero(is_newcomer).tolist(), unanswered)
    names[OVERFLOW_SLOT] = _OVERFLOW
    for row in np.flatnonzero(has_owner(reading.generation) & reading.answered).tolist():
        if subnet := subnet_of(reading, row, config):
            names[row] = show("subnet", str(subnet.network))
    return names


def _counts_by_name(reading: Reading, config: EppingConfig, show: Show) -> dict[str, _SubnetCounts]:
    found: dict[str, _SubnetCounts] = {}
    names, classes, rtts = _names(reading, config, show), reading.counters["classes"], reading.rtts
    packets, sizes = (
        (classes["from"][unit].sum(axis=1) + classes["to"][unit].sum(axis=1)).tolist() for unit in ("packets", "bytes")
    )
    for row, name in names.items():
        if packets[row]:
            entry = found.setdefault(name, _SubnetCounts())
            entry.packets += packets[row]
            entry.bytes += sizes[row]
    for histogram_number in np.flatnonzero(rtts.counts.is_counted()).tolist():
        row = int(rtts.rows[histogram_number])
        if row in names:
            method = len(METHODS) if row == OVERFLOW_SLOT else int(rtts.methods[histogram_number])
            found.setdefault(names[row], _SubnetCounts()).histograms[method] = histogram_number
    return found


def _times(rtts: RttTable, number: int, scale: int) -> list[str]:
    """Returns the cells of a histogram: the number of RTTs, and the minimum, quantiles and maximum in ms."""
    first, run = rtts.buckets.run(number)
    counts = histogram.trim(run, buckets.first_index(scale) + first, scale)
    minimum_s, maximum_s = rtts.min_ns[number] / 1e9, rtts.max_ns[number] / 1e9
    quantiles = [histogram.quantile(counts, q, minimum_s, maximum_s) for q in _QUANTILES]
    return [f"{counts.counts.sum():,}", *(f"{each * 1e3:.3f}" for each in (minimum_s, *quantiles, maximum_s))]


def _lines(reading: Reading, config: EppingConfig, show: Show) -> Iterator[list[str]]:
    """Yields the cells of each line of the table.

    The table has one line per subnet and method, and one line for all subnets that have not answered. The lines are
    sorted by the number of packets of the subnet, in descending order.
    """
    no_rtts = ["-", "0", *("" for _ in _TIMES)]
    for name, subnet in sorted(
        _counts_by_name(reading, config, show).items(), key=lambda entry: (-entry[1].packets, entry[0])
    ):
        first = [name, f"{subnet.packets:,}", f"{subnet.bytes:,}"]
        for method, number in sorted(subnet.histograms.items()):
            label = METHODS[method].name if method < len(METHODS) else "all"
            yield [first[0], label, *_times(reading.rtts, number, config.scale), *first[1:]]
            first = [""] * len(first)  # name, packets and bytes are only in the first line of a subnet
        if not subnet.histograms:
            yield [first[0], *no_rtts, *first[1:]]


def table(reading: Reading, config: EppingConfig, show: Show = unchanged) -> str:
    """Returns the table of subnets as text. The packets and bytes of a subnet are sums of both directions.

    `show` returns the text to print for a subnet.
    """
    lines = [list(_HEADINGS), *_lines(reading, config, show)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < _LEFT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
