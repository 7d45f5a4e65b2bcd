# SPDX-License-Identifier: Apache-2.0
"""What the program takes of live traffic, by the kernel's own account (BPF_ENABLE_STATS).

All programs are on both hooks of one interface, one after the other, and see the very same packets: requests and
answers over a thousand TCP connections with real stacks (otel_epping.lab.traffic), and datagrams. Whoever comes first
finds the packet colder, so half of the time they stand in the opposite order; the program that does nothing is always
the first.

The account has two readings of a clock in it, which the program that does nothing shows; *net* is without.
"""

import socket
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from subprocess import PIPE

from bench import programs
from bench.hosts import INTERFACE, SUBNETS, Hosts, datagrams
from bench.programs import HOOKS, Contender
from bench.report import Column, Result, Table, progress
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.map_array import map_info
from otel_epping.lab import traffic

_CONNECTIONS = 8  # to each server
_PAUSE_S = (0.1, 0.2)
_DATAGRAM_FLOWS, _PAYLOAD, _DATAGRAMS_EVERY_S = 512, 400, 0.1
_PART_S = 6.0
_SETTLE_S = 2.0


@contextmanager
def _talking(hosts: Hosts, tiny: bool) -> Iterator[None]:
    """Connections while the body runs."""
    command = [sys.executable, "-m", "otel_epping.lab.traffic"]
    server = hosts.far.popen([*command, "serve"], stdout=PIPE)
    assert server.stdout
    server.stdout.readline()
    servers = [f"{subnet}.10" for subnet in SUBNETS[: 2 if tiny else None]]
    options = ["--connections", str(_CONNECTIONS), "--pause", *map(str, _PAUSE_S)]
    client = hosts.near.popen([*command, "talk", *options, *servers], stdout=PIPE)
    yield
    traffic.finish(client)
    server.kill()


def _account(contenders: list[Contender]) -> dict[tuple[str, str], tuple[int, int]]:
    """Runs of each program so far, and their ns."""
    return {
        (contender.name, hook): (info["run_cnt"], info["run_time_ns"])
        for contender in contenders
        for hook, fd in contender.hooks.items()
        for info in [map_info(fd)]
    }


def _part(hosts: Hosts, order: list[Contender], seconds: float) -> dict[tuple[str, str], tuple[int, int]]:
    """What each program took in the time, standing in this order."""
    with hosts.near.entered(), programs.attached(order, hosts.ifindex), programs.run_times():
        burst = datagrams(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), _DATAGRAM_FLOWS, _PAYLOAD)
        before, end = _account(order), time.monotonic() + seconds
        while time.monotonic() < end:
            burst.send()
            time.sleep(min(seconds, _DATAGRAMS_EVERY_S))
        after = _account(order)
    return {key: (after[key][0] - before[key][0], after[key][1] - before[key][1]) for key in before}


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Two parts, in which the order is one and the other."""
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(serving=True))
        collector = stack.enter_context(EppingCollector())
        with hosts.near.entered():
            collector.attachments.register(interfaces.find(INTERFACE))
        first, rest = programs.null(), [programs.ours(collector), *others]
        stack.enter_context(_talking(hosts, tiny))
        time.sleep(0.1 if tiny else _SETTLE_S)
        totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for order in (rest, rest[::-1]):
            progress(f"live: {', '.join(contender.name for contender in order)}")
            for key, (runs, ns) in _part(hosts, [first, *order], 0.2 if tiny else _PART_S).items():
                totals[key][0] += runs
                totals[key][1] += ns
    columns = [Column("hook"), Column("program"), Column("packets", ",d"), Column("ns", ".0f"), Column("net", ".0f")]
    table = Table("Live traffic: ns a packet by the kernel's account", [*columns, Column("ours, of it", ".2f")])
    for hook in HOOKS:
        mean_ns = {name: ns / max(1, runs) for (name, where), (runs, ns) in totals.items() if where == hook}
        for name, *compared in programs.compared(mean_ns):
            table.add(hook, name, totals[name, hook][0], *compared)
    return Result([table])
