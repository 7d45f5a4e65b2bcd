# SPDX-License-Identifier: Apache-2.0
"""Measures the time per packet of live traffic with the kernel's run-time statistics (BPF_ENABLE_STATS).

All programs are attached to both hooks of one interface at the same time. All programs run on each packet, one after
the other. The packets are datagrams, and the requests and replies of 1,024 TCP connections between real network stacks
(otel_epping.lab.traffic). The first program finds less of the packet in the CPU caches than the last program. So in the
second half of the measurement, the programs run in the opposite order. The program that does nothing always runs first.

For each run of a program, the statistics include the time for reading the clock twice. The program that does nothing
shows how long it takes to read the clock twice. *Net* is the time of a program minus the time of the program that does
nothing.
"""

import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from subprocess import PIPE

from bench import programs
from bench.programs import HOOKS, Contender
from bench.report import Heading, Result, Table, progress
from bench.veth_pair import INTERFACE, SUBNETS, VethPair, datagrams
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.map_array import map_info
from otel_epping.lab import traffic

_CONNECTIONS = 8  # number of connections to each server
_PAUSE_S = (0.1, 0.2)
_DATAGRAM_FLOWS, _PAYLOAD, _DATAGRAMS_EVERY_S = 512, 400, 0.1
_PART_S = 6.0
_SETTLE_S = 2.0


@contextmanager
def _talking(veth: VethPair, tiny: bool) -> Iterator[None]:
    """Sends requests and replies over TCP connections while the body of the `with` statement runs."""
    command = [sys.executable, "-m", "otel_epping.lab.traffic"]
    server = veth.far.popen([*command, "serve"], stdout=PIPE)
    assert server.stdout
    server.stdout.readline()
    servers = [f"{subnet}.10" for subnet in SUBNETS[: 2 if tiny else None]]
    options = ["--connections", str(_CONNECTIONS), "--pause", *map(str, _PAUSE_S)]
    client = veth.near.popen([*command, "talk", *options, *servers], stdout=PIPE)
    yield
    traffic.finish(client)
    server.kill()


def _run_times(contenders: list[Contender]) -> dict[tuple[str, str], tuple[int, int]]:
    """Returns the number of runs of each program so far, and the total time of these runs in ns."""
    return {
        (contender.name, hook): (info["run_cnt"], info["run_time_ns"])
        for contender in contenders
        for hook, fd in contender.hooks.items()
        for info in [map_info(fd)]
    }


def _part(veth: VethPair, order: list[Contender], seconds: float) -> dict[tuple[str, str], tuple[int, int]]:
    """Attaches the programs in the given order for `seconds`.

    Returns each program's number of runs and total time in ns.
    """
    with veth.near.entered(), programs.attached(order, veth.ifindex), programs.run_times():
        burst = datagrams(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), _DATAGRAM_FLOWS, _PAYLOAD)
        before, end = _run_times(order), time.monotonic() + seconds
        while time.monotonic() < end:
            burst.send()
            time.sleep(min(seconds, _DATAGRAMS_EVERY_S))
        after = _run_times(order)
    return {key: (after[key][0] - before[key][0], after[key][1] - before[key][1]) for key in before}


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all programs in one order, and then in the opposite order."""
    with ExitStack() as stack:
        veth = stack.enter_context(VethPair(serving=True))
        collector = stack.enter_context(EppingCollector())
        with veth.near.entered():
            collector.attachments.register(interfaces.find(INTERFACE))
        first, rest = programs.null(), [programs.ours(collector), *others]
        stack.enter_context(_talking(veth, tiny))
        time.sleep(0.1 if tiny else _SETTLE_S)
        totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for order in (rest, rest[::-1]):
            progress(f"live_traffic: {', '.join(contender.name for contender in order)}")
            for key, (runs, ns) in _part(veth, [first, *order], 0.2 if tiny else _PART_S).items():
                totals[key][0] += runs
                totals[key][1] += ns
    columns = [
        Heading("hook"),
        Heading("program"),
        Heading("packets", ",d"),
        Heading("ns", ".0f"),
        Heading("net", ".0f"),
    ]
    table = Table(
        "Live traffic: ns per packet, from the kernel's run-time statistics", [*columns, Heading("our share", ".2f")]
    )
    for hook in HOOKS:
        mean_ns = {name: ns / max(1, runs) for (name, where), (runs, ns) in totals.items() if where == hook}
        for name, *compared in programs.compared(mean_ns):
            table.add(hook, name, totals[name, hook][0], *compared)
    return Result([table])
