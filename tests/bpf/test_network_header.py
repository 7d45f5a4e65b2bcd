# SPDX-License-Identifier: Apache-2.0
"""Tests packets whose network header is not at the offset that the type of their device implies. The kernel stores the
real offset of the network header with each packet.

In these tests, another program runs before the program of otel-epping and inserts bytes before the network header. On
VTI, xfrm and multipoint GRE devices, the kernel itself inserts bytes before the network header: the Ethernet header of
the lower interface (VTI, xfrm), or the outer IP and GRE headers (multipoint GRE). `make vmtest` tests real VTI, xfrm
and multipoint GRE devices, and devices without an Ethernet header.
"""

import fcntl
import itertools
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet

from otel_epping.kernel.collector import EppingCollector
from otel_epping.lab.namespaces import Namespace
from tests.support import other_programs
from tests.support.patience import becomes
from tests.support.prog_test_run import KINDS

pytestmark = pytest.mark.parallel


# linux/if_tun.h, linux/if_ether.h
TUNSETIFF, TUNSETLINK, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x400454CD, 0x1, 0x1000
ETH_P_IP, ETH_P_IPV6, ETH_P_ALL = 0x0800, 0x86DD, 3
# linux/if_arp.h: ATM, InfiniBand, SLIP, Cisco HDLC, VTI, FRAD, SIT, GRE, PIM, CAIF, 6LoWPAN, none
ARPHRD_ETHER, ARPHRD_NONE = 1, 65534
HARDWARE = (19, 32, 256, 513, 768, 770, 776, 778, 779, 822, 825, ARPHRD_NONE)
TUN = "tun-epping"

GRE_HEADER = bytes(IP(src="203.0.113.1", dst="203.0.113.2") / GRE(proto=ETH_P_IP, key_present=1, key=77))
FRONTS = {
    "nothing": b"",
    # The destination MAC address starts like an IPv4 or an IPv6 header.
    "Ethernet, 4": bytes(Ether(dst="45:00:00:28:00:01", src="02:00:00:00:00:02", type=ETH_P_IP)) + bytes(2),
    "Ethernet, 6": bytes(Ether(dst="60:00:00:00:00:14", src="06:40:20:01:0d:b8", type=ETH_P_IPV6)) + bytes(2),
    "Ethernet, other": bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02", type=0x88B5)) + bytes(2),
    "GRE": GRE_HEADER,
    "a byte": bytes(4),
    "the longest": bytes(256),
}


def size_of(front: str) -> int:
    """Return how many bytes are pushed before the network header. These bytes are called a front. In FRONTS, each
    front is padded to a multiple of 4 bytes, because a BPF program writes whole words to its stack."""
    return {"Ethernet, 4": 14, "Ethernet, 6": 14, "Ethernet, other": 14, "a byte": 1, "the longest": 255}.get(
        front, len(FRONTS[front])
    )


@pytest.fixture(scope="module")
def collector() -> Iterator[EppingCollector]:
    with EppingCollector() as collector:
        yield collector


