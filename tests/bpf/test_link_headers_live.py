# SPDX-License-Identifier: Apache-2.0
"""Tests link headers as the kernel stores them: tags outside of the packet data, headers in several pages, padding, and
aggregated segments.

BPF_PROG_TEST_RUN cannot store a packet in these ways, so the tests send packets through a veth pair. The ends of the
veth pair are `near` and `far`. A tag outside of the data needs no VLAN device, because the kernel moves the outer tag
of a received packet out of the data before the packet reaches the hook. If a test needs other tags, a small BPF program
pushes the tags. The small program runs before the program of otel-epping.
"""

import ctypes
import fcntl
import itertools
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

from otel_epping.kernel.collector import EppingCollector
from otel_epping.lab.namespaces import Namespace
from tests.long.fuzz import builders
from tests.support import other_programs
from tests.support.packets import quic
from tests.support.patience import PATIENCE_S, becomes
from tests.support.prog_test_run import KINDS

pytestmark = pytest.mark.parallel


# linux/socket.h, linux/if_packet.h
SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR = 263, 8, 15
TP_STATUS_VLAN_VALID = 1 << 4
# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL = 0x8946
ETHTOOL_STSO, ETHTOOL_GFLAGS, ETHTOOL_SFLAGS = 0x1F, 0x25, 0x26
ETH_FLAG_VLAN = 1 << 7 | 1 << 8  # for transmitted and for received packets

CTAG, STAG = 0x8100, 0x88A8
TAG_BYTES = 4
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")

ports = itertools.count(20_000)


@pytest.fixture(scope="module")
def collector() -> Iterator[EppingCollector]:
    with EppingCollector() as collector:
        yield collector


@dataclass
class Pair:
    """The two ends of a veth pair, in separate namespaces. Every test watches `near`; some tests watch `far`, too."""

    collector: EppingCollector
    near: Namespace
    far: Namespace

    def namespace(self, name: str) -> Namespace:
        return self.near if name == "near" else self.far

    def watch(self, name: str) -> None:
        with self.namespace(name).entered():
            self.collector.attachments.attach(name)

    def socket(self, name: str) -> socket.socket:
        """Returns a packet socket of one end. The socket receives and sends packets at this end."""
        with self.namespace(name).entered():
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            end.bind((name, 3))  # ETH_P_ALL
        end.settimeout(PATIENCE_S)
        return end

    def ethtool(self, name: str, command: int, value: int = 0) -> int:
        """Gets or sets the features of one end."""
        wanted = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
        with self.namespace(name).entered(), socket.socket() as any_socket:
            request = struct.pack("16sP16x", name.encode(), ctypes.addressof(wanted))
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)
        return int.from_bytes(wanted.raw[4:], "little")

    def counters(self, name: str) -> dict[str, Any]:
        """Returns the counters of one end by name. The value of a name such as "received tcp" is a tuple (packets,
        bytes). The value of "rtt_begun" is a number."""
        reading = self.collector.reader().read()
        (number,) = (number for number, known in enumerate(reading.names.values()) if known == name)
        record = reading.interfaces[number]
        counts: dict[str, Any] = {"rtt_begun": int(record["rtt_begun"])}
        for way, (place, kind) in itertools.product(("received", "transmitted"), enumerate(KINDS)):
            counts[f"{way} {kind}"] = tuple(int(count) for count in record[way][place])
        return counts

    def rtts(self) -> int:
        """Returns the number of RTTs that were counted."""
        return int(self.collector.reader().read().rtts.buckets.counts.sum())


@pytest.fixture
def pair(collector: EppingCollector) -> Iterator[Pair]:
    with Namespace("near") as near, Namespace("far") as far:
        for namespace in (near, far):
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # with IPv6, the kernel itself sends packets
        # The program identifies the interfaces of all namespaces by their ifindex, so no other interface may have these
        # numbers.
        near.ip(
            f"link add near index 7001 mtu 9000 type veth peer name far index 7002 mtu 9000 netns {far.path}",
            "link set near up",
        )
        far.ip("link set far up")
        yield Pair(collector, near, far)
        collector.attachments.detach_all()


# ---- tags


