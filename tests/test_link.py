# SPDX-License-Identifier: Apache-2.0
"""Links: tags, PPPoE sessions and labels in front of the network header, in any sensible order, whole and cut short."""

import itertools
from collections.abc import Callable

import pytest
from packets import MAC
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Packet, Raw
from testrun import INGRESS, START_NS, Bench

from otel_epping.kernel.config import KernelConfig

MOST_HEADERS = 8
MPLS_ETHERTYPE = 0x8847


@pytest.fixture
def bench(bench_of: Callable[[KernelConfig], Bench]) -> Bench:
    return bench_of(KernelConfig(packet_clock=True))


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
    """Link headers by name, Ethernet included."""
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
def test_an_rtt_behind_each_stack(bench: Bench, name: str, version: int) -> None:
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
def test_cut_anywhere_it_is_counted_once_and_never_an_rtt(bench: Bench, name: str, version: int) -> None:
    frame = bytes(stacks(version)[name] / segment(version, next(hosts), 1, 0, reply=True))
    # A test run wants a whole IP header where the Ethernet type says IP.
    shortest = 15 if name != "none" else 14 + (20 if version == 4 else 40)
    for length in range(shortest, len(frame)):
        with bench.counting() as counted:
            assert bench.feed(frame[:length]) is None
        kinds = {change: value for change, value in counted.changes.items() if change.startswith("received")}
        assert list(kinds.values()) == [(1, length)], kinds
        assert set(kinds) == {"received malformed"}


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ethernet() / Dot1Q(vlan=5) / ARP() / Raw(bytes(40)), "non_ip"),
        (ethernet(0x8863) / Raw(bytes(60)), "non_ip"),  # PPPoE discovery
        (ethernet(0x8864) / PPPoE(sessionid=7) / PPP(proto=0xC021) / Raw(bytes(60)), "non_ip"),  # LCP
        (ethernet(MPLS_ETHERTYPE) / labels(1) / Raw(bytes(60)), "non_ip"),  # a pseudowire's control word (RFC 4385)
        (ethernet(MPLS_ETHERTYPE) / labels(MOST_HEADERS + 1) / segment(4, 250, 1, 0, False), "non_ip"),
        (ethernet() / Dot1Q(vlan=5, type=0x0800) / Raw(b"\x65" + bytes(59)), "malformed"),  # IPv6 said to be IPv4
    ],
    ids=["ARP", "PPPoE discovery", "LCP", "pseudowire", "too many labels", "not the version it says"],
)
def test_what_is_not_ip_behind_its_tags(bench: Bench, frame: Packet, kind: str) -> None:
    with bench.counting() as counted:
        assert bench.feed(frame) is None
    assert counted[f"received {kind}"] == (1, len(bytes(frame)))


@pytest.mark.parametrize(
    ("total", "length", "kind"), [(40, 42, "tcp"), (40, 48, "tcp"), (46, 42, "tcp"), (40, 41, "malformed")]
)
def test_a_packet_ends_where_pppoe_says(bench: Bench, total: int, length: int, kind: str) -> None:
    """What is behind it is padding, even if IP has it for its own."""
    packet = IP(src="198.18.0.1", dst="198.19.0.1", len=total) / TCP(flags="A")
    session = ethernet(0x8864) / PPPoE(sessionid=7, len=length) / PPP(proto=0x0021)
    frame = session / packet / Raw(bytes(12))
    with bench.counting() as counted:
        bench.feed(frame, START_NS, INGRESS)
    assert counted[f"received {kind}"][0] == 1