class Tun:
    """A tun device in its own namespace. The test writes packets without a link header to the file descriptor of the
    device."""

    def __init__(self, collector: EppingCollector, namespace: Namespace, hardware: int) -> None:
        self.collector = collector
        self.namespace = namespace
        with namespace.entered():
            self._device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(self._device, TUNSETIFF, struct.pack("=16sH22x", TUN.encode(), IFF_TUN | IFF_NO_PI))
            fcntl.ioctl(self._device, TUNSETLINK, hardware)
            namespace.sysctl(f"net.ipv6.conf.{TUN}.disable_ipv6", 1)  # with IPv6, the kernel itself sends packets
            namespace.ip(f"link set {TUN} up")
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)

    def close(self) -> None:
        self.collector.attachments.detach_all()
        self._socket.close()
        os.close(self._device)

    @contextmanager
    def watched_behind(self, calls: Sequence[bytes]) -> Iterator[None]:
        """Watch the device. While the body of the `with` statement runs, another program makes the calls in `calls`
        before the program of otel-epping runs."""
        self.collector.attachments.attach(TUN)
        with other_programs.attached(TUN, calls):
            yield

    def receive(self, packet: Packet) -> None:
        """Make the kernel receive a packet."""
        os.write(self._device, bytes(packet))

    def transmit(self, packet: Packet, protocol: int = 0) -> None:
        """Make the kernel transmit a packet, like a packet socket that is bound to `protocol`."""
        self._socket.sendto(bytes(packet), (TUN, protocol))

    def counters(self, name: str = TUN) -> dict[str, tuple[int, int]]:
        """Return the packets and bytes of an interface by direction and kind. Leave out counters that are 0."""
        reading = self.collector.reader().read()
        (number,) = (number for number, known in enumerate(reading.names.values()) if known == name)
        record = reading.interfaces[number]
        counts = {
            f"{way} {kind}": (int(record[way][place]["packets"]), int(record[way][place]["bytes"]))
            for way in ("received", "transmitted")
            for place, kind in enumerate(KINDS)
        }
        return {name: count for name, count in counts.items() if count != (0, 0)}

    def rtts(self) -> int:
        return int(self.collector.reader().read().rtts.buckets.counts.sum())


@pytest.fixture
def tun(collector: EppingCollector, request: pytest.FixtureRequest) -> Iterator[Tun]:
    """A tun device. The fixture's parameter is the hardware type that the device reports (linux/if_arp.h)."""
    hardware = getattr(request, "param", ARPHRD_NONE)
    with Namespace("tun") as namespace, closing(Tun(collector, namespace, hardware)) as tun:
        yield tun


def added(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    changes = {
        name: (packets - before.get(name, (0, 0))[0], size - before.get(name, (0, 0))[1])
        for name, (packets, size) in after.items()
    }
    return {name: change for name, change in changes.items() if change != (0, 0)}


def segment(version: int, outgoing: bool, port: int, tsval: int, tsecr: int) -> Packet:
    ends = ("192.0.2.1", "198.51.100.1") if version == 4 else ("2001:db8::1", "2001:db9::1")
    source, destination = ends if outgoing else ends[::-1]
    own, other = (port, 443) if outgoing else (443, port)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (tsval, tsecr))]
    network = IP if version == 4 else IPv6
    return network(src=source, dst=destination) / TCP(sport=own, dport=other, flags="PA", options=options) / b"data"


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("version", [4, 6])
def test_bytes_before_the_network_header_are_skipped_and_not_counted(tun: Tun, version: int, front: str) -> None:
    """Two transmitted segments and a received reply give an RTT. The program and the device must count the same length
    for each packet."""
    with tun.namespace.entered(), tun.watched_behind(pushed(front)):
        before, rtts = tun.counters(), tun.rtts()
        port = 20_000 + list(FRONTS).index(front) + 100 * version
        out = [segment(version, True, port, tsval, 0) for tsval in (1000, 2000)]
        back = segment(version, False, port, 1, 2000)
        for each in out:
            tun.transmit(each, ETH_P_IP if version == 4 else ETH_P_IPV6)
        tun.receive(back)
        expected = {
            "transmitted tcp": (2, sum(len(bytes(each)) for each in out)),
            "received tcp": (1, len(bytes(back))),
        }
        becomes(lambda: added(before, tun.counters()), expected)
        assert tun.rtts() == rtts + 1


@pytest.mark.parametrize(
    ("tun", "front"),
    [(ARPHRD_ETHER, "nothing"), *itertools.product(HARDWARE, ["nothing", "Ethernet, 6", "GRE"])],
    indirect=["tun"],
)
def test_the_type_of_the_device_does_not_matter(tun: Tun, front: str) -> None:
    """Tests an Ethernet device whose packets have no Ethernet header. Also tests other devices, whose packets have
    headers that do not belong to the type of the device."""
    with tun.namespace.entered(), tun.watched_behind(pushed(front)):
        before = tun.counters()
        packets = [IP() / UDP() / bytes(20), IPv6() / UDP() / bytes(20)]
        for packet, protocol in zip(packets, (ETH_P_IP, ETH_P_IPV6), strict=True):
            tun.receive(packet)
            tun.transmit(packet, protocol)
        total = sum(len(bytes(packet)) for packet in packets)
        becomes(lambda: added(before, tun.counters()), {"received udp": (2, total), "transmitted udp": (2, total)})