def segment(from_near: bool, port: int, tsval: int, tsecr: int) -> Packet:
    ends = ("192.0.2.1", "198.51.100.1") if from_near else ("198.51.100.1", "192.0.2.1")
    own, other = (port, 443) if from_near else (443, port)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (tsval, tsecr))]
    return IP(src=ends[0], dst=ends[1]) / TCP(sport=own, dport=other, flags="PA", options=options) / b"data"


def converse(pair: Pair, link: Packet, pushed_in: int, taken_off: int) -> None:
    """Check that two segments that leave `near` and a reply that enters `near` give an RTT.

    Each packet must be counted once, with the length that it has in memory at the hook. The length includes headers
    that were pushed before the hook. The length does not include headers that were removed before the hook.
    """
    port = next(ports)
    out = [bytes(link / segment(True, port, tsval, 0)) for tsval in (1000, 2000)]
    back = bytes(link / segment(False, port, 1, 2000))
    before, rtts = pair.counters("near"), pair.rtts()
    with closing(pair.socket("near")) as near, closing(pair.socket("far")) as far:
        for frame in out:
            near.send(frame)
        far.send(back)
    sent = before["transmitted tcp"][0] + 2, before["transmitted tcp"][1] + sum(map(len, out)) + 2 * pushed_in
    came = before["received tcp"][0] + 1, before["received tcp"][1] + len(back) + pushed_in - taken_off
    expected = before | {"transmitted tcp": sent, "received tcp": came, "rtt_begun": before["rtt_begun"] + 1}
    becomes(lambda: pair.counters("near"), expected)
    assert pair.rtts() == rtts + 1


@pytest.mark.parametrize(
    ("link", "outer"),
    [(ETHER / Dot1Q(vlan=5), CTAG), (ETHER / Dot1AD(vlan=5), STAG), (ETHER / Dot1AD(vlan=5) / Dot1Q(vlan=6), STAG)],
    ids=["802.1Q", "802.1ad", "QinQ"],
)
def test_the_kernel_removes_the_outer_tag_of_received_packets(pair: Pair, link: Packet, outer: int) -> None:
    pair.watch("near")
    count = pair.counters("near")["received udp"][0]
    with closing(pair.socket("near")) as near, closing(pair.socket("far")) as far:
        near.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        frame = bytes(link / IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / bytes(20))
        far.send(frame)
        data, extra, _, _ = near.recvmsg(9000, 1000)
        # struct tpacket_auxdata
        status, *_, protocol = struct.unpack("=IIIHHHH", extra[0][2])
        assert (status & TP_STATUS_VLAN_VALID, protocol, data) == (TP_STATUS_VLAN_VALID, outer, frame[:12] + frame[16:])
    becomes(lambda: pair.counters("near")["received udp"][0], count + 1)
    converse(pair, link, 0, TAG_BYTES)


@contextmanager
def pushing(pair: Pair, name: str, protocols: tuple[int, ...]) -> Iterator[None]:
    """Attaches a program to both hooks of one end. The program pushes tags, and the last tag stays outside of the data.

    The program runs before all other programs on the hook.
    """
    calls = [
        other_programs.call(other_programs.BPF_FUNC_SKB_VLAN_PUSH, socket.htons(protocol), 5) for protocol in protocols
    ]
    with pair.namespace(name).entered(), other_programs.attached(name, calls):
        yield


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no offload"])
@pytest.mark.parametrize("protocols", [(CTAG,), (STAG,), (CTAG, STAG)], ids=["802.1Q", "802.1ad", "QinQ"])
def test_tags_outside_of_the_data_in_both_directions(pair: Pair, protocols: tuple[int, ...], offload: bool) -> None:
    """Only the last pushed tag is outside of the data; an earlier tag is in the packet."""
    for name in ("near", "far"):
        flags = pair.ethtool(name, ETHTOOL_GFLAGS)
        pair.ethtool(name, ETHTOOL_SFLAGS, flags | ETH_FLAG_VLAN if offload else flags & ~ETH_FLAG_VLAN)
    pair.watch("near")
    with (
        pushing(pair, "near", protocols),
        closing(pair.socket("far")) as far,
        closing(pair.socket("near")) as near,
    ):
        frame = bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / bytes(20))
        near.send(frame)
        # At `far`, the outer tag is outside of the data, too. AF_PACKET shows only the inner tag.
        received = far.recv(9000)
        assert received == frame[:12] + struct.pack(">HH", CTAG, 5) * (len(protocols) - 1) + frame[12:]
        converse(pair, ETHER, TAG_BYTES * (len(protocols) - 1), 0)


