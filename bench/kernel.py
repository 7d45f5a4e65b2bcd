# SPDX-License-Identifier: Apache-2.0
"""What the program costs a packet: BPF_PROG_TEST_RUN over mixes of packets.

Each mix goes through a program that does nothing, through ours with all methods, and through any others that are
loaded, in turns, round by round; the kernel takes the time of the runs alone. *Net* is what is above the program that
does nothing. Figures are medians over rounds.

- `repeated`: one packet, again and again, in a loop of the kernel's: all is in the caches, the branches are foreseen.
  That is the cost of the instructions.
- All other rows have a system call for each packet, after which caches and branch predictors know other things, as
  they do behind a network stack. Those of one flow can be compared with those of many.
- Packets of all mixes but the mixed one are alike in each flow, so none begins or ends an RTT. The mixed one
  (mixed.py) is as real traffic: there some do.
- Ours is measured at its defaults, and with room for as many flows as ePPing has (131,072; a million for the million).
  Each mix finds a program of ours that is freshly loaded. Those beside it are as their owner left them.
- The *bare* programs (lookup.py) look one key up, in an LRU hash or in a plain one, with the entries of the mix.
"""

import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from bench import lookup, programs
from bench.mixed import Mixed
from bench.packets import ACK, DATA, DATA_BARE, UDP, Packets, rows_of
from bench.programs import HOOKS, NULL, OURS, Contender
from bench.report import Column, Result, Table, progress
from bench.runs import Course, one_cpu
from otel_epping.kernel import memory
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.replayer import CAPTURE

ROOMY = "with room"
LRU, HASH = "bare lru", "bare hash"
MIXED = "mixed"
BOTH = "both"

_ROUNDS = 5
_LEAST_RUNS = 20_000
_REPEATED = 200_000
_MANY = 60_000
_MILLION = 1_000_000


@dataclass(frozen=True)
class Mix:
    """`flows` flows to `subnets` subnets, in packets of one form, or mixed; `repeated`: see above."""

    form: str
    flows: int
    subnets: int
    family: int = 4
    repeated: bool = False

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return self.form + (", IPv6" if self.family == 6 else "") + (", repeated" if self.repeated else "")

    @property
    def room(self) -> KernelConfig | None:
        """The configuration that gives it room; None where the default has enough."""
        if self.flows < _MANY:
            return None
        return KernelConfig(max_flows=1 << (20 if self.flows > 1 << 17 else 17), max_subnets=1 << 16)


KNOWN = Mix(DATA, 1, 1, repeated=True)
ONE, MANY = Mix(DATA, 1, 1), Mix(DATA, _MANY, 1_000)
MIXED_MIXES = (Mix(MIXED, 1_000, 10), Mix(MIXED, 1_000, 1_000), Mix(MIXED, _MANY, 1_000))
# What fills the table of ePPing, of 131,072 flows, comes last.
MIXES = (
    KNOWN,
    ONE,
    Mix(DATA, 1_000, 10),
    Mix(DATA, 1_000, 1_000),
    Mix(DATA, _MANY, 10),
    MANY,
    Mix(ACK, 1, 1, repeated=True),
    Mix(ACK, _MANY, 1_000),
    Mix(DATA_BARE, 1, 1, repeated=True),
    Mix(DATA_BARE, _MANY, 1_000),
    Mix(UDP, 1, 1, repeated=True),
    Mix(UDP, _MANY, 1_000),
    *MIXED_MIXES,
    Mix(DATA, 1, 1, family=6, repeated=True),
    Mix(DATA, _MANY, 1_000, family=6),
    Mix(DATA, _MANY, 16_000),
    Mix(DATA, _MILLION, 16_000),
)
TINY = (MANY, MIXED_MIXES[0])


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


