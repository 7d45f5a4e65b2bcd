# SPDX-License-Identifier: Apache-2.0
"""Measures the time per packet when the CPU caches are cold. Use this benchmark to evaluate changes of the program.

All programs run on each packet, one after the other, in random order. Before each run a datagram is sent through the
loopback interface. So the network stack displaces the program's code, data and branch predictions, as on a busy host.
The datagrams and the other virtual machines on the host slow down all programs equally. So one run of the benchmark can
show differences of a few ns between programs. The time is the duration that BPF_PROG_TEST_RUN reports. The duration
does not include memory accesses that complete after the program ends, or cache misses that the program causes in other
code.

The packets belong to 16 flows to 10 subnets. *Net* is the time of a program minus the time of a program that does
nothing. The result is the mean time of the packets, without the fastest 5 % and the slowest 5 % of them.
"""

import socket
from contextlib import ExitStack

import numpy as np

from bench import programs
from bench.packets import ACK, DATA, UDP, Packets, rows_of
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from bench.timed_runs import TimedRuns, one_cpu
from otel_epping.kernel.collector import EppingCollector
from otel_epping.replay.replayer import CAPTURE

_FLOWS, _SUBNETS = 16, 10
_PACKETS = 20_000
_TRIM = 20  # 1/20 of the measured times is excluded at each end of the sorted list
_DATAGRAM = bytes(64)


def _loopback() -> socket.socket:
    """Returns a UDP socket that sends to itself."""
    itself = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    itself.bind(("127.0.0.1", 0))
    itself.connect(itself.getsockname())
    return itself


def _measure(contenders: list[Contender], form: str, hook: str, count: int) -> dict[str, float]:
    """Returns the time of each program in ns per packet. The time of a program that does nothing is not subtracted."""
    packets = Packets.one_way(rows_of(form, np.arange(_FLOWS), _SUBNETS, hook == "egress"), hook == "egress")
    runs = [TimedRuns(contender, packets) for contender in contenders]
    chance, took_ns = np.random.default_rng(1), np.zeros((len(runs), count))
    with _loopback() as stack:
        for number in range(count):
            for place in chance.permutation(len(runs)).tolist():
                stack.send(_DATAGRAM)
                stack.recv(len(_DATAGRAM))
                took_ns[place, number] = runs[place].run_one(number % _FLOWS)
    took_ns.sort(axis=1)
    middle = took_ns[:, count // _TRIM : count - count // _TRIM]
    return dict(zip([contender.name for contender in contenders], middle.mean(1).tolist(), strict=True))


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures TCP data, TCP acknowledgements and UDP."""
    columns = [
        Heading("packets"),
        Heading("hook"),
        Heading("program"),
        Heading("ns", ".0f"),
        Heading("net", ".1f"),
    ]
    table = Table("Cold caches: ns per packet", [*columns, Heading("our share", ".2f")])
    with ExitStack() as stack, EppingCollector() as collector, one_cpu():
        collector.attachments.register(CAPTURE)
        null = programs.null()
        stack.callback(null.close)
        for form, hook in ((DATA, "egress"), (ACK, "ingress"), (UDP, "egress")):
            progress(f"cold_cache: {form}")
            compared = [other for other in others if hook in other.hooks]
            mean_ns = _measure([null, programs.ours(collector), *compared], form, hook, 100 if tiny else _PACKETS)
            for row in programs.compared(mean_ns):
                table.add(form, hook, *row)
    return Result([table])
