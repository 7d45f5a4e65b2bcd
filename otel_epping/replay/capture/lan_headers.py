# SPDX-License-Identifier: Apache-2.0
"""Reads link headers of loopback interfaces, Linux cooked captures, firewall logs, and LANs other than Ethernet."""

import numpy as np

from otel_epping.replay.capture.common_headers import after, ethernet, llc, raw, with_checksum
from otel_epping.replay.capture.packet_view import (
    IPV4,
    IPV6,
    MPLS,
    PPPOE_SESSION,
    LinkHeaders,
    PacketView,
    choose,
    fixed_size,
    lookup_table,
    only_if,
)
from otel_epping.replay.capture.wan_headers import ppp
from otel_epping.replay.capture.wifi_headers import frame, prism, radiotap

# AF_INET is 2. AF_INET6 is 10 on Linux, 23 on Windows, 24 on NetBSD and OpenBSD, 26 on Solaris, 28 on FreeBSD, 30 on
# macOS.
_BY_FAMILY = lookup_table(256, {2: IPV4, 10: IPV6, 23: IPV6, 24: IPV6, 26: IPV6, 28: IPV6, 30: IPV6})
# Numbers below _MIN_ETHERTYPE are not EtherTypes (IEEE 802.3). Linux uses some of these numbers for other protocols
# (linux/if_ether.h).
_MIN_ETHERTYPE, _LLC = 0x0600, 0x0004
# Hardware types of linux/if_arp.h. In packets with the type _NETLINK, the protocol field is not an EtherType. In
# packets with a type in _WIRELESS, another link header follows the SLL header.
_NETLINK, _WIRELESS = 824, {801: frame, 802: prism, 803: radiotap}

# linux/netfilter/nfnetlink_log.h
_PACKET_HEADER, _PAYLOAD, _KIND = 1, 9, 0x3FFF
_MAX_ATTRIBUTES = 64
_ARCNET = lookup_table(256, {212: IPV4, 240: IPV4, 196: IPV6})  # RFC 1201, RFC 1051, RFC 2497
_ARCNET_OLD = 240
# ERF types of records that contain an Ethernet frame, a PPP or HDLC frame, or an IP packet (libpcap's pcap-dag.c)
_ERF_ETHERNET, _ERF_HDLC, _ERF_IP = (2, 11, 16, 20), (1, 10, 15, 19), (22, 23)
_ERF_MORE = 0x80
_MAX_ERF_EXTENSIONS = 16
_START_OF_FRAME = 0xD5


def null(view: PacketView) -> LinkHeaders:
    """Reads a BSD loopback header: an address family of 4 bytes, in the byte order of the capturing machine.

    The address family is a number below 256. So byte 0 or byte 3 contains the address family, and all other bytes
    are 0.
    """
    return fixed_size(4, _BY_FAMILY[view.byte(0) | view.byte(3)])


def enc(view: PacketView) -> LinkHeaders:
    """Reads an OpenBSD enc(4) header: address family (as in a BSD loopback header), security parameter index, flags."""
    return fixed_size(12, _BY_FAMILY[view.byte(0) | view.byte(3)])


