# SPDX-License-Identifier: Apache-2.0
"""What the program costs a packet amid the work of a network stack: by this, changes of the program are judged.

Programs take turns packet by packet, and before each packet a datagram goes through the loopback interface and back. So
code, data and branches are as cold as on a busy host, and equally so for all; what the host of a virtual machine does
meanwhile hits all alike, and figures of one run can be told apart by a few nanoseconds. The time is that of
BPF_PROG_TEST_RUN: what a program's end leaves for others to wait for, or takes from their caches, isn't in it.

Sixteen flows to ten subnets. *Net* is what is above the program that does nothing; a twentieth of the packets is left
out at either end.
"""

import socket
from contextlib import ExitStack

import numpy as np

from bench import programs
from bench.packets import ACK, DATA, UDP, Packets, rows_of
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from bench.runs import Course, one_cpu
from otel_epping.kernel.collector import EppingCollector
from otel_epping.replay.replayer import CAPTURE

_FLOWS, _SUBNETS = 16, 10
_PACKETS = 20_000
_LEFT_OUT = 20  # one of so many, at either end
_DATAGRAM = bytes(64)


def _loopback() -> socket.socket:
    """One that sends to itself."""
    itself = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    itself.bind(("127.0.0.1", 0))
    itself.connect(itself.getsockname())
    return itself


def _measure(contenders: list[Contender], form: str, hook: str, count: int) -> dict[str, float]:
    """What a packet takes in each of them, in ns, gross."""
    packets = Packets.alike(rows_of(form, np.arange(_FLOWS), _SUBNETS, hook == "egress"), hook == "egress")
    courses = [Course(contender, packets) for contender in contenders]
    chance, took_ns = np.random.default_rng(1), np.zeros((len(courses), count))
    with _loopback() as stack:
        for number in range(count):
            for place in chance.permutation(len(courses)).tolist():
                stack.send(_DATAGRAM)
                stack.recv(len(_DATAGRAM))
                took_ns[place, number] = courses[place].run_one(number % _FLOWS)
    took_ns.sort(axis=1)
    middle = took_ns[:, count // _LEFT_OUT : count - count // _LEFT_OUT]
    return dict(zip([contender.name for contender in contenders], middle.mean(1).tolist(), strict=True))


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Data, acknowledgements, and UDP."""
    columns = [Column("packets"), Column("hook"), Column("program"), Column("ns", ".0f"), Column("net", ".1f")]
    table = Table("Amid the work of a network stack: ns a packet", [*columns, Column("ours, of it", ".2f")])
    with ExitStack() as stack, EppingCollector() as collector, one_cpu():
        collector.attachments.register(CAPTURE)
        null = programs.null()
        stack.callback(null.close)
        for form, hook in ((DATA, "egress"), (ACK, "ingress"), (UDP, "egress")):
            progress(f"amid: {form}")
            beside = [other for other in others if hook in other.hooks]
            mean_ns = _measure([null, programs.ours(collector), *beside], form, hook, 100 if tiny else _PACKETS)
            for row in programs.compared(mean_ns):
                table.add(form, hook, *row)
    return Result([table])
