# SPDX-License-Identifier: Apache-2.0
"""Measures the kernel memory of the maps (memlock in /proc/PID/fdinfo) and the memory of the loader.

The program is loaded with default settings for 1, 2 and 64 CPUs. The number of CPUs is a constant in the compiled
program. So the maps are as large as on a machine with this number of CPUs. For an LRU hash, the kernel adds a few kB
for each CPU of the machine on which the benchmark runs.

The loader is a short-lived process that loads LLVM. agent_usage.py measures the memory of the agent.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench import fresh_process
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig

_CPUS = (1, 2, 64)
_MIB = 2**20
_TOTAL = "all maps"


@dataclass(frozen=True)
class _Machine(EppingConfig):
    """The default settings on a machine with `machine_cpus` CPUs."""

    machine_cpus: int = 1

    def defines(self) -> dict[str, int | str]:
        return super().defines() | {"CPUS": self.machine_cpus}


def measure(cpus: int) -> dict[str, Any]:
    """Returns the size of each map in bytes, and the peak of the loader's memory in MB."""
    with EppingCollector(_Machine(machine_cpus=cpus)) as collector:
        return {"maps": collector.kernel_bytes, "loader_mb": fresh_process.peak_of_children_mb()}


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all maps for each number of CPUs. Other programs are not measured."""
    counts = _CPUS[:2] if tiny else _CPUS
    progress(f"memory: maps for {', '.join(map(str, counts))} CPUs")
    with ThreadPoolExecutor() as pool:
        found = dict(zip(counts, pool.map(lambda cpus: fresh_process.call(measure, cpus=cpus), counts), strict=True))
    sizes = {cpus: found[cpus]["maps"] | {_TOTAL: sum(found[cpus]["maps"].values())} for cpus in counts}
    plural = [f"{cpus} CPU{'s' * (cpus > 1)}, MiB" for cpus in counts]
    table = Table("Kernel memory at the defaults", [Heading("map"), *(Heading(heading, ".2f") for heading in plural)])
    for name in sorted(sizes[1], key=lambda name: (name == _TOTAL, -sizes[1][name])):
        table.add(name, *(sizes[cpus][name] / _MIB for cpus in counts))
    table.note = f"The loader runs for about a second and needs up to {found[1]['loader_mb']:.0f} MB."
    one, two = sizes[1][_TOTAL] / _MIB, sizes[2][_TOTAL] / _MIB
    return Result([table], {"memory.per_cpu_mib": two - one, "memory.base_mib": one - (two - one)})
