# SPDX-License-Identifier: Apache-2.0
"""Measures how much a program reduces the packets per second on a saturated path.

The path is a veth pair. The program is attached to both hooks of one end. The benchmark measures the packets per second
without a program, with a program that does nothing, with our program, and with the compared programs. One thread on one
CPU sends and receives the packets, and executes the code of the path and of the program. This CPU is always busy, so
the path is saturated. A program that needs more time reduces the packets per second. This reduction is called the loss.
No packet is larger than the MTU.

    TCP  Writes as much as possible to 16 connections. The kernel creates segments and acknowledgements.
    UDP  Sends datagrams with 18 bytes of payload. The datagrams belong to 1,024 flows. The far end drops the datagrams.

Each round measures each program for less than 0.1 s. The order of the programs changes from round to round. In each
round, the packets per second with the program are divided by the packets per second without a program. The loss is 1
minus this quotient. Measurements must be short, because the speed of the machine changes. With measurements of 0.5 s,
the ratio of our loss to the loss of another program varied by up to a third. Unfavourable addresses of code and maps
can increase the loss by a quarter. So our program is loaded several times, at different addresses. The rounds use these
copies of our program in turn. This benchmark does not measure the effects of several cores, real network cards or
aggregates (GRO, GSO).
"""

import random
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from bench import programs
from bench.programs import NULL, OURS, Contender
from bench.report import Heading, Result, Table, progress
from bench.timed_runs import one_cpu
from bench.veth_pair import FAR, INTERFACE, VethPair, datagrams
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.collector import EppingCollector

NOTHING = "nothing"

_CONNECTIONS = 16
_FLOWS = 1024
_PAYLOAD = 18  # with this payload, an Ethernet frame has its minimum size
_TURN_S = 0.08
_ROUNDS = 160
_LOADS = 4
# With writes of 64 kB, the queues of the path overflow, and the packets per second differ by 15 % between measurements.
# With writes of 16 kB, the packets per second differ by 1 %.
_WRITE = bytes(1 << 14)
_READ = 1 << 22


class _Streams:
    """TCP connections with both ends in this process. The near end writes data, and the far end discards the data."""

    def __init__(self, veth: VethPair) -> None:
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        with veth.far.entered():
            listener = socket.create_server((FAR, 0))
        with listener, veth.near.entered():
            for _ in range(_CONNECTIONS):
                near = socket.create_connection(listener.getsockname())
                far, _ = listener.accept()
                near.setblocking(False)
                far.setblocking(False)
                self._pairs.append((near, far))

    def __call__(self) -> None:
        for near, far in self._pairs:
            with suppress(BlockingIOError):
                near.send(_WRITE)
            with suppress(BlockingIOError):
                far.recv(_READ, socket.MSG_TRUNC)  # MSG_TRUNC discards the data without a copy


def _turn(veth: VethPair, send: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Calls `send` repeatedly for `seconds`. Returns the packets per second and the Mbit/s."""
    before, began = veth.counted(), time.monotonic()
    while time.monotonic() - began < seconds:
        send()
    after, took = veth.counted(), time.monotonic() - began
    return (after.packets - before.packets) / took, (after.bytes - before.bytes) * 8 / took / 1e6


Turns = dict[str, list[tuple[float, float]]]


def _measure(veth: VethPair, contenders: list[list[Contender]], send: Callable[[], None], tiny: bool) -> Turns:
    """Measures all rounds. Each list in `contenders` contains all loaded copies of one program.

    In each round, the next copy from each list is measured.
    """
    seconds, rounds = (0.02, 1) if tiny else (_TURN_S, _ROUNDS)
    turns: Turns = {}
    chance = random.Random(1)
    _turn(veth, send, seconds)
    for number in range(rounds):
        for loads in chance.sample(contenders, len(contenders)):
            contender = loads[number % len(loads)]
            with ExitStack() as stack:
                with veth.near.entered():
                    stack.enter_context(programs.attached([contender], veth.ifindex))
                turns.setdefault(contender.name, []).append(_turn(veth, send, seconds))
    return turns


def _loss(turns: Turns, name: str) -> float:
    """Returns the median of a program's loss over all rounds."""
    return statistics.median(1 - a[0] / b[0] for a, b in zip(turns[name], turns[NOTHING], strict=True))


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures TCP and UDP."""
    columns = [Heading("traffic"), Heading("attached"), Heading("packets/s", ",.0f"), Heading("Mbit/s", ",.0f")]
    columns += [Heading("loss", ".1%"), Heading("quartiles"), Heading("net loss", ".1%")]
    note = "The figures are medians of all rounds. Net loss: loss minus the loss with the program that does nothing."
    table = Table("Saturated path: the same CPU sends and receives packets, and runs the program", columns, note)
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        veth = stack.enter_context(VethPair())
        collectors = [stack.enter_context(EppingCollector()) for _ in range(1 if tiny else _LOADS)]
        stack.enter_context(one_cpu())
        with veth.near.entered():
            for collector in collectors:
                collector.attachments.register(interfaces.find(INTERFACE))
            udp = datagrams(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), _FLOWS, _PAYLOAD)
        contenders = [[Contender(NOTHING, {})], [programs.null()], [programs.ours(each) for each in collectors]]
        contenders += [[other] for other in others]
        for traffic, send in (("TCP", _Streams(veth)), ("UDP", udp.send)):
            progress(f"throughput: {traffic}")
            turns = _measure(veth, contenders, send, tiny)
            for name in (contender.name for contender, *_ in contenders):
                each = turns[name]
                rates, mbits = zip(*each, strict=True)
                losses = sorted(1 - a / b[0] for a, b in zip(rates, turns[NOTHING], strict=True))
                quartiles = f"{losses[len(losses) // 4]:.1%} .. {losses[len(losses) * 3 // 4]:.1%}"
                loss = None if name == NOTHING else _loss(turns, name)
                net = None if loss is None or name == NULL else loss - _loss(turns, NULL)
                table.add(
                    traffic, name, statistics.median(rates), statistics.median(mbits),
                    loss, "" if loss is None else quartiles, net,
                )  # fmt: skip
            if others and (theirs := _loss(turns, others[0].name)) > 0:
                figures[f"throughput.{traffic.lower()}_share"] = _loss(turns, OURS) / theirs
    return Result([table], figures)
