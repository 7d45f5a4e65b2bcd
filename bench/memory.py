# SPDX-License-Identifier: Apache-2.0
"""What the maps take in the kernel, by its own account (memlock of /proc/PID/fdinfo), and the loader's memory.

The program is loaded for 1, 2 and 64 CPUs, as it would be on a machine with so many: its rows per CPU are counted at
compile time. What the kernel itself adds for a CPU of an LRU hash, some kB, is that of this machine. At the defaults.

The loader is a process that brings LLVM, and ends; the agent's own memory is measured by bench/agent.py.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench import isolated
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig

_CPUS = (1, 2, 64)
_MIB = 2**20
_TOTAL = "all maps"


@dataclass(frozen=True)
class _Machine(EppingConfig):
    """The defaults, on a machine with so many CPUs."""

    machine_cpus: int = 1

    def defines(self) -> dict[str, int]:
        return super().defines() | {"CPUS": self.machine_cpus}


def measure(cpus: int) -> dict[str, Any]:
    """Bytes of each map; MB of the loader at its peak."""
    with EppingCollector(_Machine(machine_cpus=cpus)) as collector:
        return {"maps": collector.kernel_bytes, "loader_mb": isolated.peak_of_children_mb()}


def run(others: list[Contender], tiny: bool = False) -> Result:
    """All maps, at each number of CPUs. Nobody is beside."""
    counts = _CPUS[:2] if tiny else _CPUS
    progress(f"memory: at {', '.join(map(str, counts))} CPUs")
    with ThreadPoolExecutor() as pool:
        found = dict(zip(counts, pool.map(lambda cpus: isolated.call(measure, cpus=cpus), counts), strict=True))
    sizes = {cpus: found[cpus]["maps"] | {_TOTAL: sum(found[cpus]["maps"].values())} for cpus in counts}
    plural = [f"{cpus} CPU{'s' * (cpus > 1)}, MiB" for cpus in counts]
    table = Table("Kernel memory at the defaults", [Column("map"), *(Column(heading, ".2f") for heading in plural)])
    for name in sorted(sizes[1], key=lambda name: (name == _TOTAL, -sizes[1][name])):
        table.add(name, *(sizes[cpus][name] / _MIB for cpus in counts))
    table.note = f"The loader takes {found[1]['loader_mb']:.0f} MB for a second."
    one, two = sizes[1][_TOTAL] / _MIB, sizes[2][_TOTAL] / _MIB
    return Result([table], {"memory.per_cpu_mib": two - one, "memory.base_mib": one - (two - one)})
