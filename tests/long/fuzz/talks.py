# SPDX-License-Identifier: Apache-2.0
"""Creates conversations. A conversation consists of whole packets in a realistic order, with realistic times.

A talk is a conversation: a list of steps that starts at time 0. Usually the internal host sends the first packet.
"""

import random
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import dpkt

from tests.long.fuzz import builders, links
from tests.long.fuzz.meaning import ACK, ETHERNET, FIN, RST, SYN, read
from tests.long.fuzz.rules import Step

MS = 1_000_000
PSH = 8
# The captures in this folder contain more forms of packets. The fuzzer also works without this folder.
CAPTURES = Path(__file__).parents[4] / "shared" / "pcaps"
LONGEST_FRAME = 3000  # BPF_PROG_TEST_RUN accepts frames of up to about this length
SNAPPED = 256  # the fuzzer uses this number of bytes of each captured frame
MOST_LINK_HEADERS = 8


class Hosts(NamedTuple):
    """The two hosts of a conversation, the link headers of their packets, and a tunnel or None."""

    version: int
    inside: bytes
    outside: bytes
    link: bytes
    tunnel: Callable[[bytes, int], bytes] | None = None

    def step(self, inside_sends: bool, protocol: int, payload: bytes, at_ns: int, ecn: int = 0) -> Step:
        ends = (self.inside, self.outside) if inside_sends else (self.outside, self.inside)
        packet = builders.ip(*ends, protocol, payload, ecn)
        if self.tunnel:
            packet = self.tunnel(packet, not inside_sends)
        return Step(not inside_sends, builders.with_session_length(self.link + packet, len(self.link)), at_ns)


def any_hosts(chance: random.Random, link_header: int, tunnels: float = 0) -> Hosts:
    """Returns two random hosts.

    There are only a few hosts in a few subnets to choose from, so some talks belong to the same flow. The packets have
    no link header, or an Ethernet header with or without tags. `tunnels` is the probability that the packets of the
    hosts are in a tunnel.
    """
    version = chance.choice((4, 6))
    if version == 4:
        ends = [bytes([10 + side, chance.randrange(3), chance.randrange(3), chance.randrange(1, 4)]) for side in (0, 1)]
    else:
        ends = [
            bytes.fromhex("20010db8") + bytes([side, chance.randrange(4)]) + bytes(9) + bytes([chance.randrange(1, 4)])
            for side in (0, 1)
        ]
    outer, tunnel = version, None
    if chance.random() < tunnels:
        outer = chance.choice((4, 6))
        tunnel = any_tunnel(chance, outer)
    return Hosts(version, ends[0], ends[1], any_link(chance, outer) if link_header else b"", tunnel)


def any_tunnel(chance: random.Random, outer: int) -> Callable[[bytes, int], bytes]:
    """Returns a function that puts an IP packet into a tunnel.

    The outer packets have the IP version `outer`. The second argument of the function is the direction of the packet.
    """
    ends = [
        bytes([192, 0, 2, 1 + end]) if outer == 4 else bytes.fromhex("20010db8ff") + bytes([0] * 10 + [end])
        for end in (0, 1)
    ]
    kind = chance.choice(("ip in ip", "gre", "gre ethernet", "vxlan"))
    flags = chance.choice((0, 0, 0x2000, 0x8000, 0xB000, 0x1000))
    tags = chance.choice(([], [], ["802.1Q"], ["802.1ad"], any_stack(chance)))

    def tunnel(packet: bytes, ingress: int) -> bytes:
        version = packet[0] >> 4
        ethernet = builders.link(tags, version)
        if kind == "ip in ip":
            protocol, data = builders.IP_PROTOCOL[version], packet
        elif kind == "vxlan":
            protocol, data = (
                17,
                builders.udp((50_000, 4789), struct.pack(">II", 0x08000000, 7 << 8) + ethernet + packet),
            )
        elif kind == "gre":
            protocol, data = 47, builders.gre(flags, builders.IP_ETHERTYPE[version], packet)
        else:
            protocol, data = 47, builders.gre(flags, 0x6558, ethernet + packet)
        return builders.ip(ends[ingress], ends[1 - ingress], protocol, data)

    return tunnel


def any_link(chance: random.Random, version: int) -> bytes:
    """Returns an Ethernet header, usually without further headers."""
    if chance.random() < 0.6:
        return builders.link((), version)
    return builders.link(any_stack(chance), version, chance.getrandbits(20))


