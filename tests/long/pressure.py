# SPDX-License-Identifier: Apache-2.0
"""Shows how many RTTs of established flows are still measured when there are more flows than flow table entries. `make
pressure` first runs this program, and then the floods of many subnets (flood.py).

Each established flow sends a segment at regular intervals, and gets a reply. At the same time, three kinds of other
packets arrive: new flows that have one or two packets each, SYNs without a reply, and (if requested) handshakes with a
reply. BPF_PROG_TEST_RUN sends all packets through the program, in virtual time and always in the same order.

The result depends on the ratio r. Between two packets of an established flow, other flows create new entries in the
flow table. r is the number of these new entries divided by the size of the flow table.
"""

import itertools
import random
import struct
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from bench.timed_runs import one_cpu
from otel_epping.kernel import methods
from otel_epping.kernel.config import EppingConfig
from tests.long import flood
from tests.long.fuzz import builders
from tests.long.fuzz.meaning import ACK, SYN
from tests.support.prog_test_run import EGRESS, INGRESS, MS, SECOND, START_NS, Bench, Counted, Feeder

# Offsets in a frame with Ethernet, IPv4, and TCP with two NOPs and a timestamp.
SOURCE, SOURCE_PORT, DESTINATION_PORT, SEQUENCE, TSVAL = 26, 34, 36, 38, 58
FIRST_PORT = 1024
PSH = 8

runs = itertools.count(1)


