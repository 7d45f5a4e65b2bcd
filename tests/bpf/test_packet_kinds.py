# SPDX-License-Identifier: Apache-2.0
"""Tests which kind, class, ECN code point and size the program counts for a packet."""

from ipaddress import ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.support.packets import ETHER, ETHERNET, IPV4, IPV6, MAC, TCP_TIMESTAMP, Conversation, fed, v4_kind, v6_kind
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, Bench

pytestmark = pytest.mark.parallel


SUBNETS = {4: ("10.250.0.0/24", "10.250.1.0/24"), 6: ("2001:dba::/48", "2001:dbb::/48")}
KIND_FRAMES = [
    ("tcp", "tcp_other", v4_kind(TCP(flags="S"))),
    ("tcp", "tcp_other", v6_kind(TCP(flags="A"))),
    ("tcp", "tcp_timestamp", v4_kind(TCP(flags="S", options=[("Timestamp", (1, 0)), ("NOP", None), ("NOP", None)]))),
    ("tcp", "tcp_timestamp", v6_kind(TCP(flags="A", options=[("Timestamp", (1, 0)), ("NOP", None), ("NOP", None)]))),
    ("udp", "udp", v4_kind(UDP() / Raw(b"x"))),
    ("udp", "udp", v6_kind(UDP() / Raw(b"x"))),
    ("icmp", "icmp", v4_kind(ICMP())),
    ("icmp", "icmp", v6_kind(ICMPv6EchoRequest())),
    ("other", "other", v4_kind(GRE())),
    ("other", "other", ETHER / IP(src="10.250.0.1", dst="10.250.1.1", proto=132) / Raw(bytes(20))),
    ("other", "other", ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", nh=50) / Raw(bytes(20))),
    ("other", "other", ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", nh=59)),
    ("udp", "udp", ETHER / IP(src="10.250.0.1", dst="10.250.1.1", flags="MF") / UDP()),
    ("fragment", "other", ETHER / IP(src="10.250.0.1", dst="10.250.1.1", frag=1) / UDP()),
    ("non_ip", None, ETHER / ARP()),
    ("non_ip", None, Ether(src=MAC, dst=MAC, type=0x88CC) / Raw(bytes(30))),
    ("tcp", "tcp_other", ETHER / Dot1Q(vlan=5) / IP(src="10.250.0.1", dst="10.250.1.1") / TCP()),
    ("malformed", None, Ether(src=MAC, dst=MAC, type=0x0800) / Raw(bytes(30))),
]


@pytest.mark.parametrize("entry", [INGRESS, EGRESS])
@pytest.mark.parametrize(("kind", "traffic_class", "frame"), KIND_FRAMES)
def test_kinds_are_counted_for_interface_and_subnets(
    bench: Bench, entry: str, kind: str, traffic_class: str | None, frame: Packet
) -> None:
    version = 6 if IPv6 in frame else 4
    subnets = [ip_network(name) for name in SUBNETS[version]]
    sides = (EXTERNAL, INTERNAL) if entry == INGRESS else (INTERNAL, EXTERNAL)

    def counted() -> list[dict[str, tuple[int, int]]]:
        slots = [bench.slot_of(subnet, side) for subnet, side in zip(subnets, sides, strict=True)]
        return [bench.traffic_of(slot) if slot else {} for slot in slots]

    size = len(bytes(frame))
    before = counted()
    assert fed(bench, frame, entry=entry) == (kind, 1, size)
    for direction, was, now in zip(("from", "to"), before, counted(), strict=True):
        changed = {name: tally for name, tally in now.items() if tally != was.get(name)}
        if traffic_class is None:
            assert changed == {}
        else:
            name = f"{direction} {traffic_class}"
            packets, length = was.get(name, (0, 0))
            assert changed == {name: (packets + 1, length + size)}


@pytest.mark.parametrize("codepoint", range(4))
def test_ecn_code_points(bench: Bench, codepoint: int) -> None:
    v4 = ETHER / IP(src="10.250.0.1", dst="10.250.1.1", tos=0xFC | codepoint) / UDP()
    v6 = ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", tc=0xFC | codepoint, fl=0xFFFFF) / UDP()
    plain_v6 = ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", tc=codepoint) / UDP()
    with bench.counting() as counted:
        bench.feed(v4)
        bench.feed(v6, entry=EGRESS)
        bench.feed(plain_v6, segments=5)
    assert {name for name in counted.changes if name.startswith("ecn")} == {f"ecn {codepoint}"}
    assert counted[f"ecn {codepoint}"] == 7


@pytest.mark.parametrize("entry", [INGRESS, EGRESS])
def test_a_truncated_capture_counts_the_original_length(bench: Bench, entry: str) -> None:
    frame = bytes(v4_kind(UDP(len=1480) / Raw(bytes(1472))))
    assert fed(bench, frame, entry=entry) == ("udp", 1, 1514)
    assert fed(bench, frame[:96], entry=entry, wire_len=1514) == ("udp", 1, 1514)


AGGREGATES = [
    (4, TCP(options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 0))]), IPV4 + TCP_TIMESTAMP, "tcp"),
    (6, TCP(options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 0))]), IPV6 + TCP_TIMESTAMP, "tcp"),
    (4, TCP(), IPV4 + 20, "tcp"),
    (4, UDP(), IPV4 + 8, "udp"),
    (6, UDP(), IPV6 + 8, "udp"),
]


@pytest.mark.parametrize(("version", "transport", "headers", "kind"), AGGREGATES)
def test_an_aggregate_counts_as_its_segments_with_their_headers(
    bench: Bench, version: int, transport: Packet, headers: int, kind: str
) -> None:
    """The counted bytes include the link, network and transport headers of each segment. The kernel's
    qdisc_pkt_len_init() counts the same bytes."""
    payload = bytes(3 * 1000)
    frame = bytes((v4_kind if version == 4 else v6_kind)(transport / Raw(payload)))
    on_the_wire = 3 * (ETHERNET + headers + 1000)
    assert fed(bench, frame, segments=1) == (kind, 1, len(frame))
    # A received aggregate was made by GRO, which removed the headers of all segments but the first.
    assert fed(bench, frame, segments=3) == (kind, 3, on_the_wire)
    # In a transmitted aggregate, wire_len already includes the headers of all segments.
    assert fed(bench, frame, entry=EGRESS, segments=3, wire_len=on_the_wire) == (kind, 3, on_the_wire)


@pytest.mark.parametrize("version", [4, 6])
def test_an_aggregate_too_long_for_the_length_field(bench: Bench, version: int) -> None:
    """BIG TCP sets the length field to 0 (iph_totlen() in the kernel, RFC 2675)."""
    conversation = Conversation(bench.flow(version))
    at = 16 if version == 4 else 18

    def big(frame: bytes) -> bytes:
        return frame[:at] + bytes(2) + frame[at + 2 :]

    assert conversation.rtt(big) == 5 * MS
    assert conversation.rtt(big, wire_len=65_536) == 5 * MS
