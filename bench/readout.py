# SPDX-License-Identifier: Apache-2.0
"""Measures the time and memory of a reading. A reading copies the kernel's counts into arrays, and adds the counts of
all CPUs.

The maps are filled (fill_maps.py), and the flow table has an entry for each subnet. Each number of subnets is measured
in its own process. Three kinds of readings are measured: the first reading, readings in which every subnet has new
RTTs, and readings in which no subnet has new RTTs. The times are medians of several readings, except the time of the
first reading.
"""

import statistics

import numpy as np

from bench import fill_maps, fresh_process
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector

_SIZES = (1_000, 10_000, 16_384, 50_000, 100_000)
_READINGS = 7


def measure(subnets: int) -> dict[str, float]:
    """Returns the time in ms and the memory in MB of each kind of reading."""
    with EppingCollector(fill_maps.config_for(subnets)) as collector:
        fill_maps.prepare(collector, subnets)
        reader = collector.reader()
        with fresh_process.measure_usage() as first:
            reading = reader.read()
        assert np.count_nonzero(reading.answered) >= fill_maps.ENOUGH * subnets
        quiet, busy = [], []
        for _ in range(_READINGS):
            with fresh_process.measure_usage() as usage:
                reader.read()
            quiet.append(usage)
            fill_maps.add_rtts(collector.program.maps)
            with fresh_process.measure_usage() as usage:
                reader.read()
            busy.append(usage)
    return {
        "first_ms": first.wall_s * 1e3,
        "first_mb": first.peak_mb,
        "busy_ms": statistics.median(usage.wall_s for usage in busy) * 1e3,
        "busy_cpu_ms": statistics.median(usage.cpu_s for usage in busy) * 1e3,
        "busy_mb": max(usage.peak_mb for usage in busy),
        "quiet_ms": statistics.median(usage.wall_s for usage in quiet) * 1e3,
    }


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all numbers of subnets. Other programs are not measured."""
    columns = [Heading("subnets", ",d"), Heading("all subnets changed, ms", ".1f"), Heading("CPU ms", ".1f")]
    columns += [
        Heading("added MB", ".1f"),
        Heading("no subnet changed, ms", ".1f"),
        Heading("first reading, ms", ".1f"),
    ]
    table = Table("Reading the maps", [*columns, Heading("first reading, added MB", ".1f")])
    figures = {}
    for subnets in (100,) if tiny else _SIZES:
        progress(f"readout: {subnets:,} subnets")
        found = fresh_process.call(measure, subnets=subnets)
        names = ("busy_ms", "busy_cpu_ms", "busy_mb", "quiet_ms", "first_ms", "first_mb")
        table.add(subnets, *(found[name] for name in names))
        figures[f"readout.{subnets}_ms"] = found["busy_ms"]
    return Result([table], figures)
