# SPDX-License-Identifier: Apache-2.0
"""Link headers of hosts and LANs: loopback, Linux cooked captures, firewall logs, and LANs other than Ethernet."""

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

# AF_INET, then AF_INET6 on Linux, Windows, NetBSD and OpenBSD, Solaris, FreeBSD, macOS
_BY_FAMILY = lookup_table(256, {2: IPV4, 10: IPV6, 23: IPV6, 24: IPV6, 26: IPV6, 28: IPV6, 30: IPV6})
# Numbers below this are no EtherTypes (IEEE 802.3); Linux uses some of them for other protocols (linux/if_ether.h).
_MIN_ETHERTYPE, _LLC = 0x0600, 0x0004
# linux/if_arp.h: hardware types whose protocol field is no EtherType, and those with a further link header
_NETLINK, _WIRELESS = 824, {801: frame, 802: prism, 803: radiotap}

# linux/netfilter/nfnetlink_log.h
_PACKET_HEADER, _PAYLOAD, _KIND = 1, 9, 0x3FFF
_MAX_ATTRIBUTES = 64
_ARCNET = lookup_table(256, {212: IPV4, 240: IPV4, 196: IPV6})  # RFC 1201, RFC 1051, RFC 2497
_ARCNET_OLD = 240
# ERF types that carry Ethernet, PPP or HDLC, or IP (libpcap's pcap-dag.c)
_ERF_ETHERNET, _ERF_HDLC, _ERF_IP = (2, 11, 16, 20), (1, 10, 15, 19), (22, 23)
_ERF_MORE = 0x80
_MAX_ERF_EXTENSIONS = 16
_START_OF_FRAME = 0xD5


def null(view: PacketView) -> LinkHeaders:
    """BSD loopback: an address family of 4 bytes, in the byte order of the capturing machine.

    The number is below 256, so byte 0 or byte 3 is zero.
    """
    return fixed_size(4, _BY_FAMILY[view.byte(0) | view.byte(3)])


def enc(view: PacketView) -> LinkHeaders:
    """OpenBSD enc(4): address family as in null(), security parameter index, flags."""
    return fixed_size(12, _BY_FAMILY[view.byte(0) | view.byte(3)])


def pflog(view: PacketView) -> LinkHeaders:
    """BSD pflog(4): header length, address family. The header is padded to a multiple of 4 bytes."""
    return LinkHeaders((view.byte(0) + 3) // 4 * 4, _BY_FAMILY[view.byte(1)])


def ipnet(view: PacketView) -> LinkHeaders:
    """Solaris ipnet: version, address family."""
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
    """Linux cooked capture version 1, as `tcpdump -i any` writes it."""
    return _cooked(view, 16, 14, 2)


def cooked_v2(view: PacketView) -> LinkHeaders:
    """Linux cooked capture version 2."""
    return _cooked(view, 20, 0, 8)


def nflog(view: PacketView) -> LinkHeaders:
    """Linux NFLOG: netlink attributes, one of which contains the packet; in the capturing machine's byte order."""
    # The first attribute has at most 255 bytes, so one byte of its length is zero and reveals the byte order.
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
        # The snap length may have cut off the padding of the payload.
        trailers = np.where(is_payload, np.where(ends < at + size, -size % 4, ends - at - size), trailers)
        # An invalid length ends the search.
        at = np.where((found == 0) & (size >= 4), at + (size + 3) // 4 * 4, ends)
        if (at >= ends).all():
            break
    by_family = np.where(family == 2, IPV4, np.where(family == 10, IPV6, protocol))
    return only_if(found != 0, LinkHeaders(found, by_family, trailers))


def pppoe(view: PacketView) -> LinkHeaders:
    """PPPoE without an Ethernet header."""
    return fixed_size(0, view.zeros() + PPPOE_SESSION)


def mpls(view: PacketView) -> LinkHeaders:
    """MPLS without an Ethernet header."""
    return fixed_size(0, view.zeros() + MPLS)


def token_ring(view: PacketView) -> LinkHeaders:
    """Token Ring, IEEE 802.5: access and frame control, addresses, routing information.

    The highest bit of the source address marks packets with routing information.
    """
    route = np.where(view.byte(8) & 0x80 != 0, view.byte(14) & 0x1F, 0)
    return only_if(view.byte(1) & 0xC0 == 0x40, after(14 + route, llc)(view))


def fddi(view: PacketView) -> LinkHeaders:
    """FDDI: frame control, addresses."""
    return only_if(np.isin(view.byte(0) & 0xF0, (0x50, 0xD0)), after(13, llc)(view))


def fibre_channel(view: PacketView) -> LinkHeaders:
    """IP over Fibre Channel, RFC 2625: the network header."""
    return after(16, llc)(view)


def infiniband(view: PacketView) -> LinkHeaders:
    """IP over InfiniBand, RFC 4391: global route header, EtherType, 2 reserved bytes."""
    return fixed_size(44, view.big(40))


def firewire(view: PacketView) -> LinkHeaders:
    """macOS IP over IEEE 1394: two addresses of 8 bytes, EtherType."""
    return fixed_size(18, view.big(16))


def arcnet(view: PacketView) -> LinkHeaders:
    """ARCNET: addresses and type. In RFC 1201 a split flag and a sequence number follow.

    An exception frame (RFC 1201) has 4 bytes more between type and split flag.
    """
    kind, is_exception = view.byte(2), view.byte(3) == 0xFF
    size = np.where(kind == _ARCNET_OLD, 3, np.where(is_exception, 10, 6))
    flag = np.where(is_exception, view.byte(7), view.byte(3))
    return only_if((kind == _ARCNET_OLD) | (flag == 0), LinkHeaders(size, _ARCNET[kind]))


def arcnet_linux(view: PacketView) -> LinkHeaders:
    """Linux ARCNET: as arcnet(), with an offset field before the type."""
    kind = view.byte(4)
    whole = (kind == _ARCNET_OLD) | (view.byte(5) == 0)
    return only_if(whole, LinkHeaders(np.where(kind == _ARCNET_OLD, 5, 8), _ARCNET[kind]))


def slip(view: PacketView) -> LinkHeaders:
    """BSD SLIP: 16 bytes: the direction, and the IP header as sent on the line, maybe compressed."""
    return after(16, raw)(view)


def symantec(view: PacketView) -> LinkHeaders:
    """Symantec Enterprise Firewall: a header of 44 bytes with an EtherType."""
    return fixed_size(44, view.big(6))


def preamble(view: PacketView) -> LinkHeaders:
    """A preamble of 8 bytes; its last byte marks the start of a whole frame, not of a fragment (IEEE 802.3br)."""
    return only_if(view.byte(7) == _START_OF_FRAME, after(8, with_checksum(ethernet))(view))


def netanalyzer_transparent(view: PacketView) -> LinkHeaders:
    """netANALYZER in transparent mode: 4 bytes of the card, then the frame with its preamble."""
    return after(4, preamble)(view)


def erf(view: PacketView) -> LinkHeaders:
    """Endace ERF: a record header of 16 bytes, extension headers of 8 bytes, then the packet.

    The packet is an Ethernet frame after 2 bytes, a PPP or HDLC frame, or IP.
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