def pflog(view: PacketView) -> LinkHeaders:
    """Reads a BSD pflog(4) header: header length, address family. The header is padded to a multiple of 4 bytes."""
    return LinkHeaders((view.byte(0) + 3) // 4 * 4, _BY_FAMILY[view.byte(1)])


def ipnet(view: PacketView) -> LinkHeaders:
    """Reads a Solaris ipnet header: version, address family."""
    return fixed_size(24, _BY_FAMILY[view.byte(1)])


def _cooked(view: PacketView, size: int, protocol_at: int, hardware_at: int) -> LinkHeaders:
    protocol, hardware = view.big(protocol_at), view.big(hardware_at)
    found = only_if((hardware != _NETLINK) & (protocol >= _MIN_ETHERTYPE), fixed_size(size, protocol))
    if (protocol == _LLC).any():
        found = choose(protocol == _LLC, after(size, llc)(view), found)
    for kind, reader in _WIRELESS.items():
        if (hardware == kind).any():
            found = choose(hardware == kind, after(size, reader)(view), found)
    return found


def cooked(view: PacketView) -> LinkHeaders:
    """Reads the header of Linux cooked captures version 1 (SLL), which older versions of `tcpdump -i any` write."""
    return _cooked(view, 16, 14, 2)


def cooked_v2(view: PacketView) -> LinkHeaders:
    """Reads the header of Linux cooked captures version 2 (SLL2)."""
    return _cooked(view, 20, 0, 8)


def nflog(view: PacketView) -> LinkHeaders:
    """Reads Linux NFLOG: a header of 4 bytes, then netlink attributes in the byte order of the capturing machine.

    One of the netlink attributes contains the packet.
    """
    # The first attribute has at most 255 bytes, so one of the two bytes of the attribute's length field is 0. The
    # position of the 0 shows the byte order.
    is_big = (view.byte(4) == 0) & (view.byte(5) != 0)
    family, protocol = view.byte(0), view.zeros()
    at, found, ends = np.full(len(view), 4), view.zeros(), view.ends - view.starts
    trailers = view.zeros()
    for _ in range(_MAX_ATTRIBUTES):
        size = np.where(is_big, view.big(at), view.little(at, 2))
        kind = np.where(is_big, view.big(at + 2), view.little(at + 2, 2)) & _KIND
        protocol = np.where((kind == _PACKET_HEADER) & (size >= 6), view.big(at + 4), protocol)
        is_payload = (kind == _PAYLOAD) & (size >= 4) & (found == 0)
        found = np.where(is_payload, at + 4, found)
        # The packet may lack the padding after the payload, because the snap length may have cut it off.
        trailers = np.where(is_payload, np.where(ends < at + size, -size % 4, ends - at - size), trailers)
        # The search for the payload ends at an attribute with an invalid length.
        at = np.where((found == 0) & (size >= 4), at + (size + 3) // 4 * 4, ends)
        if (at >= ends).all():
            break
    by_family = np.where(family == 2, IPV4, np.where(family == 10, IPV6, protocol))
    return only_if(found != 0, LinkHeaders(found, by_family, trailers))


def pppoe(view: PacketView) -> LinkHeaders:
    """Reads PPPoE packets without an Ethernet header."""
    return fixed_size(0, view.zeros() + PPPOE_SESSION)


def mpls(view: PacketView) -> LinkHeaders:
    """Reads MPLS packets without an Ethernet header."""
    return fixed_size(0, view.zeros() + MPLS)


def token_ring(view: PacketView) -> LinkHeaders:
    """Reads a Token Ring header (IEEE 802.5): access control, frame control, addresses, optional routing information.

    If the highest bit of the source address is 1, the header contains routing information.
    """
    route = np.where(view.byte(8) & 0x80 != 0, view.byte(14) & 0x1F, 0)
    return only_if(view.byte(1) & 0xC0 == 0x40, after(14 + route, llc)(view))


def fddi(view: PacketView) -> LinkHeaders:
    """Reads an FDDI header: frame control, addresses."""
    return only_if(np.isin(view.byte(0) & 0xF0, (0x50, 0xD0)), after(13, llc)(view))


def fibre_channel(view: PacketView) -> LinkHeaders:
    """Reads the network header of IP over Fibre Channel (RFC 2625)."""
    return after(16, llc)(view)


def infiniband(view: PacketView) -> LinkHeaders:
    """Reads the header of IP over InfiniBand (RFC 4391): global route header, EtherType, 2 reserved bytes."""
    return fixed_size(44, view.big(40))


def firewire(view: PacketView) -> LinkHeaders:
    """Reads the header of IP over IEEE 1394 on macOS: two addresses of 8 bytes, EtherType."""
    return fixed_size(18, view.big(16))


def arcnet(view: PacketView) -> LinkHeaders:
    """Reads an ARCNET header: addresses and type. In RFC 1201, a split flag and a sequence number follow the type.

    An exception frame (RFC 1201) has 4 additional bytes between the type and the split flag.
    """
    kind, is_exception = view.byte(2), view.byte(3) == 0xFF
    size = np.where(kind == _ARCNET_OLD, 3, np.where(is_exception, 10, 6))
    flag = np.where(is_exception, view.byte(7), view.byte(3))
    return only_if((kind == _ARCNET_OLD) | (flag == 0), LinkHeaders(size, _ARCNET[kind]))


def arcnet_linux(view: PacketView) -> LinkHeaders:
    """Reads a Linux ARCNET header, which is an ARCNET header with an additional offset field before the type."""
    kind = view.byte(4)
    whole = (kind == _ARCNET_OLD) | (view.byte(5) == 0)
    return only_if(whole, LinkHeaders(np.where(kind == _ARCNET_OLD, 5, 8), _ARCNET[kind]))


def slip(view: PacketView) -> LinkHeaders:
    """Reads a BSD SLIP header of 16 bytes: the direction, and the first bytes of the packet on the wire.

    On the wire, the IP header may be compressed.
    """
    return after(16, raw)(view)


def symantec(view: PacketView) -> LinkHeaders:
    """Reads a header of Symantec Enterprise Firewall: 44 bytes that contain an EtherType."""
    return fixed_size(44, view.big(6))


def preamble(view: PacketView) -> LinkHeaders:
    """Reads a preamble of 8 bytes and an Ethernet header.

    The last byte of the preamble shows whether a whole frame or a fragment follows (IEEE 802.3br).
    """
    return only_if(view.byte(7) == _START_OF_FRAME, after(8, with_checksum(ethernet))(view))


def netanalyzer_transparent(view: PacketView) -> LinkHeaders:
    """Reads packets of netANALYZER in transparent mode: a header of 4 bytes, then the frame with its preamble."""
    return after(4, preamble)(view)


def erf(view: PacketView) -> LinkHeaders:
    """Reads Endace ERF: a record header of 16 bytes, extension headers of 8 bytes each, then the packet.

    The packet is a PPP or HDLC frame, an IP packet, or 2 bytes and an Ethernet frame.
    """
    kind = view.byte(8)
    more, size = kind, np.full(len(view), 16)
    for _ in range(_MAX_ERF_EXTENSIONS):
        another = more & _ERF_MORE != 0
        if not another.any():
            break
        more = np.where(another, view.byte(size), 0)
        size = np.where(another, size + 8, size)
    kind = kind & ~_ERF_MORE
    found = choose(np.isin(kind, _ERF_ETHERNET), after(size + 2, ethernet)(view), fixed_size(0, view.zeros()))
    found = choose(np.isin(kind, _ERF_HDLC), after(size, ppp)(view), found)
    return choose(np.isin(kind, _ERF_IP), after(size, raw)(view), found)
