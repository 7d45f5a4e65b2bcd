# SPDX-License-Identifier: Apache-2.0
"""Requests and their replies, for each method that matches requests with replies."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from tests.support.packets import ETHER, quic
from tests.support.prog_test_run import EGRESS, INGRESS, START_NS, Bench, Rtt


@dataclass(frozen=True)
class Exchange:
    """The transport headers of a request and its reply. The argument `number` distinguishes exchanges between the same
    two hosts."""

    method: str
    ask: Callable[[int, int], Packet]
    answer: Callable[[int, int], Packet]


def tcp(flags: str, sport: int, dport: int, seq: int, ack: int) -> Packet:
    return TCP(sport=sport, dport=dport, flags=flags, seq=seq, ack=ack)


EXCHANGES = (
    Exchange(
        "icmp_echo",
        lambda version, n: ICMP(id=7, seq=n) if version == 4 else ICMPv6EchoRequest(id=7, seq=n),
        lambda version, n: ICMP(type=0, id=7, seq=n) if version == 4 else ICMPv6EchoReply(id=7, seq=n),
    ),
    Exchange(
        "dns",
        lambda version, n: UDP(sport=5353, dport=53) / DNS(id=n, qd=DNSQR(qname="example.org")),
        lambda version, n: UDP(sport=53, dport=5353) / DNS(id=n, qr=1, qd=DNSQR(qname="example.org")),
    ),
    Exchange(
        "tcp_handshake",
        lambda version, n: tcp("S", 40_000, 443, 1000 * n, 0),
        lambda version, n: tcp("SA", 443, 40_000, 5000 * n, 1000 * n + 1),
    ),
    Exchange(
        "quic_handshake",
        lambda version, n: UDP(sport=40_000 + n, dport=443) / quic(0),
        lambda version, n: UDP(sport=443, dport=40_000 + n) / quic(0),
    ),
)

pairs = itertools.count(1)


class Hosts:
    """An internal client and an external server, each in its own subnet. Bench.flow() uses other subnets."""

    def __init__(self, bench: Bench, version: int = 4) -> None:
        self.bench, self.version, pair = bench, version, next(pairs)
        high, low = divmod(pair, 256)
        self.ends = (
            (f"10.{100 + high}.{low}.1", f"11.{100 + high}.{low}.1")
            if version == 4
            else (f"2001:db8:f{pair:03x}::1", f"2001:db9:f{pair:03x}::1")
        )

    def send(self, at_ns: int, payload: Packet, sender: int) -> Rtt | None:
        """Sends a packet. Packets of endpoint 0 leave through the interface; packets of endpoint 1 arrive at it."""
        source, destination = self.ends if sender == 0 else self.ends[::-1]
        network = IP(src=source, dst=destination) if self.version == 4 else IPv6(src=source, dst=destination)
        return self.bench.feed(ETHER / network / payload, START_NS + at_ns, EGRESS if sender == 0 else INGRESS)

    def out(self, at_ns: int, payload: Packet) -> Rtt | None:
        return self.send(at_ns, payload, 0)

    def back(self, at_ns: int, payload: Packet) -> Rtt | None:
        return self.send(at_ns, payload, 1)
