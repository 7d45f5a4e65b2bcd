# SPDX-License-Identifier: Apache-2.0
"""Tests packets with the link headers of docs/links.md. The headers are in all sensible orders, complete or
truncated."""

import itertools
from collections.abc import Callable

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Packet, Raw

from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz import builders
from tests.support.packets import MAC
from tests.support.prog_test_run import INGRESS, START_NS, Bench

pytestmark = pytest.mark.parallel


MOST_HEADERS = 8
MPLS_ETHERTYPE = 0x8847
# The headers of a pseudowire do not say that the pseudowire carries Ethernet frames. Only the EtherType of the inner
# frame shows that the payload is an Ethernet frame.
MAY_BE_OTHER = {"pseudowire", "pseudowire, bare"}


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(EppingConfig(packet_clock=True))


def ethernet(ethertype: int | None = None) -> Packet:
    return Ether(src=MAC, dst=MAC) if ethertype is None else Ether(src=MAC, dst=MAC, type=ethertype)


def pppoe(version: int) -> Packet:
    return PPPoE(sessionid=7) / PPP(proto=0x0021 if version == 4 else 0x0057)


def labels(count: int) -> Packet:
    stack = MPLS(label=16, s=0, ttl=64)
    for _ in range(count - 1):
        stack = stack / MPLS(label=17, s=0, ttl=64)
    stack.lastlayer().s = 1
    return stack


def stacks(version: int) -> dict[str, Packet]:
    """Returns stacks of link headers by name. Each stack includes the Ethernet header."""
    return {
        "none": ethernet(),
        "802.1Q": ethernet() / Dot1Q(vlan=5),
        "802.1ad": ethernet() / Dot1AD(vlan=5),
        "QinQ": ethernet() / Dot1AD(vlan=5) / Dot1Q(vlan=6),
        "QinQ of old": ethernet(0x9100) / Dot1Q(vlan=5, type=0x8100) / Dot1Q(vlan=6),
        "PPPoE": ethernet(0x8864) / pppoe(version),
        "PPPoE in QinQ": ethernet() / Dot1AD(vlan=5) / Dot1Q(vlan=6, type=0x8864) / pppoe(version),
        "MPLS": ethernet(MPLS_ETHERTYPE) / labels(1),
        "MPLS, 3 labels": ethernet(MPLS_ETHERTYPE) / labels(3),
        "MPLS in 802.1Q": ethernet() / Dot1Q(vlan=5, type=MPLS_ETHERTYPE) / labels(2),
        "MPLS in PPPoE in QinQ": ethernet()
        / Dot1AD(vlan=5)
        / Dot1Q(vlan=6, type=0x8864)
        / PPPoE(sessionid=7)
        / PPP(proto=0x0281)
        / labels(2),
        "as many as there may be": ethernet(MPLS_ETHERTYPE) / labels(MOST_HEADERS),
        "802.3 as scapy has it": Dot3(src=MAC, dst=MAC) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(),
        "802.3 in 802.1Q": ethernet() / Dot1Q(vlan=5, type=500) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(),
        "pseudowire, bare": ethernet(MPLS_ETHERTYPE) / labels(1) / ethernet() / Dot1Q(vlan=3),
        **{name: Raw(builders.link((name,), version, 1)) for name in builders.ALL_LINKS if name not in builders.LINKS},
        "802.1ah in 802.1ad": Raw(builders.link(("802.1ad", "802.1ah", "802.1Q"), version)),
        "IP in LLC": Raw(builders.link(("802.3",), version, 0)),
    }


def segment(version: int, host: int, tsval: int, tsecr: int, reply: bool) -> Packet:
    ends = [("192.0.2.1", f"198.51.{host}.1"), ("2001:db8:f::1", f"2001:db8:{host:x}::1")][version == 6]
    source, destination = ends[::-1] if reply else ends
    network = IP(src=source, dst=destination) if version == 4 else IPv6(src=source, dst=destination)
    ports = (443, 40_000) if reply else (40_000, 443)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (tsval, tsecr))]
    return network / TCP(sport=ports[0], dport=ports[1], flags="PA", options=options) / Raw(b"data")


