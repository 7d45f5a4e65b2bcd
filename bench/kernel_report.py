# SPDX-License-Identifier: Apache-2.0
"""What kernel.py measured, as tables and figures."""

import statistics
from dataclasses import dataclass, field

from bench.lookup import HASH, LRU
from bench.mixes import FEW_MIXED, KNOWN, MANY, MANY_ALIKE, MANY_MIXED, ONE, SOME_MIXED, Mix
from bench.programs import HOOKS, NULL, OURS, Contender
from bench.report import Column, Result, Table

ROOMY = "with room"

# Mixes of which our share of what another program takes is a figure.
_SHARES = {
    "known": KNOWN,
    "few_mixed": FEW_MIXED,
    "some_mixed": SOME_MIXED,
    "many_mixed": MANY_MIXED,
    "many_alike": MANY_ALIKE,
}
_CONFIGURATIONS = (
    f"{OURS}: at its defaults, 80,000 flows and 16,384 subnets; {ROOMY}: 131,072 flows (1,048,576 for a million) and "
    "65,536 subnets."
)


@dataclass
class Times:
    """ns a packet of each contender, round by round; `ended`: the share of packets that ended an RTT of ours."""

    mix: Mix
    hook: str
    gross: dict[str, list[float]] = field(default_factory=dict)
    ended: float = 0.0

    def gross_ns(self, name: str) -> float:
        """Median of the rounds."""
        return statistics.median(self.gross[name])

    def net_ns(self, name: str) -> float:
        """Above the program that does nothing: the median of the rounds' differences."""
        return statistics.median(a - b for a, b in zip(self.gross[name], self.gross[NULL], strict=True))

    @property
    def ours(self) -> str:
        """Which of ours is the one with enough room."""
        return ROOMY if ROOMY in self.gross else OURS

    def share(self, other: str) -> float | None:
        """Our net as a share of that of another, if it took part."""
        return self.net_ns(self.ours) / self.net_ns(other) if other in self.gross else None


def _gross(all_times: list[Times], names: list[str]) -> Table:
    columns = [Column("packets"), Column("flows", ",d"), Column("subnets", ",d"), Column("hook")]
    columns += [Column(name, ".0f") for name in names]
    table = Table("What a packet costs in the kernel, ns gross (BPF_PROG_TEST_RUN)", columns, _CONFIGURATIONS)
    for times in all_times:
        mix = times.mix
        cells = (times.gross_ns(name) if name in times.gross else None for name in names)
        table.add(mix.name, mix.flows, mix.subnets, times.hook, *cells)
    return table


def _net(all_times: list[Times], names: list[str], others: list[Contender]) -> Table:
    columns = [Column("packets"), Column("flows", ",d"), Column("subnets", ",d"), Column("hook")]
    columns += [Column(name, ".0f") for name in names[1:]]
    columns += [Column(f"/ {other.name}", ".2f") for other in others] + [Column("RTTs", ".1%")]
    note = "Above the program that does nothing. /: ours as a share, with room if given. RTTs: packets that end one."
    table = Table("What a packet costs in the kernel, ns net", columns, note)
    for times in all_times:
        mix = times.mix
        table.add(
            mix.name, mix.flows, mix.subnets, times.hook,
            *(times.net_ns(name) if name in times.gross else None for name in names[1:]),
            *(times.share(other.name) for other in others), times.ended or None,
        )  # fmt: skip
    return table


def _spread(all_times: list[Times]) -> Table:
    """Of the gross times of all rounds."""
    columns = [Column("packets"), Column("hook"), Column("program"), Column("least", ".0f"), Column("median", ".0f")]
    table = Table("Gross ns a packet: spread over rounds", [*columns, Column("greatest", ".0f")], printed=False)
    for times in all_times:
        label = f"{times.mix.name} {times.mix.flows:,}/{times.mix.subnets:,}"
        for name, rounds in times.gross.items():
            table.add(label, times.hook, name, min(rounds), statistics.median(rounds), max(rounds))
    return table


def _figures(all_times: list[Times], others: list[Contender]) -> dict[str, float]:
    """Those that goals are set for, of the worst hook."""
    figures: dict[str, float] = {}
    for name, mix in _SHARES.items() if others else ():
        shares = [times.share(others[0].name) for times in all_times if times.mix == mix]
        if measured := [share for share in shares if share]:
            figures[f"kernel.{name}_share"] = max(measured)
    by_mix = {(times.mix, times.hook): times for times in all_times}
    for hook in HOOKS:
        one, many = by_mix.get((ONE, hook)), by_mix.get((MANY, hook))
        if one and many:
            share = _growth(one, many, many.ours) / _growth(one, many, LRU)
            figures["kernel.growth_share"] = max(figures.get("kernel.growth_share", 0.0), share)
    return figures


def _growth(one: Times, many: Times, name: str) -> float:
    """By how many ns a packet of many flows costs more than one of a single flow."""
    return many.net_ns(name) - one.net_ns(name if name in one.gross else one.ours)


def result(measured: list[Times], others: list[Contender]) -> Result:
    """Tables and figures of all that was measured."""
    names = [NULL, OURS, ROOMY, LRU, HASH, *(other.name for other in others)]
    tables = [_gross(measured, names), _net(measured, names, others), _spread(measured)]
    return Result(tables, _figures(measured, others))
