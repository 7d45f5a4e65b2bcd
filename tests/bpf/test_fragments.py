# SPDX-License-Identifier: Apache-2.0
"""Tests fragments. The first fragment has the kind of its packet. All other fragments have the kind `fragment`."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.packet import Packet, Raw

from otel_epping.kernel.config import EppingConfig
from tests.support.packets import (
    DESTINATION,
    ETHER,
    FRAGMENT,
    Conversation,
    fed,
    plain,
    with_extensions,
)
from tests.support.prog_test_run import EGRESS, INGRESS, MS, START_NS, Bench

pytestmark = pytest.mark.parallel


MTU = 576
numbers = itertools.count(1)


def ends(version: int) -> tuple[str, str]:
    """Returns a client and a server, each in its own subnet."""
    number = next(numbers)
    return [(f"10.78.{number}.1", f"11.78.{number}.2"), (f"2001:db8:78{number:x}::1", f"2001:db9:78{number:x}::2")][
        version == 6
    ]


def ip(source: str, destination: str, payload: Packet) -> Packet:
    if ":" in source:
        return IPv6(src=source, dst=destination) / payload
    return IP(src=source, dst=destination, id=9) / payload


split_v4: Any = fragment  # scapy has no type annotations for these functions
split_v6: Any = fragment6


def fragments(packet: Packet) -> list[bytes]:
    """Returns the fragments of a packet as the sender would create them."""
    if isinstance(packet, IPv6):
        parts = split_v6(IPv6(src=packet.src, dst=packet.dst) / IPv6ExtHdrFragment(id=9) / packet.payload, MTU)
    else:
        parts = split_v4(packet, MTU - 20)
    assert len(parts) > 1
    return [bytes(ETHER / part) for part in parts]


def questions(name: str, version: int) -> tuple[Packet, Packet]:
    """Returns a request, and a reply that is too long for one packet."""
    if name == "dns":
        query = DNSQR(qname="example.org")
        answer = UDP(sport=53, dport=5353) / DNS(id=7, qr=1, qd=query) / Raw(bytes(2000))
        return UDP(sport=5353, dport=53) / DNS(id=7, qd=query), answer
    if version == 4:
        return ICMP(type=8, id=7, seq=1) / Raw(bytes(2000)), ICMP(type=0, id=7, seq=1) / Raw(bytes(2000))
    return ICMPv6EchoRequest(id=7, seq=1) / Raw(bytes(2000)), ICMPv6EchoReply(id=7, seq=1) / Raw(bytes(2000))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", ["dns", "icmp"])
def test_a_first_fragment_ends_an_rtt(every: Bench, name: str, version: int) -> None:
    client, server = ends(version)
    question, answer = questions(name, version)
    asked = ip(client, server, question)
    for frame in fragments(asked) if len(bytes(asked)) > MTU else [bytes(ETHER / asked)]:
        assert every.feed(frame, START_NS, EGRESS) is None
    first, *others = fragments(ip(server, client, answer))
    with every.counting() as counted:
        rtt = every.feed(first, START_NS + 30 * MS, INGRESS)
    assert rtt
    assert rtt.ns == 30 * MS
    assert counted[f"received {'udp' if name == 'dns' else name}"] == (1, len(first))
    for frame in others:
        assert fed(every, frame, at_ns=START_NS + 31 * MS) == ("fragment", 1, len(frame))


@pytest.mark.parametrize("version", [4, 6])
def test_timestamps_of_a_first_fragment(every: Bench, version: int) -> None:
    client, server = ends(version)

    def segment(tsval: int, tsecr: int, reply: bool, size: int) -> Packet:
        options = [("NOP", None), ("NOP", None), ("Timestamp", (tsval, tsecr))]
        ports = (443, 40_000) if reply else (40_000, 443)
        data = TCP(sport=ports[0], dport=ports[1], flags="PA", options=options) / Raw(bytes(size))
        return ip(*((server, client) if reply else (client, server)), data)

    every.feed(ETHER / segment(1, 0, False, 10), START_NS, EGRESS)
    for frame in fragments(segment(2, 0, False, 1400)):
        assert every.feed(frame, START_NS + MS, EGRESS) is None
    first, *others = fragments(segment(9, 2, True, 1400))
    rtt = every.feed(first, START_NS + 8 * MS, INGRESS)
    assert rtt
    assert rtt.ns == 7 * MS
    assert [fed(every, frame, at_ns=START_NS + 9 * MS)[0] for frame in others] == ["fragment"] * len(others)


@pytest.fixture
def by_sequence(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, methods=("tcp_sequence",)))


@pytest.mark.parametrize("version", [4, 6])
def test_the_end_of_a_fragmented_segment_is_unknown(by_sequence: Bench, version: int) -> None:
    """An ACK of exactly the data in the first fragment does not acknowledge the whole segment.

    A fragmented segment counts neither as a retransmission nor as the next segment.
    """
    client, server = ends(version)
    size = 1400
    at_ns = START_NS

    def data(begin: int, payload: int) -> Packet:
        return ip(
            client, server, TCP(sport=40_000, dport=443, flags="A", seq=1000 + begin, ack=1) / Raw(bytes(payload))
        )

    def acknowledged(number: int) -> int | None:
        nonlocal at_ns
        at_ns += MS
        frame = ETHER / ip(server, client, TCP(sport=443, dport=40_000, flags="A", seq=1, ack=1000 + number))
        rtt = by_sequence.feed(frame, at_ns, INGRESS)
        return rtt and rtt.ns

    def sent(*frames: bytes) -> None:
        nonlocal at_ns
        for frame in frames:
            at_ns += MS
            assert by_sequence.feed(frame, at_ns, EGRESS) is None

    sent(bytes(ETHER / data(-10, 10)))
    assert acknowledged(0) is None
    cut = fragments(data(0, size))
    with by_sequence.counting() as counted:
        sent(*cut)
        of_first = len(bytes(cut[0])) - 14 - 40 - (20 if version == 4 else 8 + 20)
        for number in (of_first, size):
            assert acknowledged(number) is None
    assert counted["rtt_begun"] == 0
    # The program does not know where the fragmented segment ended. There may be a gap before the next whole segment, so
    # the program does not time the next whole segment. The program times the second whole segment.
    sent(bytes(ETHER / data(size, 100)))
    assert acknowledged(size + 100) is None
    sent(bytes(ETHER / data(size + 100, 100)))
    assert acknowledged(size + 200) == MS


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (IP(flags="MF") / UDP() / Raw(bytes(8)), "udp"),
        (IP(flags="MF", proto=50) / Raw(bytes(24)), "fragment"),
        (IP(flags="MF", proto=6) / Raw(bytes(8)), "fragment"),  # only 8 bytes of the TCP header
        (IP(flags="MF") / TCP(dataofs=8) / Raw(bytes(4)), "fragment"),  # some of the TCP options are missing
        (IP(flags="MF", frag=1) / UDP(), "fragment"),
        (IP(frag=0x1FFF) / UDP(), "fragment"),
        (IPv6() / IPv6ExtHdrFragment(m=1) / UDP() / Raw(bytes(8)), "udp"),
        (IPv6() / IPv6ExtHdrFragment(m=1, offset=1) / UDP(), "fragment"),
        (IPv6() / IPv6ExtHdrFragment(m=0, offset=1) / UDP(), "fragment"),
        (IPv6() / IPv6ExtHdrFragment(m=1, nh=6) / Raw(bytes(16)), "fragment"),
        (
            IPv6() / IPv6ExtHdrFragment(m=1, nh=60) / Raw(b"\x06\x05" + bytes(6)),
            "fragment",
        ),  # truncated extension header
        (IPv6() / IPv6ExtHdrFragment(nh=50) / Raw(bytes(16)), "other"),
        (
            IPv6() / IPv6ExtHdrFragment(nh=6) / Raw(bytes(16)),
            "malformed",
        ),  # an atomic fragment with a truncated TCP header
    ],
)
def test_the_kind_of_a_fragment(every: Bench, frame: Packet, kind: str) -> None:
    assert fed(every, ETHER / frame)[0] == kind


def test_an_ipv6_packet_in_one_fragment_is_whole(every: Bench) -> None:
    """RFC 6946 calls a packet in one fragment an atomic fragment."""
    conversation = Conversation(every.flow(6))
    for form in (with_extensions((FRAGMENT, 0)), with_extensions((DESTINATION, 0), (FRAGMENT, 0)), plain):
        assert conversation.rtt(form) == 5 * MS