FRAMES = {
    name: Raw(builders.link((name,), 4, 1))
    for name in (
        "pppoe, one byte",
        "802.3",
        "Cisco MetaData",
        "802.1BR",
        "VN-Tag",
        "802.1ah",
        "HSR",
        "NSH",
        "pseudowire",
    )
}


@pytest.mark.parametrize("name", FRAMES)
def test_headers_that_the_kernel_does_not_know(pair: Pair, name: str) -> None:
    """Headers that the kernel does not know stay in the packet. For 802.3, the skb's protocol differs from the
    EtherType field."""
    pair.watch("near")
    converse(pair, FRAMES[name], 0, 0)


@pytest.mark.parametrize("name", ["802.3", "Cisco MetaData"])
def test_unknown_headers_after_a_tag_that_the_kernel_removes(pair: Pair, name: str) -> None:
    pair.watch("near")
    converse(pair, Raw(builders.link(("802.1Q", name), 4, 1)), 0, TAG_BYTES)


@pytest.mark.parametrize("version", [4, 6])
def test_a_first_fragment_of_a_reply_ends_an_rtt(pair: Pair, version: int) -> None:
    """The kernel sends and receives a DNS reply that is too long for the link.

    The kernel does not reassemble fragments before the hook.
    """
    pair.watch("near")
    before, rtts = pair.counters("near"), pair.rtts()
    port = next(ports)
    question = UDP(sport=port, dport=53) / DNS(id=7, qd=DNSQR(qname="example.org"))
    answer = UDP(sport=53, dport=port) / DNS(id=7, qr=1, qd=DNSQR(qname="example.org")) / Raw(bytes(1000))
    split: Any = fragment if version == 4 else fragment6
    asked: Packet
    answered: Packet
    if version == 4:
        asked, answered = IP(src="192.0.2.1", dst="192.0.2.2") / question, IP(src="192.0.2.2", dst="192.0.2.1") / answer
    else:
        asked = IPv6(src="2001:db8::1", dst="2001:db9::1") / question
        answered = IPv6(src="2001:db9::1", dst="2001:db8::1") / IPv6ExtHdrFragment(id=5) / answer
    parts = split(answered, 600)
    with closing(pair.socket("near")) as near, closing(pair.socket("far")) as far:
        near.send(bytes(ETHER / asked))
        becomes(lambda: pair.counters("near")["rtt_begun"], before["rtt_begun"] + 1)
        for part in parts:
            far.send(bytes(ETHER / part))
    becomes(lambda: pair.counters("near")["received fragment"][0], before["received fragment"][0] + len(parts) - 1)
    assert pair.counters("near")["received udp"][0] == before["received udp"][0] + 1
    assert pair.rtts() == rtts + 1


# ---- packet data in several pages


@pytest.mark.parametrize("linear", [14, 33, 34, 38, 41, 42, 46, 49, 50, 60])
@pytest.mark.parametrize("version", [4, 6])
def test_requests_outside_of_the_linear_part_are_read(pair: Pair, version: int, linear: int) -> None:
    """Drivers copy the bytes that are probably headers into the linear part of an skb, and leave the rest of the packet
    in pages."""
    pair.watch("near")
    network = IP(src="192.0.2.1", dst="192.0.2.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db9::1")
    port = next(ports)
    echo = ICMP(id=port, seq=1) if version == 4 else ICMPv6EchoRequest(id=port, seq=1)
    questions = {
        "udp": UDP(sport=port, dport=443) / quic(0) / bytes(6000),
        "icmp": echo / bytes(6000),
    }
    before = pair.counters("near")
    with closing(pair.socket("near")) as near:
        near.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for question in questions.values():
            # struct virtio_net_hdr: if a packet is longer than a page, the kernel puts hdr_len bytes into the linear
            # part
            near.send(struct.pack("=BBHHHH", 0, 0, linear, 0, 0, 0) + bytes(ETHER / network / question))
    after = pair.counters("near")
    assert [after[f"transmitted {kind}"][0] - before[f"transmitted {kind}"][0] for kind in questions] == [1, 1]
    assert after["rtt_begun"] - before["rtt_begun"] == 2


