# SPDX-License-Identifier: Apache-2.0
"""What must hold: each goal beside what was measured of it."""

from collections.abc import Mapping
from typing import NamedTuple

from bench.report import Column, Table

HOLDS, FAILS, NOT_MEASURED, NEEDS_BESIDE = "holds", "FAILS", "not measured", "needs BESIDE"


class Goal(NamedTuple):
    """A figure, and the most that it may be; `limit` may be the name of another figure."""

    what: str
    figure: str
    limit: float | str
    format: str
    beside: bool = False


GOALS = (
    Goal("data packet of a known flow, net, as a share of BESIDE's", "kernel.known_share", 0.30, ".2f", beside=True),
    Goal("mixed, 1,000 flows, 10 subnets, as a share of BESIDE's", "kernel.few_mixed_share", 0.35, ".2f", beside=True),
    Goal("mixed, 1,000 flows and subnets, the same", "kernel.some_mixed_share", 0.35, ".2f", beside=True),
    Goal("mixed, 60,000 flows as uneven as real ones, the same", "kernel.many_mixed_share", 0.35, ".2f", beside=True),
    Goal("mixed, 60,000 flows, all alike, the same", "kernel.many_alike_share", 0.35, ".2f", beside=True),
    Goal("growth from 1 to 60,000 flows, ns, as a share of the bare look-up's", "kernel.growth_share", 1, ".2f"),
    Goal("throughput lost, TCP, as a share of BESIDE's loss", "throughput.tcp_share", 0.35, ".2f", beside=True),
    Goal("throughput lost, UDP, as a share of BESIDE's loss", "throughput.udp_share", 0.35, ".2f", beside=True),
    Goal("read-out of 16,384 subnets, ms", "readout.16384_ms", 10, ".1f"),
    Goal("read-out of 100,000 subnets, ms", "readout.100000_ms", 60, ".1f"),
    Goal("build and encode 10,000 subnets, CPU seconds", "export.10000_s", 0.15, ".3f"),
    Goal("build and encode 10,000 subnets, MB on top", "export.10000_mb", 25, ".1f"),
    Goal("build and encode 50,000 subnets, CPU seconds", "export.50000_s", 0.5, ".3f"),
    Goal("build and encode 50,000 subnets, MB on top", "export.50000_mb", 30, ".1f"),
    Goal("agent with 10,000 active subnets, % of a core", "agent.10000_percent", 1.5, ".2f"),
    Goal("agent with 10,000 active subnets, MB resident", "agent.10000_mb", 90, ".1f"),
    Goal("agent with 1,000 active subnets, MB resident", "agent.1000_mb", 80, ".1f"),
    Goal("kernel memory at defaults, MiB that no CPU adds", "memory.base_mib", 64, ".1f"),
    Goal("kernel memory at defaults, MiB for each CPU", "memory.per_cpu_mib", 4, ".1f"),
    Goal("a million subnets: kernel memory, MiB", "million.kernel_mib", "million.kernel_check_mib", ".1f"),
    Goal("a million subnets: the agent's memory, MiB", "million.agent_mib", "million.agent_check_mib", ".1f"),
    Goal("from the command to the first packet that counts, seconds", "start.seconds", 1.5, ".2f"),
)


def verdict(goal: Goal, figures: Mapping[str, float], has_beside: bool) -> tuple[float | None, float | None, str]:
    """What was measured, what it may be at most, and whether that holds."""
    measured = figures.get(goal.figure)
    limit = figures.get(goal.limit) if isinstance(goal.limit, str) else float(goal.limit)
    if measured is None and goal.beside and not has_beside:
        return None, limit, NEEDS_BESIDE
    if measured is None or limit is None:
        return measured, limit, NOT_MEASURED
    return measured, limit, HOLDS if measured <= limit else FAILS


def summary(figures: Mapping[str, float], has_beside: bool) -> Table:
    """All goals."""
    table = Table("What must hold", [Column("what"), Column("at most"), Column("measured"), Column("")])
    for goal in GOALS:
        measured, limit, word = verdict(goal, figures, has_beside)
        cells = ["" if number is None else format(number, goal.format) for number in (limit, measured)]
        table.add(goal.what, *cells, word)
    return table
