# SPDX-License-Identifier: Apache-2.0
"""Tests tunnels. If the tunnels option is on and the inner packet is complete, the inner packet is measured. Otherwise
the outer packet is measured."""

from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from otel_epping.kernel.config import EppingConfig
from tests.support.packets import ETHER, MAC
from tests.support.prog_test_run import INGRESS, START_NS, Bench

pytestmark = pytest.mark.parallel


V4, V6 = IP(src="192.0.2.1", dst="192.0.2.2"), IPv6(src="2001:db8:ffff::1", dst="2001:db8:ffff::2")
INNER_ETHER = Ether(src=MAC, dst=MAC)
VXLAN_HEADER = UDP(sport=50_000, dport=4789) / VXLAN(vni=7, flags=0x08)

# All headers before the inner IP header, by name. scapy sets the protocol and type fields according to the next layer.
TUNNELS: dict[str, Packet] = {
    "IPv4 in IPv4": ETHER / V4,
    "IPv4 in IPv6": ETHER / V6,
    "tagged": Ether(src=MAC, dst=MAC) / Dot1Q(vlan=5) / V4,
    "GRE": ETHER / V4 / GRE(),
    "GRE over IPv6": ETHER / V6 / GRE(),
    "GRE with checksum, key and sequence number": ETHER / V4 / GRE(chksum_present=1, key_present=1, seqnum_present=1),
    "GRE with Ethernet": ETHER / V4 / GRE(proto=0x6558) / INNER_ETHER,
    "VXLAN": ETHER / V4 / VXLAN_HEADER / INNER_ETHER,
    "VXLAN over IPv6": ETHER / V6 / VXLAN_HEADER / INNER_ETHER,
    "VXLAN with a tag inside": ETHER / V4 / VXLAN_HEADER / INNER_ETHER / Dot1Q(vlan=6),
}
INNER = {
    4: IP(src="10.0.0.1", dst="11.0.0.1") / TCP(flags="PA") / b"data",
    6: IPv6(src="2001:db8:1::1", dst="2001:db8:2::1") / TCP(flags="PA") / b"data",
}


def counted(bench: Bench, frame: Packet) -> dict[str, Any]:
    with bench.counting() as changes:
        bench.feed(frame, START_NS, INGRESS)
    return {name: value for name, value in changes.changes.items() if name.startswith("received")}


@pytest.fixture
def inside(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(EppingConfig(packet_clock=True, tunnels=True))


@pytest.fixture
def outside(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(EppingConfig(packet_clock=True))


@pytest.mark.parametrize("version", INNER)
@pytest.mark.parametrize("tunnel", TUNNELS)
def test_the_inner_packet_is_measured(inside: Bench, outside: Bench, tunnel: str, version: int) -> None:
    frame = Ether(bytes(TUNNELS[tunnel] / INNER[version]))
    assert counted(inside, frame) == {"received tcp": (1, len(frame))}
    kind = "udp" if "VXLAN" in tunnel else "other"
    assert counted(outside, frame) == {f"received {kind}": (1, len(frame))}


def test_subnets_are_those_of_the_inner_addresses(inside: Bench) -> None:
    inside.feed(ETHER / IP(src="198.18.0.1", dst="198.18.1.1") / GRE() / INNER[4], START_NS, INGRESS)
    subnets = {str(inside.describe(slot)[0]) for slot in inside.slots_in_use()}
    assert {"10.0.0.0/24", "11.0.0.0/24"} <= subnets
    assert not subnets & {"198.18.0.0/24", "198.18.1.0/24"}


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ETHER / V4 / GRE(version=1, proto=0x0800) / INNER[4], "other"),
        (ETHER / V4 / GRE(routing_present=1) / INNER[4], "other"),
        (ETHER / V4 / GRE(proto=0x88BE) / INNER[4], "other"),
        (ETHER / IP(src="192.0.2.1", dst="192.0.2.2", proto=47) / Raw(b"\0\0"), "other"),
        (ETHER / V4 / UDP(sport=1, dport=4790) / VXLAN(flags=0x08) / INNER_ETHER / INNER[4], "udp"),
        (ETHER / V4 / UDP(sport=1, dport=4789) / VXLAN(flags=0) / INNER_ETHER / INNER[4], "udp"),
        (ETHER / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / INNER[4], "fragment"),
        (ETHER / V4 / UDP(sport=1, dport=53) / b"plain", "udp"),
        (ETHER / INNER[4], "tcp"),
    ],
    ids=[
        "GRE 1",
        "GRE routing",
        "GRE ERSPAN",
        "GRE cut",
        "UDP 4790",
        "VXLAN without network",
        "fragment",
        "UDP",
        "TCP",
    ],
)
def test_a_packet_without_a_tunnel_counts_as_itself(inside: Bench, frame: Packet, kind: str) -> None:
    assert counted(inside, frame) == {f"received {kind}": (1, len(bytes(frame)))}


def test_the_inner_packet_may_be_malformed(inside: Bench) -> None:
    frame = ETHER / V4 / GRE(proto=0x0800) / Raw(bytes([0x65]) + bytes(40))
    assert counted(inside, frame) == {"received malformed": (1, len(bytes(frame)))}
    cut = bytes(TUNNELS["VXLAN"] / INNER[4])
    for length in range(14 + 20 + 8 + 8 + 14, len(cut)):
        changes = counted(inside, Raw(cut[:length]))
        assert sum(packets for packets, _ in changes.values()) == 1, changes