def test_padding_is_no_payload(pair: Pair) -> None:
    pair.watch("near")
    query = bytes(DNS(id=0x1234, qd=DNSQR(qname="example.org")))
    frame = bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5353, dport=53) / Padding(query))
    before = pair.counters("near")
    with closing(pair.socket("near")) as near, closing(pair.socket("far")) as far:
        near.send(frame)
        far.send(frame)
    changed = {
        f"{way} udp": tuple(old + new for old, new in zip(before[f"{way} udp"], (1, len(frame)), strict=True))
        for way in ("received", "transmitted")
    }
    becomes(lambda: pair.counters("near"), before | changed)


# ---- aggregates


def transfer(pair: Pair, size: int) -> None:
    """Transfers `size` bytes over TCP from near to far."""
    with pair.far.entered():
        listener = socket.create_server(("10.0.0.2", 0))
    with pair.near.entered(), listener, socket.create_connection(listener.getsockname()) as sender:
        receiver, _ = listener.accept()
        with receiver:
            receiver.setblocking(False)
            sender.setblocking(False)
            sent = received = 0
            while received < size:
                if sent < size:
                    with suppress(BlockingIOError):
                        sent += sender.send(bytes(min(size - sent, 1 << 18)))
                with suppress(BlockingIOError):
                    received += len(receiver.recv(1 << 20))


@pytest.mark.parametrize("aggregates_come_in", [True, False])
def test_aggregates_count_as_the_segments_on_the_wire(pair: Pair, aggregates_come_in: bool) -> None:
    """Both ends must have counted the same number of packets and bytes.

    At the hook of `near`, aggregates are not yet split into segments. At the hook of `far`, aggregates are already
    split only if TCP segmentation offload is off at `near`.
    """
    pair.near.ip("address add 10.0.0.1/24 dev near", "link set near mtu 1500")
    pair.far.ip("address add 10.0.0.2/24 dev far", "link set far mtu 1500")
    pair.ethtool("near", ETHTOOL_STSO, aggregates_come_in)
    before = {}
    for name in ("near", "far"):
        pair.watch(name)
        before[name] = pair.counters(name)
    transfer(pair, 4_000_000)

    def seen(name: str, way: str) -> tuple[int, ...]:
        key = f"{way} tcp"
        return tuple(new - old for new, old in zip(pair.counters(name)[key], before[name][key], strict=True))

    becomes(lambda: seen("far", "received"), seen("near", "transmitted"))
    becomes(lambda: seen("near", "received"), seen("far", "transmitted"))
    packets, size = seen("near", "transmitted")
    assert packets >= 4_000_000 // 1448
    assert size >= 4_000_000 + packets * (14 + 20 + 32)
    with pair.near.entered():
        skbs = int(Path("/proc/thread-self/net/dev").read_text().split("near:")[1].split()[9])
    assert skbs < packets / 2 if aggregates_come_in else skbs >= packets


def test_copies_of_broadcasts_for_this_host_are_not_counted(pair: Pair) -> None:
    """The kernel loops its own broadcasts back to local sockets. The counters of the device do not include the
    broadcasts that the kernel loops back."""
    pair.near.ip("address add 10.9.0.1/24 dev near")
    pair.watch("near")
    before = pair.counters("near")
    with pair.near.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.9.0.1"))
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver:
            receiver.bind(("", 9))
            receiver.settimeout(PATIENCE_S)
            for address in ("10.9.0.255", "224.0.0.251"):
                sender.sendto(bytes(20), (address, 9))
            assert receiver.recv(100) == bytes(20)  # the copy of the broadcast has arrived
    sent = before["transmitted udp"][0] + 2, before["transmitted udp"][1] + 2 * (14 + 20 + 8 + 20)
    becomes(lambda: pair.counters("near"), before | {"transmitted udp": sent})
