# SPDX-License-Identifier: Apache-2.0
"""Formats the table of subnets that `replay` prints."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from otel_epping.kernel import buckets
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reading import OVERFLOW_SLOT, Reading
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

    rows     maps each method with RTTs to a row of the reading. The overflow point has one row for all methods, with
             the key len(METHODS).
    packets  number of packets from and to the subnet
    bytes    number of bytes from and to the subnet
    """

    rows: dict[int, int] = field(default_factory=dict)
    packets: int = 0
    bytes: int = 0


def _counts_by_subnet(reading: Reading, config: EppingConfig) -> dict[str, _SubnetCounts]:
    found: dict[str, _SubnetCounts] = {}
    counters = reading.counters
    packet_counts, sizes = (
        (counters["classes"]["from"][unit].sum(axis=1) + counters["classes"]["to"][unit].sum(axis=1)).tolist()
        for unit in ("packets", "bytes")
    )
    has_rtts = (reading.buckets.totals() != 0).tolist()
    for row, (packets, size, rtts) in enumerate(zip(packet_counts, sizes, has_rtts, strict=True)):
        subnet = subnet_of(reading, row, config)
        if subnet is None and row != OVERFLOW_SLOT:
            continue
        if not packets and not rtts:
            continue
        entry = found.setdefault(str(subnet.network) if subnet else _OVERFLOW, _SubnetCounts())
        entry.packets += packets
        entry.bytes += size
        if rtts:
            entry.rows[subnet.method if subnet else len(METHODS)] = row
    return found


def _times(reading: Reading, row: int, scale: int) -> list[str]:
    """Returns the RTT cells of a table row: the number of RTTs, and their minimum, quantiles and maximum in ms."""
    first, run = reading.buckets.run(row)
    counts = histogram.trim(run, buckets.first_index(scale) + first, scale)
    minimum_s, maximum_s = reading.min_ns[row] / 1e9, reading.max_ns[row] / 1e9
    quantiles = [histogram.quantile(counts, q, minimum_s, maximum_s) for q in _QUANTILES]
    return [f"{counts.counts.sum():,}", *(f"{each * 1e3:.3f}" for each in (minimum_s, *quantiles, maximum_s))]


def _lines(reading: Reading, config: EppingConfig) -> Iterator[list[str]]:
    """Yields the cells of each line of the table.

    The table has one line per subnet and method. The subnets are sorted by the number of packets, in descending order.
    """
    no_rtts = ["-", "0", *("" for _ in _TIMES)]
    for name, subnet in sorted(
        _counts_by_subnet(reading, config).items(), key=lambda entry: (-entry[1].packets, entry[0])
    ):
        first = [name, f"{subnet.packets:,}", f"{subnet.bytes:,}"]
        for method, row in sorted(subnet.rows.items()):
            label = METHODS[method].name if method < len(METHODS) else "all"
            yield [first[0], label, *_times(reading, row, config.scale), *first[1:]]
            first = [""] * len(first)  # name, packets and bytes are only in the first line of a subnet
        if not subnet.rows:
            yield [first[0], *no_rtts, *first[1:]]


def table(reading: Reading, config: EppingConfig) -> str:
    """Returns the table of subnets as text. The packets and bytes of a subnet are the sum of both directions."""
    lines = [list(_HEADINGS), *_lines(reading, config)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < _LEFT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
