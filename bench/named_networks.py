# SPDX-License-Identifier: Apache-2.0
"""Measures the time per packet with 100,000 named IPv4 addresses, of which some thousands are active.

Each active address has a series of its own. So our program with names is compared with our program without names at
`--prefix-v4 32`, which has the same number of series. In each round, both programs get the same packets.

- *UDP*: the packets of one client to the active addresses, in random order. So caches do not help.
- *mixed, skewed*: see traffic_model.py. Most packets come from a few flows, as in real traffic.

The table also has the time of our program with the default prefix lengths, which has a series for each /24.
"""

import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from bench import programs
from bench.packets import UDP, server_addresses
from bench.programs import NULL, Contender
from bench.report import Heading, Result, Table, progress
from bench.timed_runs import TimedRuns, one_cpu
from bench.workloads import BOTH, MIXED, Workload, stream
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.network import PREFIX, Network, Networks
from otel_epping.replay.replayer import CAPTURE

_NAMES = 100_000
_SUBNETS = 1_000
_ROUNDS = 9
_MAX_SUBNETS = 1 << 17
_SUBNETS_24, _ADDRESSES, _NAMED = "/24, no names", "/32, no names", "names"
_WORKLOADS = (
    Workload(UDP, 10_000, _SUBNETS),
    Workload(UDP, 60_000, _SUBNETS),
    Workload(MIXED, 60_000, _SUBNETS, skewed=True),
)
_TINY = (Workload(UDP, 1_000, _SUBNETS), Workload(MIXED, 1_000, _SUBNETS, skewed=True))


def _names(count: int) -> Networks:
    """Returns a network for each of `count` addresses. The first addresses are the servers, by flow number."""
    prefixes = np.zeros(count, PREFIX)
    prefixes["network"], prefixes["length"] = np.arange(count), 128
    prefixes["address"][:, 10:12] = 0xFF
    addresses = server_addresses(np.arange(count), _SUBNETS).astype(">u4")
    prefixes["address"][:, 12:] = addresses.view(np.uint8).reshape(-1, 4)
    return Networks(tuple(Network(f"n{number}") for number in range(count)), prefixes)


def _measure(workload: Workload, names: Networks, tiny: bool) -> dict[str, list[float]]:
    """Returns the net ns per packet of each program in each round."""
    default, addresses = EppingConfig(max_subnets=_MAX_SUBNETS), EppingConfig(max_subnets=_MAX_SUBNETS, prefix_v4=32)
    configs = {_SUBNETS_24: (default, None), _ADDRESSES: (addresses, None), _NAMED: (default, names)}
    hook = BOTH if workload.form == MIXED else "egress"
    net: dict[str, list[float]] = {name: [] for name in configs}
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        collectors = list(pool.map(lambda each: EppingCollector(each[0], networks=each[1]), configs.values()))
        for collector in collectors:
            stack.enter_context(collector).attachments.register(CAPTURE)
        null = programs.null()
        stack.callback(null.close)
        contenders = [null, *(programs.ours(each, name) for name, each in zip(configs, collectors, strict=True))]
        stack.enter_context(one_cpu())
        for number, packets in zip(range(2 if tiny else _ROUNDS + 1), stream(workload, hook, tiny), strict=False):
            runs = {contender.name: TimedRuns(contender, packets) for contender in contenders}
            for run in runs.values():
                run.run()
            for name in configs if number else ():
                net[name].append(runs[name].mean_ns - runs[NULL].mean_ns)
    return net


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all workloads. Other programs are not measured, because they cannot count named networks."""
    names = _names(_NAMES // 100 if tiny else _NAMES)
    kinds = [_SUBNETS_24, _ADDRESSES, _NAMED]
    columns = [Heading("packets"), Heading("active names", ",d"), *(Heading(kind, ".0f") for kind in kinds)]
    note = "Net ns per packet. Share: the time with names divided by the time of /32, the median of all rounds."
    table = Table(f"{len(names.networks):,} named addresses", [*columns, Heading("share", ".2f")], note)
    figures = {}
    for workload in _TINY if tiny else _WORKLOADS:
        progress(f"named_networks: {workload.name}, {workload.flows:,} active names")
        net = _measure(workload, names, tiny)
        share = statistics.median(a / b for a, b in zip(net[_NAMED], net[_ADDRESSES], strict=True))
        table.add(workload.name, workload.flows, *(statistics.median(net[kind]) for kind in kinds), share)
        figures[f"named_networks.{'mixed' if workload.form == MIXED else workload.flows}_share"] = share
    return Result([table], figures)
