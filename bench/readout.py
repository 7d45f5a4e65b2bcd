# SPDX-License-Identifier: Apache-2.0
"""A reading: the kernel's memory, added up over CPUs, as arrays of numbers.

The maps are filled (filled.py), and the table of flows has a flow for each subnet. Each size is measured in a process
of its own: the first reading, those of which every subnet has new RTTs, and one of which none has. Medians of some.
"""

import statistics

from bench import filled, isolated
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector

_SIZES = (1_000, 10_000, 16_384, 50_000, 100_000)
_READINGS = 7


def measure(subnets: int) -> dict[str, float]:
    """Milliseconds, and MB."""
    with EppingCollector(filled.room_for(subnets)) as collector:
        filled.prepare(collector, subnets)
        reader = collector.reader()
        with isolated.spending() as first:
            reading = reader.read()
        assert len(reading.slots) == subnets + 1
        quiet, busy = [], []
        for _ in range(_READINGS):
            with isolated.spending() as spent:
                reader.read()
            quiet.append(spent)
            filled.touch(collector.program.maps, subnets)
            with isolated.spending() as spent:
                reader.read()
            busy.append(spent)
    return {
        "first_ms": first.wall_s * 1e3,
        "first_mb": first.peak_mb,
        "busy_ms": statistics.median(spent.wall_s for spent in busy) * 1e3,
        "busy_cpu_ms": statistics.median(spent.cpu_s for spent in busy) * 1e3,
        "busy_mb": max(spent.peak_mb for spent in busy),
        "quiet_ms": statistics.median(spent.wall_s for spent in quiet) * 1e3,
    }


def run(others: list[Contender], tiny: bool = False) -> Result:
    """All sizes. Nobody is beside."""
    columns = [Column("subnets", ",d"), Column("all changed, ms", ".1f"), Column("CPU ms", ".1f")]
    columns += [Column("peak MB on top", ".1f"), Column("none changed, ms", ".1f"), Column("the first, ms", ".1f")]
    table = Table("A reading", [*columns, Column("and MB", ".1f")])
    figures = {}
    for subnets in (100,) if tiny else _SIZES:
        progress(f"readout: {subnets:,} subnets")
        found = isolated.call(measure, subnets=subnets)
        names = ("busy_ms", "busy_cpu_ms", "busy_mb", "quiet_ms", "first_ms", "first_mb")
        table.add(subnets, *(found[name] for name in names))
        figures[f"readout.{subnets}_ms"] = found["busy_ms"]
    return Result([table], figures)
