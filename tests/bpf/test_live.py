# SPDX-License-Identifier: Apache-2.0
"""Tests properties that only real interfaces show: the layout of packets in memory, and packets without a link
header."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from otel_epping.kernel import libbpf
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.collector import EppingCollector
from otel_epping.lab.namespaces import Namespace
from tests.support.readings import traffic

# linux/socket.h, linux/if_packet.h, linux/if_tun.h
SOL_PACKET = 263
PACKET_VNET_HDR = 15
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 0))]
TCP_TIMESTAMP = 0  # enum traffic_class


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("host") as namespace:
        namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # with IPv6, the kernel itself sends packets
        yield namespace


def packets(collector: EppingCollector, way: str) -> list[int]:
    """Returns the number of packets of the only watched interface, by kind."""
    counters = collector.reader().read().interfaces[1]
    return [int(count) for count in counters[way]["packets"]]


def test_headers_outside_of_the_linear_part_are_read(host: Namespace) -> None:
    host.ip(
        "link add near type veth peer name far",
        "link set near mtu 9000 up",
        "link set far mtu 9000 up",
    )
    frame = bytes(Ether() / IP(src="192.0.2.1", dst="198.51.100.1") / TCP(flags="PA", options=TIMESTAMPS) / bytes(6000))
    # struct virtio_net_hdr: if a packet is longer than a page, the kernel puts hdr_len bytes into the linear part and
    # the rest into pages. Drivers also split long received packets into a linear part and pages.
    only_ethernet_is_linear = struct.pack("=BBHHHH", 0, 0, 14, 0, 0, 0)
    with EppingCollector() as collector, host.entered():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sender.bind(("near", 0))
            collector.attachments.attach("near")
            sender.send(only_ethernet_is_linear + frame)
        assert packets(collector, "transmitted") == [1, 0, 0, 0, 0, 0, 0]
        reading = collector.reader().read()
    # The packet is counted with all its bytes, once for each of the two subnets. The packet has the class of packets
    # with a timestamp option.
    assert traffic(reading)[:, 0, TCP_TIMESTAMP].sum(0).tolist() == [1, len(frame)]
    assert traffic(reading)[:, 1, TCP_TIMESTAMP].sum(0).tolist() == [1, len(frame)]


def test_an_interface_without_link_header(host: Namespace) -> None:
    packet = bytes(IP(src="192.0.2.1", dst="198.51.100.1") / TCP(flags="PA", options=TIMESTAMPS) / b"data")
    with EppingCollector() as collector, host.entered():
        tun = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN_NO_PI))
            host.ip("link set tun0 up")
            assert interfaces.find("tun0").link_header == 0
            collector.attachments.attach("tun0")
            os.write(tun, packet)
        finally:
            os.close(tun)
        assert packets(collector, "received") == [1, 0, 0, 0, 0, 0, 0]
        reading = collector.reader().read()
    assert traffic(reading)[:, 0, TCP_TIMESTAMP].sum(0).tolist() == [1, len(packet)]


def test_detaching_removes_the_program_from_both_hooks(host: Namespace) -> None:
    host.ip("link add near type veth peer name far", "link set near up", "link set far up")
    with EppingCollector() as collector, host.entered():
        ifindex = socket.if_nametoindex("near")
        collector.attachments.attach("near")
        assert libbpf.attached_count(ifindex, libbpf.BPF_TCX_INGRESS) == 1
        assert libbpf.attached_count(ifindex, libbpf.BPF_TCX_EGRESS) == 1
        collector.attachments.detach("near")
        assert libbpf.attached_count(ifindex, libbpf.BPF_TCX_INGRESS) == 0
        assert libbpf.attached_count(ifindex, libbpf.BPF_TCX_EGRESS) == 0