@dataclass(frozen=True)
class Load:
    """The traffic of one run. The numbers of flows and packets are totals for the whole run."""

    flows: int = 500  # number of established flows
    period_ms: int = 500  # time between two segments of an established flow
    rtt_ms: int = 20
    duration_ms: int = 20_000
    strangers: int = 0  # number of new flows
    packets_of_each: int = 1  # number of packets in each new flow
    syns: int = 0  # number of SYNs without a reply
    handshakes: int = 0  # number of handshakes whose SYN-ACK comes after `rtt_ms`
    hosts: int = 1 << 20  # number of hosts that send the new flows and the SYNs


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    `samples` and `handshakes` are the numbers of RTTs that tcp_timestamp and tcp_handshake measured. `counted` has the
    increases of the interface counters.
    """

    samples: int
    handshakes: int
    counted: Counted
    seconds: float


class Traffic:
    """One packet of each form. Each use of a packet overwrites its addresses, ports and numbers in place."""

    def __init__(self, bench: Bench, hosts: int, number: int) -> None:
        self.bench, self.hosts = bench, hosts
        self.strangers, self.syns = (10 << 24) + (number << 20), (11 << 24) + (number << 20)
        inside, outside, server = bytes((192, 0, 2, number)), bytes((198, 51, 100, 1)), bytes((203, 0, 113, 1))
        stamped = builders.timestamp(1, 1)
        self.data = self._feeder(EGRESS, inside, outside, ACK | PSH, stamped, b"data")
        self.reply = self._feeder(INGRESS, outside, inside, ACK, stamped)
        self.stranger = self._feeder(INGRESS, bytes(4), inside, ACK, stamped)
        self.syn = self._feeder(INGRESS, bytes(4), inside, SYN)
        self.hello = self._feeder(EGRESS, inside, server, SYN)
        self.accepted = self._feeder(INGRESS, server, inside, SYN | ACK)

    def _feeder(
        self, entry: str, source: bytes, destination: bytes, flags: int, options: bytes = b"", payload: bytes = b""
    ) -> Feeder:
        feeder = Feeder(self.bench.collector.program.entry_points[entry])
        segment = builders.tcp((443, 443), 0, 1, flags, options, payload)
        feeder.set(builders.link((), 4) + builders.ip(source, destination, 6, segment))
        return feeder

    def unheard(self, feeder: Feeder, first: int, number: int, now_ns: int, packets: int = 1) -> None:
        """Sends packets from a new combination of host and port through the program."""
        port, host = divmod(number, self.hosts)
        struct.pack_into(">I", feeder.data, SOURCE, first + host)
        struct.pack_into(">H", feeder.data, SOURCE_PORT, FIRST_PORT + port)
        for _ in range(packets):
            feeder.run(now_ns)

    def established(self, kind: str, flow: int, sent_ms: int, now_ns: int) -> None:
        """Sends a segment of an established flow, a reply or a packet of a handshake through the program.

        For handshakes, `flow` is the number of the handshake.
        """
        feeder: Feeder = getattr(self, kind)
        port = SOURCE_PORT if kind in ("data", "hello") else DESTINATION_PORT
        struct.pack_into(">H", feeder.data, port, FIRST_PORT + flow)
        if kind == "data":
            struct.pack_into(">I", feeder.data, TSVAL, sent_ms + 1)
        elif kind == "reply":
            struct.pack_into(">II", feeder.data, TSVAL, sent_ms + 1, sent_ms + 1)
        feeder.run(now_ns)


def timeline(load: Load) -> dict[int, list[tuple[str, int, int]]]:
    """Returns the packets of established flows and handshakes.

    The keys are times in ms. The values are lists of (kind, number of the flow or handshake, time of the request in
    ms).
    """
    chance, due = random.Random(1), defaultdict(list)
    for flow in range(load.flows):
        for sent_ms in range(chance.randrange(load.period_ms), load.duration_ms, load.period_ms):
            due[sent_ms].append(("data", flow, sent_ms))
            due[sent_ms + load.rtt_ms].append(("reply", flow, sent_ms))
    for number in range(load.handshakes):
        sent_ms = number * (load.duration_ms - load.rtt_ms) // load.handshakes
        due[sent_ms].append(("hello", number, sent_ms))
        due[sent_ms + load.rtt_ms].append(("accepted", number, sent_ms))
    for events in due.values():
        chance.shuffle(events)
    return due


def run(bench: Bench, load: Load) -> Outcome:
    """Sends all traffic through the program.

    New flows and SYNs are spread evenly over time, even within a millisecond.
    """
    number = next(runs)  # each run uses new flows, and its times are later than the times of all earlier runs
    due, traffic = timeline(load), Traffic(bench, load.hosts, number)
    begin_ns = START_NS + number * 600 * SECOND
    before, began = rtts(bench), time.monotonic()
    strangers = syns = 0
    # The program handles all packets on one CPU, because each CPU has its own list of free table entries.
    with one_cpu(), bench.counting() as counted:
        for ms in range(load.duration_ms + load.rtt_ms + 1):
            now_ns, events = begin_ns + ms * MS, due.get(ms, [])
            for place in range(len(events) + 1):
                passed = min(1.0, (ms + (place + 1) / (len(events) + 1)) / load.duration_ms)
                while strangers < load.strangers * passed:
                    traffic.unheard(traffic.stranger, traffic.strangers, strangers, now_ns, load.packets_of_each)
                    strangers += 1
                while syns < load.syns * passed:
                    traffic.unheard(traffic.syn, traffic.syns, syns, now_ns)
                    syns += 1
                if place < len(events):
                    traffic.established(*events[place], now_ns)
    samples, handshakes = (new - old for new, old in zip(rtts(bench), before, strict=True))
    return Outcome(samples, handshakes, counted, time.monotonic() - began)


def rtts(bench: Bench) -> tuple[int, int]:
    """Returns the numbers of RTTs that tcp_timestamp and tcp_handshake have measured so far."""
    ended, method = bench.histograms["ended"], bench.histograms["method"]
    timestamp, handshake = (ended[method == methods.ALL.index(name)] for name in ("tcp_timestamp", "tcp_handshake"))
    return int(timestamp.sum()), int(handshake.sum())


def measured(config: EppingConfig, load: Load) -> Outcome:
    """Loads a separate program, sends the traffic through this program, and returns the result."""
    bench = Bench(config)
    try:
        return run(bench, load)
    finally:
        bench.close()


def print_full() -> None:
    """Prints the results of a million new flows and a million SYNs. The flow table has the default size."""
    config, load = EppingConfig(packet_clock=True), Load()
    quiet = measured(config, load)
    pressed = measured(config, replace(load, strangers=1_000_000, packets_of_each=2, syns=1_000_000, handshakes=2_000))
    print(
        f"{load.flows} flows that send every {load.period_ms} ms for {load.duration_ms // 1000} s; max_flows "
        f"{config.max_flows}\n1,000,000 new flows of two packets, 1,000,000 SYNs, 2000 handshakes: "
        f"{pressed.samples} of {quiet.samples} RTTs, {pressed.handshakes} of 2000; took {pressed.seconds:.1f} s"
    )
    for name in ("flows_created", "flow_insert_failed", "subnet_insert_failed", "rtt_begun", "rtt_expired"):
        print(f"  {name:22}{pressed.counted[name]:>9}   without new flows {quiet.counted[name]:>6}")


def print_table() -> None:
    """Prints the share of RTTs that are still measured, for several values of r."""
    config = EppingConfig(packet_clock=True, max_flows=4096)
    ratios = (0.1, 0.25, 0.5, 0.75, 1, 3, 10, 20)
    print(
        f"\nshare of RTTs that are still measured, for each r; max_flows {config.max_flows}\n{'r':30}"
        + "".join(f"{r:7}" for r in ratios)
    )
    shapes: dict[str, dict[str, Any]] = {
        "64 flows, 1-packet new flows": {"flows": 64},
        "1024 flows, 1-packet new flows": {"flows": 1024},
        "2048 flows, 1-packet new flows": {"flows": 2048},
        "64 flows, 2-packet new flows": {"flows": 64, "packets_of_each": 2},
        "1024 flows, 2-packet new flows": {"flows": 1024, "packets_of_each": 2},
    }
    for name, shape in shapes.items():
        load = Load(**shape, duration_ms=4000)
        quiet = measured(config, load).samples
        periods = load.duration_ms / load.period_ms
        shares = [
            measured(config, replace(load, strangers=int(r * config.max_flows * periods))).samples / quiet
            for r in ratios
        ]
        print(f"{name:30}" + "".join(f"{share:7.1%}" for share in shares), flush=True)
    load = Load(flows=0, duration_ms=4000, handshakes=1000, rtt_ms=100)
    shares = [
        measured(config, replace(load, syns=int(r * config.max_flows * load.duration_ms / load.rtt_ms))).handshakes
        / 1000
        for r in ratios
    ]
    print(f"{'handshakes, new SYNs':30}" + "".join(f"{share:7.1%}" for share in shares))
    print(
        "r: number of new flows per period, or number of SYNs between a SYN and its SYN-ACK, divided by the table size"
    )


def main() -> None:
    """Runs the command."""
    if len(sys.argv) > 1:
        sys.exit(f"usage: python -m {__spec__.name}")
    print_full()
    print_table()
    flood.main()


if __name__ == "__main__":
    main()