def pushed(front: str) -> list[bytes]:
    """Return the BPF helper calls that insert the bytes of `front` before the packet."""
    size = size_of(front)
    if not size:
        return []
    calls = [other_programs.call(other_programs.BPF_FUNC_SKB_CHANGE_HEAD, size, 0)]
    if len(FRONTS[front]) <= 64:
        calls.append(other_programs.call(other_programs.BPF_FUNC_SKB_STORE_BYTES, 0, FRONTS[front], size, 0))
    return calls


def test_a_packet_socket_without_a_protocol(tun: Tun) -> None:
    with tun.namespace.entered():
        tun.collector.attachments.attach(TUN)
        before = tun.counters()
        packets = [IP() / UDP() / bytes(20), IPv6() / UDP() / bytes(20)]
        for packet in packets:
            tun.transmit(packet)
            tun.transmit(packet, ETH_P_ALL)
        expected = {"transmitted udp": (4, 2 * sum(len(bytes(packet)) for packet in packets))}
        becomes(lambda: added(before, tun.counters()), expected)


def test_the_protocol_of_the_kernel_decides(tun: Tun) -> None:
    """For a packet without a link header, the program uses the protocol that the kernel has stored with the packet. In
    an MPLS packet, the program looks for an IP header after the labels. A packet with an unknown protocol is not IP,
    even if it contains an IP header."""
    with tun.namespace.entered():
        tun.collector.attachments.attach(TUN)
        before = tun.counters()
        labelled, other = MPLS(label=16, s=1) / IP() / UDP() / bytes(20), IP() / UDP() / bytes(20)
        tun.transmit(labelled, 0x8847)
        tun.transmit(other, 0x88B5)  # IEEE 802, local experiments
        expected = {
            "transmitted udp": (1, len(bytes(labelled))),
            "transmitted non_ip": (1, len(bytes(other))),
        }
        becomes(lambda: added(before, tun.counters()), expected)


# The IP source addresses of the packets. If the IP header were read as an Ethernet header, each of these addresses
# would give a known EtherType: IPv4 (followed by the first byte of an IPv4 header), IPv6, or 802.1Q.
@pytest.mark.parametrize("source", ["8.0.69.0", "8.0.70.1", "134.221.96.1", "129.0.1.1", "192.0.2.1"])
def test_packets_without_a_link_header_on_an_ethernet_device(tun: Tun, source: str) -> None:
    """A shaper redirects packets from a PPP or tun device to an IFB device, which has the type Ethernet."""
    tun.namespace.ip("link add ifb-epping type ifb", "link set ifb-epping up")
    tun.namespace.run("tc", "qdisc", "add", "dev", TUN, "clsact")
    match = "protocol all u32 match u32 0 0 action mirred egress redirect dev ifb-epping"
    tun.namespace.run("tc", "filter", "add", "dev", TUN, "ingress", *match.split())
    with tun.namespace.entered():
        tun.collector.attachments.attach("ifb-epping")
    before = tun.counters("ifb-epping")
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 0))]
    packets = [
        IP(src=source, dst="198.51.100.1") / UDP() / bytes(20),
        IP(src=source, dst="198.51.100.1") / TCP(flags="PA", options=options) / b"data",
        IP(src=source, dst="198.51.100.1", options=b"\1\1\1\0") / UDP() / bytes(20),
    ]
    for packet in packets:
        tun.receive(packet)
    sizes = [len(bytes(packet)) for packet in packets]
    expected = {"transmitted udp": (2, sizes[0] + sizes[2]), "transmitted tcp": (1, sizes[1])}
    becomes(lambda: added(before, tun.counters("ifb-epping")), expected)