hosts = itertools.count(1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", stacks(4))
def test_an_rtt_after_each_stack(bench: Bench, name: str, version: int) -> None:
    link, host = stacks(version)[name], next(hosts)

    def send(at_ns: int, tsval: int, tsecr: int, reply: bool) -> int | None:
        frame = bytes(link / segment(version, host, tsval, tsecr, reply))
        with bench.counting() as counted:
            rtt = bench.feed(frame, START_NS + at_ns, INGRESS if reply else "epping_egress")
        assert counted[f"{'received' if reply else 'transmitted'} tcp"] == (1, len(frame))
        return rtt and rtt.ns

    assert send(0, 1, 0, reply=False) is None
    assert send(1_000_000, 2, 0, reply=False) is None
    assert send(8_000_000, 1, 2, reply=True) == 7_000_000


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", stacks(4))
def test_a_truncated_frame_is_counted_once_and_gives_no_rtt(bench: Bench, name: str, version: int) -> None:
    frame = bytes(stacks(version)[name] / segment(version, next(hosts), 1, 0, reply=True))
    # If the EtherType is that of IP, BPF_PROG_TEST_RUN requires a complete IP header.
    shortest = 15 if name != "none" else 14 + (20 if version == 4 else 40)
    for length in range(shortest, len(frame)):
        with bench.counting() as counted:
            assert bench.feed(frame[:length]) is None
        kinds = {change: value for change, value in counted.changes.items() if change.startswith("received")}
        assert list(kinds.values()) == [(1, length)], kinds
        assert set(kinds) == {"received malformed"} or (name in MAY_BE_OTHER and set(kinds) == {"received non_ip"})


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ethernet() / Dot1Q(vlan=5) / ARP() / Raw(bytes(40)), "non_ip"),
        (ethernet(0x8863) / Raw(bytes(60)), "non_ip"),  # PPPoE discovery
        (ethernet(0x8864) / PPPoE(sessionid=7) / PPP(proto=0xC021) / Raw(bytes(60)), "non_ip"),  # LCP
        (ethernet(MPLS_ETHERTYPE) / labels(1) / Raw(bytes(60)), "non_ip"),  # a pseudowire's control word (RFC 4385)
        (ethernet(MPLS_ETHERTYPE) / labels(1) / Raw(b"\x10\0\0\7" + bytes(56)), "non_ip"),  # RFC 5586: G-ACh
        (ethernet(MPLS_ETHERTYPE) / labels(1) / Raw(bytes(4)) / ethernet() / ARP() / Raw(bytes(20)), "non_ip"),
        (ethernet(0x88E5) / Raw(b"\x0c\0\0\0\0\1") / segment(4, 250, 1, 0, False), "non_ip"),
        (ethernet(0x894F) / Raw(b"\x0f\xc1\1\1" + bytes(4)) / segment(4, 250, 1, 0, False), "non_ip"),
        (ethernet(0x894F) / Raw(b"\x0f\xc2\1\5" + bytes(4)) / labels(1) / ARP(), "non_ip"),
        (ethernet(0x4305) / Raw(b"\x00\x0f\x32\0" + bytes(60)), "non_ip"),  # an originator message
        (ethernet(0x8899) / Raw(b"\x23" + bytes(60)), "non_ip"),  # Realtek's loop detection
        (ethernet(0xD28B) / Raw(b"\0\2" + bytes(60)), "non_ip"),
        (Dot3(src=MAC, dst=MAC) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(bytes(40)), "non_ip"),  # spanning tree
        (Dot3(src=MAC, dst=MAC) / Raw(b"\xff\xff" + bytes(50)), "non_ip"),  # Novell
        (
            Dot3(src=MAC, dst=MAC) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0x0C, code=0x2000) / bytes(40),
            "non_ip",
        ),
        (ethernet(0x0600 - 1) / Raw(bytes(60)), "non_ip"),
        (ethernet(MPLS_ETHERTYPE) / labels(MOST_HEADERS + 1) / segment(4, 250, 1, 0, False), "non_ip"),
        (
            ethernet() / Dot1Q(vlan=5, type=0x0800) / Raw(b"\x65" + bytes(59)),
            "malformed",
        ),  # IPv6 with the EtherType of IPv4
    ],
)
def test_packets_other_than_ip_after_tags(bench: Bench, frame: Packet, kind: str) -> None:
    with bench.counting() as counted:
        assert bench.feed(frame) is None
    assert counted[f"received {kind}"] == (1, len(bytes(frame)))


@pytest.mark.parametrize(("total", "length", "kind"), [(40, 48, "tcp"), (46, 48, "tcp"), (40, 47, "malformed")])
def test_an_802_3_length_field_determines_the_end_of_the_packet(
    bench: Bench, total: int, length: int, kind: str
) -> None:
    packet = IP(src="198.18.0.1", dst="198.19.0.1", len=total) / TCP(flags="A")
    frame = Dot3(src=MAC, dst=MAC, len=length) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP() / packet / Raw(bytes(12))
    with bench.counting() as counted:
        bench.feed(frame, START_NS, INGRESS)
    assert counted[f"received {kind}"][0] == 1


@pytest.mark.parametrize(
    ("total", "length", "kind"), [(40, 42, "tcp"), (40, 48, "tcp"), (46, 42, "tcp"), (40, 41, "malformed")]
)
def test_the_pppoe_length_field_determines_the_end_of_the_packet(
    bench: Bench, total: int, length: int, kind: str
) -> None:
    """Bytes that the PPPoE length does not include are padding, even if the length in the IP header includes these
    bytes."""
    packet = IP(src="198.18.0.1", dst="198.19.0.1", len=total) / TCP(flags="A")
    session = ethernet(0x8864) / PPPoE(sessionid=7, len=length) / PPP(proto=0x0021)
    frame = session / packet / Raw(bytes(12))
    with bench.counting() as counted:
        bench.feed(frame, START_NS, INGRESS)
    assert counted[f"received {kind}"][0] == 1