def _stream(mix: Mix, hook: str, tiny: bool) -> Iterator[Packets]:
    """Packets for round after round; those of the first don't count."""
    least = 100 if tiny else _LEAST_RUNS
    if mix.form == MIXED:
        mixed = Mixed(mix.flows, mix.subnets)
        yield mixed.one_of_each()
        while True:
            yield mixed.any(max(least, mix.flows))
    out = hook == "egress"
    flows, chance = np.arange(mix.flows), np.random.default_rng(1)

    def in_some_order() -> Packets:
        order = chance.permutation(flows if mix.repeated else np.tile(flows[:limit], -(-least // mix.flows)))
        return Packets.alike(rows_of(mix.form, order, mix.subnets, out, mix.family), out)

    limit = least if tiny else None
    yield in_some_order()
    # Another order than that in which they came first, and were given their places in the memory of a table.
    packets = in_some_order()
    while True:
        yield packets


def _measure(contenders: list[Contender], mix: Mix, hook: str, tiny: bool) -> Times:
    """All rounds of one mix. The packets of a round are the same for all, in turns."""
    times = Times(mix, hook)
    repeat = (100 if tiny else _REPEATED) if mix.repeated else 1
    rounds = 2 if tiny or mix.flows == _MILLION else _ROUNDS
    same, courses = None, list[Course]()
    for number, packets in zip(range(rounds + 1), _stream(mix, hook, tiny), strict=False):
        if packets is not same:
            same, courses = packets, [Course(contender, packets, repeat) for contender in contenders]
        for contender, course in zip(contenders, courses, strict=True):
            course.run()
            if number:
                times.gross.setdefault(contender.name, []).append(course.mean_ns)
    return times


def _ended(collector: Collector) -> int:
    histograms = memory.Array("histograms", collector.program.maps["histograms"])
    return int(histograms.first(histograms.length)["ended"].sum())


def _packets_seen(collector: Collector) -> int:
    reading = collector.reader().read()
    return sum(int(reading.interfaces[way]["packets"].sum()) for way in ("received", "transmitted"))


def times_of(mix: Mix, hook: str, others: list[Contender], tiny: bool = False) -> Times:
    """Measures a mix on a hook (the mixed one uses both), beside others; each mix has collectors of its own."""
    configs = {OURS: KernelConfig()} | ({ROOMY: mix.room} if mix.room else {})
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        collectors = dict(zip(configs, pool.map(Collector, configs.values()), strict=True))
        for collector in collectors.values():
            stack.enter_context(collector).attachments.register(CAPTURE)
        contenders = [programs.null(), *(programs.ours(each, name) for name, each in collectors.items())]
        if mix.form == DATA and mix.family == 4 and not mix.repeated:
            info = memory.map_info(list(collectors.values())[-1].program.maps["flows"].fd)
            keys = rows_of(mix.form, np.arange(mix.flows), mix.subnets, hook == "egress")
            for kind in ("lru", "hash"):
                size = info["key_size"], info["value_size"], info["max_entries"]
                contenders.append(lookup.bare(kind, *size, keys))
        needed = set(HOOKS) if mix.form == MIXED else {hook}
        contenders += [each for each in others if needed <= set(each.hooks)]
        with one_cpu():
            times = _measure(contenders, mix, hook, tiny)
        ours = collectors[times.ours]
        times.ended = _ended(ours) / _packets_seen(ours)
    return times


def _table(all_times: list[Times], others: list[Contender]) -> Table:
    names = [NULL, OURS, ROOMY, LRU, HASH, *(other.name for other in others)]
    columns = [Column("packets"), Column("flows", ",d"), Column("subnets", ",d"), Column("hook"), Column(NULL, ".0f")]
    columns += [Column(name, ".0f") for name in names[1:]]
    columns += [Column(f"/ {other.name}", ".2f") for other in others] + [Column("RTTs", ".1%")]
    note = (
        f"ns a packet: {NULL} gross, the others net of it; '/': our share, with room where there is such a figure. "
        f"{OURS}: at its defaults, 65,536 flows and 16,384 subnets. RTTs: the share of packets that end one."
    )
    table = Table("What a packet costs in the kernel (BPF_PROG_TEST_RUN)", columns, note)
    for times in all_times:
        mix = times.mix
        table.add(
            mix.name, mix.flows, mix.subnets, times.hook, times.gross_ns(NULL),
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
    if others:
        for name, mixes in (("kernel.known_share", [KNOWN]), ("kernel.mixed_share", MIXED_MIXES)):
            shares = [times.share(others[0].name) for times in all_times if times.mix in mixes]
            if measured := [share for share in shares if share]:
                figures[name] = max(measured)
    by_mix = {(times.mix, times.hook): times for times in all_times}
    for hook in HOOKS:
        one, many = by_mix.get((ONE, hook)), by_mix.get((MANY, hook))
        if one and many:
            share = _growth(one, many, many.ours) / _growth(one, many, LRU)
            figures["kernel.growth_share"] = max(figures.get("kernel.growth_share", 0.0), share)
    return figures


def _growth(one: Times, many: Times, name: str) -> float:
    """What many flows cost as a multiple of what one costs."""
    return many.net_ns(name) / one.net_ns(name if name in one.gross else one.ours)


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all mixes."""
    measured = []
    for mix in TINY if tiny else MIXES:
        for hook in _hooks_of(mix, tiny):
            progress(f"kernel: {mix.name}, {mix.flows:,} flows, {mix.subnets:,} subnets, {hook}")
            measured.append(times_of(mix, hook, others, tiny))
    return Result([_table(measured, others), _spread(measured)], _figures(measured, others))


def _hooks_of(mix: Mix, tiny: bool) -> list[str]:
    """Packets of the mixed one go both ways; a million go one way, or it would take too long."""
    if mix.form == MIXED:
        return [BOTH]
    return ["egress"] if tiny or mix.flows == _MILLION else list(HOOKS)
