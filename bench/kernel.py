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
  Each mix finds a program of ours that is freshly loaded, and a mixed one three of them, of which the mean counts: by
  where its code and its maps lie, one may take a few ns more. Those beside it are as their owner left them.
- The *bare* programs (lookup.py) look one key up, in an LRU hash or in a plain one, with the entries of the mix.
"""

import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from bench import filled, kernel_report, lookup, programs
from bench.kernel_report import ROOMY, Times
from bench.mixes import BOTH, MILLION, MIXED, MIXES, TINY, Mix, stream
from bench.packets import DATA, rows_of
from bench.programs import HOOKS, OURS, Contender
from bench.report import Result, progress
from bench.runs import Course, one_cpu
from otel_epping.kernel import map_array
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.replay.replayer import CAPTURE

_ROUNDS = 5
_REPEATED = 200_000
_LOADS = 3  # of the mixed mixes


def _measure(contenders: list[Contender], mix: Mix, hook: str, tiny: bool) -> Times:
    """All rounds of one mix. The packets of a round are the same for all, in turns; the mean of one name counts."""
    times = Times(mix, hook)
    repeat = (100 if tiny else _REPEATED) if mix.repeated else 1
    rounds = 1 if tiny or mix.flows == MILLION else _ROUNDS
    same, courses = None, list[Course]()
    for number, packets in zip(range(rounds + 1), stream(mix, hook, tiny), strict=False):
        if packets is not same:
            same, courses = packets, [Course(contender, packets, repeat) for contender in contenders]
        took: dict[str, list[float]] = {}
        for contender, course in zip(contenders, courses, strict=True):
            course.run()
            took.setdefault(contender.name, []).append(course.mean_ns)
        for name, means in took.items() if number else ():
            times.gross.setdefault(name, []).append(statistics.mean(means))
    return times


def _ended(collector: EppingCollector) -> float:
    """The share of packets that ended an RTT."""
    histograms = collector.program.maps["histograms"]
    ended = filled.records(histograms, map_array.map_info(histograms.fd)["max_entries"])["ended"].sum()
    reading = collector.reader().read()
    return int(ended) / sum(int(reading.interfaces[way]["packets"].sum()) for way in ("received", "transmitted"))


def times_of(mix: Mix, hook: str, others: list[Contender], tiny: bool = False) -> Times:
    """Measures a mix on a hook (the mixed one uses both), beside others; each mix has collectors of its own."""
    configs = [(OURS, EppingConfig()), *([(ROOMY, mix.room)] if mix.room else [])]
    configs *= _LOADS if mix.form == MIXED and not tiny else 1
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        collectors = list(pool.map(EppingCollector, (config for _, config in configs)))
        for collector in collectors:
            stack.enter_context(collector).attachments.register(CAPTURE)
        own = [programs.null(), *_bare(mix, hook, collectors[-1])]
        for contender in own:
            stack.callback(contender.close)
        contenders = [*own, *(programs.ours(each, name) for (name, _), each in zip(configs, collectors, strict=True))]
        needed = set(HOOKS) if hook == BOTH else {hook}
        contenders += [each for each in others if needed <= set(each.hooks)]
        with one_cpu():
            times = _measure(contenders, mix, hook, tiny)
        times.ended = _ended(collectors[-1])  # one with room, if any has
    return times


def _bare(mix: Mix, hook: str, collector: EppingCollector) -> list[Contender]:
    """The bare look-ups, in tables as large as the collector's, for mixes of data."""
    if mix.form != DATA or mix.family != 4 or mix.repeated:
        return []
    table = map_array.Array("flows", collector.program.maps["flows"])
    key = table.dtype["key"].itemsize
    size = key, table.dtype.itemsize - key, table.length
    keys = rows_of(mix.form, np.arange(mix.flows), mix.subnets, hook == "egress")
    return [lookup.bare(kind, *size, keys) for kind in (lookup.LRU, lookup.HASH)]


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all mixes."""
    measured = []
    for mix in TINY if tiny else MIXES:
        for hook in hooks_of(mix, tiny):
            progress(f"kernel: {mix.name}, {mix.flows:,} flows, {mix.subnets:,} subnets, {hook}")
            measured.append(times_of(mix, hook, others, tiny))
    return kernel_report.result(measured, others)


def hooks_of(mix: Mix, tiny: bool) -> list[str]:
    """Packets of the mixed one go both ways; a million go one way, or it would take too long."""
    if mix.form == MIXED:
        return [BOTH]
    return ["egress"] if tiny or mix.flows == MILLION else list(HOOKS)