def any_stack(chance: random.Random) -> list[str]:
    """Returns the names of link headers in a sensible order: VLAN tags, then a PPPoE header, then MPLS labels."""
    rare = tuple(links.BUILDERS) if chance.random() < 0.3 else ()
    tags = [chance.choice(("802.1Q", "802.1ad", "802.1Q of old", *rare)) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
    session = [chance.choice(("pppoe", "pppoe, one byte"))] * chance.choice((0, 0, 1))
    return tags + session + ["mpls"] * chance.randrange(MOST_LINK_HEADERS + 1 - len(tags) - len(session))


_ODDITIES = ("missing", "still", "slow", "zero", "unechoed")


def tcp(chance: random.Random, hosts: Hosts) -> list[Step]:
    """Returns a TCP connection.

    The handshake, the timestamps and the end of the connection may be missing. Some replies are late. Some segments are
    repeated.
    """
    steps: list[Step] = []
    ports = chance.choice((40_000, 40_001, chance.randrange(1024, 65_536))), chance.choice((443, 80, 53))
    # The probability that a segment has a timestamp, for each endpoint. In some talks, an endpoint sends timestamps
    # only in some segments.
    with_timestamps = [chance.choice((0, 0, 0.1, 1, 1, 1))] * 2 if chance.random() < 0.9 else [1, 0]
    sequence = [chance.choice((1, 0xFFFFFFF0, chance.getrandbits(32))) for _ in range(2)]
    clock = [chance.choice((1000, 0xFFFFFFF0, chance.getrandbits(32))) for _ in range(2)]
    heard = [0, 0]  # the newest TSval that each endpoint has sent
    # The fault of each endpoint's timestamps, or "". The first faulty segment has the number `oddity_begins`. The fault
    # ends before the segment with the number `oddity_ends`.
    oddity = [chance.choice((*[""] * 6, *_ODDITIES)) for _ in range(2)]
    oddity_begins = chance.choice((0, 0, 3, 6))
    oddity_ends = oddity_begins + chance.choice((4, 10, 100))
    now_ns = 0
    rtt_ns = chance.choice((0, 500, 2 * MS, 20 * MS, 150 * MS, 400 * MS))

    def say(end: int, flags: int, size: int = 0, back: int = 0, ahead: int = 0, window: int = 1024) -> None:
        """Sends a segment that starts `back` bytes before or `ahead` bytes after the expected sequence number.

        `sequence` is the next sequence number of each endpoint.
        """
        odd = oddity[end] if oddity_begins <= len(steps) < oddity_ends else ""
        has_timestamp = chance.random() < with_timestamps[end] and odd != "missing"
        tsval, tsecr = clock[end] + now_ns // MS, heard[1 - end]
        if odd == "still":
            tsval = heard[end]
        elif odd == "slow":
            tsval = clock[end] + now_ns // (1000 * MS)
        elif odd == "zero":
            tsval, tsecr = 0, chance.choice((0, tsecr))
        elif odd == "unechoed":
            tsecr = chance.choice((0, 1, tsecr - 5000))
        options = builders.timestamp(tsval, tsecr) if has_timestamp else b""
        begin = sequence[end] - back + ahead
        segment = builders.tcp(
            ports if end == 0 else ports[::-1],
            begin,
            sequence[1 - end] if flags & ACK else 0,
            flags,
            options,
            bytes(size),
            window,
        )
        steps.append(hosts.step(end == 0, 6, segment, now_ns, ecn=chance.choice((0, 0, 2, 3))))
        if has_timestamp:
            heard[end] = tsval
        sequence[end] = max(sequence[end], begin + size + bool(flags & (SYN | FIN)))

    def disturbance(end: int) -> None:
        """Sends segments out of the usual order, such as a retransmission or a keep-alive."""
        nonlocal now_ns
        size = chance.randrange(1, 30)
        kind = chance.randrange(6)
        if kind == 0:  # a retransmission of the whole segment, of a part of it, or with more data
            say(end, ACK | PSH, size, back=chance.choice((1, size, size + 5, max(1, size - 5))))
        elif kind == 1:  # a gap: the missing segment arrives later, after a short or a long time
            say(end, ACK | PSH, size, ahead=10)
            now_ns += chance.choice((1, MS, 3 * MS - 1, 3 * MS, 50 * MS))
            say(end, ACK | PSH, 10, back=size + 10)
        elif kind == 2:  # a keep-alive and its reply
            say(end, ACK, chance.choice((0, 1)), back=1)
            say(1 - end, ACK)
        elif kind == 3:  # the receive window closes, and the sender sends a zero-window probe
            say(1 - end, ACK, window=0)
            now_ns += 10 * MS
            say(end, ACK, chance.choice((1, 1, 2)))
            say(1 - end, ACK, window=chance.choice((0, 1024)))
        elif kind == 4:  # a reused port
            say(end, SYN, ahead=chance.choice((0, 1000)))
            say(1 - end, SYN | ACK, ahead=chance.choice((0, 1000)))
        else:
            say(end, SYN | ACK, back=chance.choice((0, 1)))

    if chance.random() < 0.7:
        data = chance.choice((0, 0, 0, 30))
        say(0, SYN, data)
        if chance.random() < 0.3:  # the server does not accept the data in the SYN
            sequence[0] -= data
        now_ns += rtt_ns
        say(1, SYN | ACK, chance.choice((0, 0, 0, 0, 10)))
        now_ns += chance.randrange(5 * MS)
        say(0, ACK)
    for _ in range(chance.randrange(1, 12)):
        speaker = chance.randrange(2)
        now_ns += chance.choice((1, MS, 30 * MS, 120 * MS, 1500 * MS))
        for _ in range(chance.choice((1, 1, 2, 5))):
            say(speaker, ACK | PSH, chance.randrange(1, 40))
            now_ns += chance.choice((1, MS, 2 * MS))
        now_ns += rtt_ns
        if chance.random() < 0.85:
            say(1 - speaker, ACK, chance.choice((0, 0, 10)))
        if chance.random() < 0.4:
            disturbance(speaker)
    if chance.random() < 0.5:
        for end in (0, 1):
            say(end, chance.choice((FIN | ACK, FIN | ACK, RST, RST | ACK)))
            now_ns += rtt_ns
    return steps


def questions(chance: random.Random, hosts: Hosts) -> list[Step]:
    """Returns pings, DNS queries or QUIC handshakes.

    Some requests are repeated, some requests get no reply, and some requests get two replies.
    """
    steps: list[Step] = []
    kind = chance.choice(("icmp_echo", "dns", "quic_handshake"))
    port = chance.choice((40_000, 53, chance.randrange(1024, 65_536)))
    number = chance.randrange(65_536)
    version = chance.choice((1, 2))
    now_ns = 0

    def say(inside: bool, asks: bool) -> None:
        ports = (port, 53 if kind == "dns" else 443)
        if kind == "icmp_echo":
            protocol = builders.icmp_protocol(hosts.version)
            payload = builders.echo(hosts.version, asks, port, number)
        else:
            protocol = 17
            data = (
                builders.dns(number, not asks)
                if kind == "dns"
                else builders.quic(version, 0 if asks else chance.randrange(4))
            )
            payload = builders.udp(ports if asks else ports[::-1], data)
        steps.append(hosts.step(inside, protocol, payload, now_ns))

    asker = chance.random() < 0.7
    for _ in range(chance.randrange(1, 6)):
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            say(asker, True)
            now_ns += chance.choice((1, 5 * MS, 250 * MS))
        now_ns += chance.choice((0, 3 * MS, 80 * MS, 2000 * MS))
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            say(not asker, False)
            now_ns += MS
        number = (number + chance.choice((0, 1))) % 65_536
    return steps


def others(chance: random.Random, hosts: Hosts) -> list[Step]:
    """Returns packets that no method measures: other protocols, unassigned protocol numbers, other UDP ports, and
    packets without IP.
    """
    steps = []
    for place in range(chance.randrange(1, 6)):
        protocol = chance.choice((17, 17, 47, 50, 132, 4, 41, 1, 58, 59, chance.randrange(148, 253)))
        payload = builders.udp((chance.randrange(65_536), 443), bytes(chance.randrange(30)))
        step = hosts.step(chance.random() < 0.5, protocol, payload, place * MS, chance.randrange(4))
        if hosts.link and chance.random() < 0.2:
            kind = chance.choice((0x0806, 0x88CC, 0x8863, 0x88E5)).to_bytes(2, "big")
            step = step._replace(frame=step.frame[:12] + kind + step.frame[14:])
        steps.append(step)
    return steps


TALKS: tuple[Callable[[random.Random, Hosts], list[Step]], ...] = (tcp, tcp, tcp, questions, questions, others)


@cache
def captures() -> list[list[tuple[int, bytes, int]]]:
    """Reads the captures with Ethernet headers. Each packet is (time in ns, frame, length on the wire)."""
    found = []
    for path in sorted(CAPTURES.glob("*.pcap")):
        with path.open("rb") as file:
            reader = dpkt.pcap.Reader(file)
            if reader.datalink() == dpkt.pcap.DLT_EN10MB:
                found.append([(round(time * 1e9), frame[:SNAPPED], len(frame)) for time, frame in reader])
    return found


def captured(chance: random.Random, link_header: int, most: int) -> list[Step]:
    """Returns a part of a capture.

    The endpoint with the lower address is internal. If `link_header` is 0, only IP packets are used.
    """
    records = chance.choice(captures())
    begin = chance.randrange(max(1, len(records) - most))
    steps = []
    for time_ns, frame, length in records[begin : begin + most]:
        meaning = read(frame, ETHERNET, length)
        at = 0 if link_header else meaning.network_at
        if link_header or meaning.version:
            step = Step(meaning.source > meaning.destination, frame[at:], time_ns - records[begin][0], length - at)
            steps.append(step)
    return steps
