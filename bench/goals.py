# SPDX-License-Identifier: Apache-2.0
"""The goals of the benchmarks. Compares measured figures with the goals."""

from collections.abc import Mapping
from typing import NamedTuple

from bench.report import Heading, Table

HOLDS, FAILS, NOT_MEASURED, NEEDS_COMPARE = "holds", "FAILS", "not measured", "needs COMPARE"


class Goal(NamedTuple):
    """The upper limit of a figure. `limit` is a number, or the name of another figure whose value is the limit.

    If `compared` is true, the figure is our program's value divided by the value of the first program that `--compare`
    names.
    """

    what: str
    figure: str
    limit: float | str
    format: str
    compared: bool = False


GOALS = (
    Goal("data packet of a known flow, net time relative to COMPARE", "kernel.known_share", 0.30, ".2f", compared=True),
    Goal(
        "mixed packets, 1,000 flows, 10 subnets, net time relative to COMPARE",
        "kernel.few_mixed_share",
        0.35,
        ".2f",
        compared=True,
    ),
    Goal(
        "mixed packets, 1,000 flows, 1,000 subnets, net time relative to COMPARE",
        "kernel.some_mixed_share",
        0.35,
        ".2f",
        compared=True,
    ),
    Goal(
        "mixed packets, 60,000 flows, skewed, net time relative to COMPARE",
        "kernel.many_mixed_share",
        0.35,
        ".2f",
        compared=True,
    ),
    Goal(
        "mixed packets, 60,000 flows, uniform, net time relative to COMPARE",
        "kernel.many_uniform_share",
        0.35,
        ".2f",
        compared=True,
    ),
    Goal(
        "additional time with 60,000 flows instead of 1 flow, divided by the additional time of the bare look-up",
        "kernel.growth_share",
        1,
        ".2f",
    ),
    Goal(
        "UDP packets of 10,000 named addresses, net time relative to --prefix-v4 32 without names",
        "named_networks.10000_share",
        1.1,
        ".2f",
    ),
    Goal(
        "UDP packets of 60,000 named addresses, net time relative to --prefix-v4 32 without names",
        "named_networks.60000_share",
        1.1,
        ".2f",
    ),
    Goal(
        "mixed packets, 60,000 skewed flows of named addresses, net time relative to --prefix-v4 32 without names",
        "named_networks.mixed_share",
        1.1,
        ".2f",
    ),
    Goal("TCP packets lost, relative to COMPARE", "throughput.tcp_share", 0.35, ".2f", compared=True),
    Goal("UDP packets lost, relative to COMPARE", "throughput.udp_share", 0.35, ".2f", compared=True),
    Goal("read the maps of 16,384 subnets, ms", "readout.16384_ms", 10, ".1f"),
    Goal("read the maps of 100,000 subnets, ms", "readout.100000_ms", 60, ".1f"),
    Goal("build and encode an export of 10,000 subnets, CPU seconds", "export.10000_s", 0.15, ".3f"),
    Goal("build and encode an export of 10,000 subnets, added MB", "export.10000_mb", 25, ".1f"),
    Goal("build and encode an export of 50,000 subnets, CPU seconds", "export.50000_s", 0.5, ".3f"),
    Goal("build and encode an export of 50,000 subnets, added MB", "export.50000_mb", 30, ".1f"),
    Goal(
        "agent with the default settings and 10,000 active subnets, % of a core",
        "agent_usage.10000_percent",
        1.5,
        ".2f",
    ),
    Goal("agent with the default settings and 10,000 active subnets, MB resident", "agent_usage.10000_mb", 90, ".1f"),
    Goal("agent with the default settings and 1,000 active subnets, MB resident", "agent_usage.1000_mb", 80, ".1f"),
    Goal("top with 10,000 active subnets, % of a core", "top_usage.10000_percent", 5, ".2f"),
    Goal("top with 10,000 active subnets: redraw, ms of CPU time", "top_usage.10000_redraw_ms", 50, ".1f"),
    Goal("top with 10,000 active subnets: from a key to the painted screen, ms", "top_usage.10000_key_ms", 100, ".0f"),
    Goal("top with 10,000 active subnets: time between two readings, s", "top_usage.10000_reading_s", 10, ".1f"),
    Goal("kernel memory with the default settings, without the memory for each CPU, MiB", "memory.base_mib", 64, ".1f"),
    Goal("additional kernel memory for each CPU with the default settings, MiB", "memory.per_cpu_mib", 4, ".1f"),
    Goal(
        "a million subnets: kernel memory, MiB", "million_subnets.kernel_mib", "million_subnets.kernel_check_mib", ".1f"
    ),
    Goal(
        "a million subnets: agent's memory, MiB", "million_subnets.agent_mib", "million_subnets.agent_check_mib", ".1f"
    ),
    Goal("from the command to the first counted packet, seconds", "start.seconds", 1.5, ".2f"),
    Goal("report about one month of 1,000 networks, seconds", "month_report.wall_s", 30, ".1f"),
    Goal("report about one month of 1,000 networks, MB resident", "month_report.peak_mb", 1000, ".0f"),
    Goal("report about one month of 1,000 networks, MB of the page", "month_report.page_mb", 15, ".1f"),
    Goal("report about one month of 1,000 networks, seconds to open the page", "month_report.opening_s", 3, ".2f"),
)


def verdict(goal: Goal, figures: Mapping[str, float], has_compared: bool) -> tuple[float | None, float | None, str]:
    """Returns the measured value, the limit, and HOLDS, FAILS, NOT_MEASURED or NEEDS_COMPARE."""
    measured = figures.get(goal.figure)
    limit = figures.get(goal.limit) if isinstance(goal.limit, str) else float(goal.limit)
    if measured is None and goal.compared and not has_compared:
        return None, limit, NEEDS_COMPARE
    if measured is None or limit is None:
        return measured, limit, NOT_MEASURED
    return measured, limit, HOLDS if measured <= limit else FAILS


def summary(figures: Mapping[str, float], has_compared: bool) -> Table:
    """Returns the table of all goals."""
    table = Table("Goals", [Heading("goal"), Heading("at most"), Heading("measured"), Heading("result")])
    for goal in GOALS:
        measured, limit, word = verdict(goal, figures, has_compared)
        cells = ["" if number is None else format(number, goal.format) for number in (limit, measured)]
        table.add(goal.what, *cells, word)
    return table
