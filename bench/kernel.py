# SPDX-License-Identifier: Apache-2.0
"""Measures the time per packet with BPF_PROG_TEST_RUN, for many workloads.

In each round, the kernel runs several programs on the packets of a workload: first a program that does nothing, then
our program with all methods, and then all compared programs. The kernel measures only the time of these runs. *Net* is
the time of a program minus the time of the program that does nothing. The figures are medians of all rounds.

- `repeated`: the kernel runs the program on one packet in a loop. All data is in the caches and all branches are
  predicted, so the figure is the time of the instructions.
- All other workloads need a system call for each packet. The system call displaces the contents of caches and branch
  predictors, as a network stack does. This happens for one flow and for many flows, so the figures for one flow and for
  many flows can be compared.
- In workloads that are not mixed, all packets of a flow are identical, so they do not start or complete RTT samples.
  Mixed packets (traffic_model.py) resemble real traffic, and some of them complete RTT samples.
- Our program is measured with its default tables, and with tables as large as the tables of the program ePPing (131,072
  flows). In the workload of a million flows, the large table holds 1,048,576 flows. Our program is loaded again for
  each workload. For mixed workloads our program is loaded three times, because its time depends on the addresses of
  code and maps (by a few ns). The result is the mean time of the three loaded copies. The compared programs are not
  loaded again, so their tables keep the flows of earlier workloads.
- The *bare* programs (lookup.py) only look up one key. The map of a bare program is an LRU hash or a plain hash that
  contains the flows of the workload.
"""

import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from bench import fill_maps, kernel_report, lookup, programs
from bench.kernel_report import LARGE, Times
from bench.packets import DATA, rows_of
from bench.programs import HOOKS, OURS, Contender
from bench.report import Result, progress
from bench.timed_runs import TimedRuns, one_cpu
from bench.workloads import BOTH, MILLION, MIXED, TINY, WORKLOADS, Workload, stream
from otel_epping.kernel import map_array
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.replay.replayer import CAPTURE

_ROUNDS = 5
_REPEATED = 200_000
_LOADS = 3  # how many times our program is loaded for each mixed workload


def _measure(contenders: list[Contender], workload: Workload, hook: str, tiny: bool) -> Times:
    """Measures all rounds of a workload, with the same packets for all programs.

    If a program is loaded several times, the result is the mean time of its loaded copies.
    """
    times = Times(workload, hook)
    repeat = (100 if tiny else _REPEATED) if workload.repeated else 1
    rounds = 1 if tiny or workload.flows == MILLION else _ROUNDS
    same, runs = None, list[TimedRuns]()
    for number, packets in zip(range(rounds + 1), stream(workload, hook, tiny), strict=False):
        if packets is not same:
            same, runs = packets, [TimedRuns(contender, packets, repeat) for contender in contenders]
        took: dict[str, list[float]] = {}
        for contender, run in zip(contenders, runs, strict=True):
            run.run()
            took.setdefault(contender.name, []).append(run.mean_ns)
        for name, means in took.items() if number else ():
            times.gross.setdefault(name, []).append(statistics.mean(means))
    return times


def _ended(collector: EppingCollector) -> float:
    """Returns the share of packets that completed an RTT sample."""
    histograms = collector.program.maps["histograms"]
    ended = fill_maps.records(histograms, map_array.map_info(histograms.fd)["max_entries"])["ended"].sum()
    reading = collector.reader().read()
    return int(ended) / sum(int(reading.interfaces[way]["packets"].sum()) for way in ("received", "transmitted"))


def times_of(workload: Workload, hook: str, others: list[Contender], tiny: bool = False) -> Times:
    """Measures a workload on one hook, or a mixed workload on both hooks. Loads our program for the measurement."""
    configs = [(OURS, EppingConfig()), *([(LARGE, workload.large_tables)] if workload.large_tables else [])]
    configs *= _LOADS if workload.form == MIXED and not tiny else 1
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        collectors = list(pool.map(EppingCollector, (config for _, config in configs)))
        for collector in collectors:
            stack.enter_context(collector).attachments.register(CAPTURE)
        own = [programs.null(), *_bare(workload, hook, collectors[-1])]
        for contender in own:
            stack.callback(contender.close)
        contenders = [*own, *(programs.ours(each, name) for (name, _), each in zip(configs, collectors, strict=True))]
        needed = set(HOOKS) if hook == BOTH else {hook}
        contenders += [each for each in others if needed <= set(each.hooks)]
        with one_cpu():
            times = _measure(contenders, workload, hook, tiny)
        times.ended = _ended(collectors[-1])  # the last collector has large tables, if the workload needs them
    return times


def _bare(workload: Workload, hook: str, collector: EppingCollector) -> list[Contender]:
    """Returns the bare programs for a workload of TCP data.

    The flow tables of these programs are as large as the collector's flow table.
    """
    if workload.form != DATA or workload.family != 4 or workload.repeated:
        return []
    table = map_array.Array("flows", collector.program.maps["flows"])
    key = table.dtype["key"].itemsize
    size = key, table.dtype.itemsize - key, table.length
    keys = rows_of(workload.form, np.arange(workload.flows), workload.subnets, hook == "egress")
    return [lookup.bare(kind, *size, keys) for kind in (lookup.LRU, lookup.HASH)]


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all workloads."""
    measured = []
    for workload in TINY if tiny else WORKLOADS:
        for hook in hooks_of(workload, tiny):
            progress(f"kernel: {workload.name}, {workload.flows:,} flows, {workload.subnets:,} subnets, {hook}")
            measured.append(times_of(workload, hook, others, tiny))
    return kernel_report.result(measured, others)


def hooks_of(workload: Workload, tiny: bool) -> list[str]:
    """Returns the hooks to measure: BOTH for mixed packets, and, to save time, only egress for a million flows."""
    if workload.form == MIXED:
        return [BOTH]
    return ["egress"] if tiny or workload.flows == MILLION else list(HOOKS)
