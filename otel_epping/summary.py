# SPDX-License-Identifier: Apache-2.0
"""A reading as text: the table of subnets, and below it what isn't in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from otel_epping import conventions, histogram
from otel_epping.kernel import buckets
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reader import OVERFLOW_SLOT, Reading
from otel_epping.subnets import subnet_of

_QUANTILES = (0.5, 0.9, 0.99)
_TIMES = ("min ms", *(f"p{100 * q:.0f} ms" for q in _QUANTILES), "max ms")
_HEADINGS = ("subnet", "method", "RTTs", *_TIMES, "packets", "bytes")
_LEFT_COLUMNS = 2
_BEYOND_LIMIT = "all others"
# How an RTT that was begun can end: fields of the program's struct interface_counters, without `rtt_`.
_ENDS = ("measured", "expired", "superseded", "repeated", "abandoned")


@dataclass
class _Subnet:
    """What was counted for a subnet: the reading's rows with RTTs, by method, and packets and bytes from and to it."""

    rows: dict[int, int] = field(default_factory=dict)
    packets: int = 0
    bytes: int = 0


def _subnets(reading: Reading, config: KernelConfig) -> dict[str, _Subnet]:
    found: dict[str, _Subnet] = {}
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
        entry = found.setdefault(str(subnet.network) if subnet else _BEYOND_LIMIT, _Subnet())
        entry.packets += packets
        entry.bytes += size
        if rtts:
            entry.rows[subnet.method if subnet else len(METHODS)] = row
    return found


def _times(reading: Reading, row: int, scale: int) -> list[str]:
    """How many RTTs a row has, and their least, quantiles and greatest in ms."""
    first, run = reading.buckets.run(row)
    counts = histogram.trim(run, buckets.first_index(scale) + first, scale)
    least, greatest = reading.least_ns[row] / 1e9, reading.greatest_ns[row] / 1e9
    quantiles = [histogram.quantile(counts, q, least, greatest) for q in _QUANTILES]
    return [f"{counts.counts.sum():,}", *(f"{each * 1e3:.3f}" for each in (least, *quantiles, greatest))]


def _lines(reading: Reading, config: KernelConfig) -> Iterator[list[str]]:
    """A line for each subnet and method, the busiest subnets first."""
    nothing = ["-", "0", *("" for _ in _TIMES)]
    for name, subnet in sorted(_subnets(reading, config).items(), key=lambda entry: (-entry[1].packets, entry[0])):
        first = [name, f"{subnet.packets:,}", f"{subnet.bytes:,}"]
        for method, row in sorted(subnet.rows.items()):
            label = METHODS[method].name if method < len(METHODS) else "all"
            yield [first[0], label, *_times(reading, row, config.scale), *first[1:]]
            first = [""] * len(first)  # said once
        if not subnet.rows:
            yield [first[0], *nothing, *first[1:]]


def table(reading: Reading, config: KernelConfig) -> str:
    """The table of subnets. Packets and bytes are those from and to a subnet, by whatever method it was measured."""
    lines = [list(_HEADINGS), *_lines(reading, config)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < _LEFT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def packets(reading: Reading) -> dict[str, int]:
    """Packets of all interfaces by kind, in the order of conventions.PACKET_KINDS."""
    counts = sum(reading.interfaces[way]["packets"].sum(axis=0) for way in ("received", "transmitted"))
    return dict(zip(conventions.PACKET_KINDS, np.asarray(counts).tolist(), strict=True))


def account(reading: Reading, waiting: int) -> dict[str, int]:
    """What became of the RTTs that were begun, which is the first entry; the others add up to it.

    `waiting` is how many wait still. What is missing then was pushed out of the tables of flows and questions.
    """
    counts = {outcome: int(reading.interfaces[f"rtt_{outcome}"].sum()) for outcome in ("begun", *_ENDS)}
    lost = counts["begun"] - sum(counts[end] for end in _ENDS) - waiting
    return counts | {"still waiting": waiting, "pushed out": lost}


def clamped(reading: Reading) -> int:
    """RTTs that were measured, and counted as the least or the greatest one of the histograms."""
    return int(reading.interfaces["rtt_clamped"].sum())


def not_begun(reading: Reading) -> int:
    """RTT samples not started: MAX_OUTSTANDING of the flow's direction were waiting already (bpf/flow_maps.h)."""
    return int(reading.interfaces["rtt_not_begun"].sum())


def timestamp_faults(reading: Reading) -> dict[str, int]:
    """Directions of TCP flows that sequence numbers timed from then on, by what was wrong with their timestamps."""
    counts: list[int] = reading.interfaces["timestamp_fault"].sum(axis=0).tolist()
    return dict(zip(conventions.TIMESTAMP_FAULTS, counts, strict=True))


def duplicates(reading: Reading) -> int:
    """Packets that were seen before on their way."""
    return int(reading.interfaces["duplicates"].sum())


def share_without_timestamps(reading: Reading) -> float:
    """The share of TCP packets that have no timestamp; 0 if there is no TCP."""
    by_class: list[int] = reading.counters["classes"]["from"]["packets"].sum(axis=0).tolist()
    counts = dict(zip(conventions.TRAFFIC_CLASSES, by_class, strict=True))
    return counts["tcp_other"] / max(1, counts["tcp_other"] + counts["tcp_timestamp"])
