# SPDX-License-Identifier: Apache-2.0
"""What a saturated path loses: packets a second through a pair of virtual Ethernet devices, with nothing attached, with
a program that does nothing, with ours, and with those beside it, on both hooks of one end.

All is done on one CPU and by one thread: sending, the path, the program, receiving. So the path is saturated when that
CPU is, and what a program takes is missing in the packets a second. No packet is larger than the MTU.

    TCP   16 connections write as much as they can; the kernel makes segments of it, and acknowledgements
    UDP   datagrams of 18 bytes, of a thousand flows, that the far host drops

In turns of less than a tenth of a second, one after the other, many rounds, each in another order; the loss is against
the turn of the same round with nothing attached. The shorter the turns, the less the machine changes between them: with
a half of a second each, shares came out up to a third apart. Ours is loaded several times, and another one of these
takes part in each round: by where its code and its maps lie, one may lose a quarter more than another. Not measured:
many cores, a real network card, aggregates (GRO, GSO).
"""

import random
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from bench import programs
from bench.hosts import FAR, INTERFACE, Hosts, datagrams
from bench.programs import NULL, OURS, Contender
from bench.report import Column, Result, Table, progress
from bench.runs import one_cpu
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.collector import EppingCollector

NOTHING = "nothing"

_CONNECTIONS = 16
_FLOWS = 1024
_PAYLOAD = 18  # the least that fills an Ethernet frame
_TURN_S = 0.08
_ROUNDS = 160
_LOADS = 4
# With writes of 64 kB the queues of the path overflow, and turns are 15 % apart; with these it is 1 %.
_WRITE = bytes(1 << 14)
_READ = 1 << 22


class _Streams:
    """TCP connections with both ends in our hands: what the near end writes, the far end reads and throws away."""

    def __init__(self, hosts: Hosts) -> None:
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        with hosts.far.entered():
            listener = socket.create_server((FAR, 0))
        with listener, hosts.near.entered():
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
                far.recv(_READ, socket.MSG_TRUNC)  # counted, and not copied


def _turn(hosts: Hosts, speak: Callable[[], None], seconds: float) -> tuple[float, float]:
    """Packets a second, and Mbit/s, while somebody speaks as much as he can."""
    before, began = hosts.counted(), time.monotonic()
    while time.monotonic() - began < seconds:
        speak()
    after, took = hosts.counted(), time.monotonic() - began
    return (after.packets - before.packets) / took, (after.bytes - before.bytes) * 8 / took / 1e6


Turns = dict[str, list[tuple[float, float]]]


def _measure(hosts: Hosts, contenders: list[list[Contender]], speak: Callable[[], None], tiny: bool) -> Turns:
    """All rounds. Of contenders that are a list of several, each round has another one."""
    seconds, rounds = (0.02, 1) if tiny else (_TURN_S, _ROUNDS)
    turns: Turns = {}
    chance = random.Random(1)
    _turn(hosts, speak, seconds)
    for number in range(rounds):
        for loads in chance.sample(contenders, len(contenders)):
            contender = loads[number % len(loads)]
            with ExitStack() as stack:
                with hosts.near.entered():
                    stack.enter_context(programs.attached([contender], hosts.ifindex))
                turns.setdefault(contender.name, []).append(_turn(hosts, speak, seconds))
    return turns


def _loss(turns: Turns, name: str) -> float:
    """Share of the packets that are missing, by the median of the rounds."""
    return statistics.median(1 - a[0] / b[0] for a, b in zip(turns[name], turns[NOTHING], strict=True))


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Both kinds of traffic."""
    columns = [Column("traffic"), Column("attached"), Column("packets/s", ",.0f"), Column("Mbit/s", ",.0f")]
    columns += [Column("loss", ".1%"), Column("quartiles"), Column("of it net", ".1%")]
    note = "Medians of the turns. Net: the loss above that of the program that does nothing."
    table = Table("A saturated path: one CPU sends, receives and runs the program", columns, note)
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts())
        collectors = [stack.enter_context(EppingCollector()) for _ in range(1 if tiny else _LOADS)]
        stack.enter_context(one_cpu())
        with hosts.near.entered():
            for collector in collectors:
                collector.attachments.register(interfaces.find(INTERFACE))
            udp = datagrams(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), _FLOWS, _PAYLOAD)
        contenders = [[Contender(NOTHING, {})], [programs.null()], [programs.ours(each) for each in collectors]]
        contenders += [[other] for other in others]
        for traffic, speak in (("TCP", _Streams(hosts)), ("UDP", udp.send)):
            progress(f"throughput: {traffic}")
            turns = _measure(hosts, contenders, speak, tiny)
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
