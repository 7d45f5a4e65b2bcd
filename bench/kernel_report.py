# SPDX-License-Identifier: Apache-2.0
"""Creates the tables and figures from the measurements of kernel.py."""

import statistics
from dataclasses import dataclass, field

from bench.lookup import HASH, LRU
from bench.programs import HOOKS, NULL, OURS, Contender
from bench.report import Heading, Result, Table
from bench.workloads import FEW_MIXED, KNOWN, MANY, MANY_MIXED, MANY_UNIFORM, ONE, SOME_MIXED, Workload

LARGE = "large tables"

# Each of these workloads has a goal: an upper limit for our net time divided by the net time of the compared program.
_SHARES = {
    "known": KNOWN,
    "few_mixed": FEW_MIXED,
    "some_mixed": SOME_MIXED,
    "many_mixed": MANY_MIXED,
    "many_uniform": MANY_UNIFORM,
}
_CONFIGURATIONS = (
    f"{OURS}: default tables for 80,000 flows and 16,384 subnets; {LARGE}: tables for 131,072 flows (1,048,576 in the "
    "workload of a million flows) and 65,536 subnets."
)


@dataclass
class Times:
    """The gross ns per packet of each program in each round.

    `ended` is the share of packets that completed an RTT sample.
    """

    workload: Workload
    hook: str
    gross: dict[str, list[float]] = field(default_factory=dict)
    ended: float = 0.0

    def gross_ns(self, name: str) -> float:
        """Returns the median of a program's gross time over all rounds."""
        return statistics.median(self.gross[name])

    def net_ns(self, name: str) -> float:
        """Returns the median net time of a program: its gross time minus the time of the program that does nothing."""
        return statistics.median(a - b for a, b in zip(self.gross[name], self.gross[NULL], strict=True))

    @property
    def ours(self) -> str:
        """The key of our program in `gross`: LARGE if the program was measured with large tables, otherwise OURS."""
        return LARGE if LARGE in self.gross else OURS

    def share(self, other: str) -> float | None:
        """Returns our net time divided by the net time of the program `other`, or None if `other` was not measured."""
        return self.net_ns(self.ours) / self.net_ns(other) if other in self.gross else None


def _gross(all_times: list[Times], names: list[str]) -> Table:
    columns = [
        Heading("packets"),
        Heading("flows", ",d"),
        Heading("subnets", ",d"),
        Heading("hook"),
    ]
    columns += [Heading(name, ".0f") for name in names]
    table = Table("Cost per packet in the kernel, gross ns (BPF_PROG_TEST_RUN)", columns, _CONFIGURATIONS)
    for times in all_times:
        workload = times.workload
        cells = (times.gross_ns(name) if name in times.gross else None for name in names)
        table.add(workload.name, workload.flows, workload.subnets, times.hook, *cells)
    return table


def _net(all_times: list[Times], names: list[str], others: list[Contender]) -> Table:
    columns = [
        Heading("packets"),
        Heading("flows", ",d"),
        Heading("subnets", ",d"),
        Heading("hook"),
    ]
    columns += [Heading(name, ".0f") for name in names[1:]]
    columns += [Heading(f"/ {other.name}", ".2f") for other in others] + [Heading("RTTs", ".1%")]
    note = (
        "Net ns: the time of a program minus the time of the program that does nothing. Columns with /: our net time "
        "divided by the net time of the named program (our time with large tables, if large tables were measured). "
        "RTTs: the share of packets that complete an RTT sample."
    )
    table = Table("Cost per packet in the kernel, net ns", columns, note)
    for times in all_times:
        workload = times.workload
        table.add(
            workload.name, workload.flows, workload.subnets, times.hook,
            *(times.net_ns(name) if name in times.gross else None for name in names[1:]),
            *(times.share(other.name) for other in others), times.ended or None,
        )  # fmt: skip
    return table


def _spread(all_times: list[Times]) -> Table:
    """Returns a table with the minimum, median and maximum gross time of each program."""
    columns = [Heading("packets"), Heading("hook"), Heading("program"), Heading("min", ".0f"), Heading("median", ".0f")]
    table = Table("Gross ns per packet: spread over rounds", [*columns, Heading("max", ".0f")], printed=False)
    for times in all_times:
        label = f"{times.workload.name} {times.workload.flows:,}/{times.workload.subnets:,}"
        for name, rounds in times.gross.items():
            table.add(label, times.hook, name, min(rounds), statistics.median(rounds), max(rounds))
    return table


def _figures(all_times: list[Times], others: list[Contender]) -> dict[str, float]:
    """Returns the figures that have goals. If both hooks were measured, a figure is the larger of the two values."""
    figures: dict[str, float] = {}
    for name, workload in _SHARES.items() if others else ():
        shares = [times.share(others[0].name) for times in all_times if times.workload == workload]
        if measured := [share for share in shares if share]:
            figures[f"kernel.{name}_share"] = max(measured)
    by_workload = {(times.workload, times.hook): times for times in all_times}
    for hook in HOOKS:
        one, many = by_workload.get((ONE, hook)), by_workload.get((MANY, hook))
        if one and many:
            share = _growth(one, many, many.ours) / _growth(one, many, LRU)
            figures["kernel.growth_share"] = max(figures.get("kernel.growth_share", 0.0), share)
    return figures


def _growth(one: Times, many: Times, name: str) -> float:
    """Returns the net ns per packet with many flows, minus the net ns per packet with one flow."""
    return many.net_ns(name) - one.net_ns(name if name in one.gross else one.ours)


def result(measured: list[Times], others: list[Contender]) -> Result:
    """Returns the tables and figures of all measurements."""
    names = [NULL, OURS, LARGE, LRU, HASH, *(other.name for other in others)]
    tables = [_gross(measured, names), _net(measured, names, others), _spread(measured)]
    return Result(tables, _figures(measured, others))
