# SPDX-License-Identifier: Apache-2.0
"""Link types of hosts and local networks: loopback, cooked captures, logs of firewalls, switch tags, other LANs."""

import numpy as np

from otel_epping.replay.capture.framing import behind, ethernet, llc, raw, with_checksum
from otel_epping.replay.capture.view import IPV4, IPV6, MPLS, PPPOE_SESSION, Meaning, View, choose, fixed, known, table
from otel_epping.replay.capture.wide_area import ppp
from otel_epping.replay.capture.wireless import frame, prism, radiotap

# AF_INET, and AF_INET6 of Linux, Windows, NetBSD and OpenBSD, Solaris, FreeBSD, macOS
_BY_FAMILY = table(256, {2: IPV4, 10: IPV6, 23: IPV6, 24: IPV6, 26: IPV6, 28: IPV6, 30: IPV6})
# Pseudo EtherTypes of Linux begin below this (linux/if_ether.h, IEEE 802.3)
_LEAST_ETHERTYPE, _LLC = 0x0600, 0x0004
# Of linux/if_arp.h: whose protocol is no EtherType, and what has another header behind
_NETLINK, _WIRELESS = 824, {801: frame, 802: prism, 803: radiotap}

# linux/netfilter/nfnetlink_log.h
_PACKET_HEADER, _PAYLOAD, _KIND = 1, 9, 0x3FFF
_MOST_ATTRIBUTES = 64
_ARCNET = table(256, {212: IPV4, 240: IPV4, 196: IPV6})  # RFC 1201, RFC 1051, RFC 2497
_ARCNET_OLD = 240
# ERF types that carry Ethernet, PPP or HDLC, or IP (libpcap's pcap-dag.c)
_ERF_ETHERNET, _ERF_HDLC, _ERF_IP = (2, 11, 16, 20), (1, 10, 15, 19), (22, 23)
_ERF_MORE = 0x80
_MOST_ERF_EXTENSIONS = 16
_START_OF_FRAME = 0xD5


def null(view: View) -> Meaning:
    """An address family below 256, in the byte order of the machine that captured: so byte 0 or byte 3 is zero."""
    return fixed(4, _BY_FAMILY[view.byte(0) | view.byte(3)])


def enc(view: View) -> Meaning:
    """OpenBSD's enc(4): address family as above, security parameter index, flags."""
    return fixed(12, _BY_FAMILY[view.byte(0) | view.byte(3)])


def pflog(view: View) -> Meaning:
    """pflog(4): the header's length, which is filled up to words of 4 bytes, and the address family."""
    return Meaning((view.byte(0) + 3) // 4 * 4, _BY_FAMILY[view.byte(1)])


def ipnet(view: View) -> Meaning:
    """Solaris: version, address family."""
    return fixed(24, _BY_FAMILY[view.byte(1)])


def _cooked(view: View, size: int, protocol_at: int, hardware_at: int) -> Meaning:
    protocol, hardware = view.big(protocol_at), view.big(hardware_at)
    found = known((hardware != _NETLINK) & (protocol >= _LEAST_ETHERTYPE), fixed(size, protocol))
    if (protocol == _LLC).any():
        found = choose(protocol == _LLC, behind(size, llc)(view), found)
    for kind, reader in _WIRELESS.items():
        if (hardware == kind).any():
            found = choose(hardware == kind, behind(size, reader)(view), found)
    return found


def cooked(view: View) -> Meaning:
    """Linux, `-i any`."""
    return _cooked(view, 16, 14, 2)


def cooked_v2(view: View) -> Meaning:
    """The same, version 2."""
    return _cooked(view, 20, 0, 8)


def nflog(view: View) -> Meaning:
    """Attributes of netlink, of which one has the packet; numbers in the byte order of the machine that captured."""
    # The first attribute is no longer than 255 bytes: its length says which byte order it is.
    is_big = (view.byte(4) == 0) & (view.byte(5) != 0)
    family, protocol = view.byte(0), view.zeros()
    at, found, ends = np.full(len(view), 4), view.zeros(), view.ends - view.starts
    trailers = view.zeros()
    for _ in range(_MOST_ATTRIBUTES):
        size = np.where(is_big, view.big(at), view.little(at, 2))
        kind = np.where(is_big, view.big(at + 2), view.little(at + 2, 2)) & _KIND
        protocol = np.where((kind == _PACKET_HEADER) & (size >= 6), view.big(at + 4), protocol)
        is_payload = (kind == _PAYLOAD) & (size >= 4) & (found == 0)
        found = np.where(is_payload, at + 4, found)
        # The packet may be cut in front of its padding.
        trailers = np.where(is_payload, np.where(ends < at + size, -size % 4, ends - at - size), trailers)
        # A length that cannot be right ends the search.
        at = np.where((found == 0) & (size >= 4), at + (size + 3) // 4 * 4, ends)
        if (at >= ends).all():
            break
    by_family = np.where(family == 2, IPV4, np.where(family == 10, IPV6, protocol))
    return known(found != 0, Meaning(found, by_family, trailers))


def pppoe(view: View) -> Meaning:
    """PPPoE without Ethernet."""
    return fixed(0, view.zeros() + PPPOE_SESSION)


def mpls(view: View) -> Meaning:
    """MPLS without Ethernet."""
    return fixed(0, view.zeros() + MPLS)


def token_ring(view: View) -> Meaning:
    """IEEE 802.5: access and frame control, addresses, the route if the source address says that there is one."""
    route = np.where(view.byte(8) & 0x80 != 0, view.byte(14) & 0x1F, 0)
    return known(view.byte(1) & 0xC0 == 0x40, behind(14 + route, llc)(view))


def fddi(view: View) -> Meaning:
    """Frame control, addresses."""
    return known(np.isin(view.byte(0) & 0xF0, (0x50, 0xD0)), behind(13, llc)(view))


def fibre_channel(view: View) -> Meaning:
    """RFC 2625: the network header."""
    return behind(16, llc)(view)


def infiniband(view: View) -> Meaning:
    """RFC 4391: the global route header, EtherType, 2 reserved bytes."""
    return fixed(44, view.big(40))


def firewire(view: View) -> Meaning:
    """Apple's IP over IEEE 1394: two addresses of 8 bytes."""
    return fixed(18, view.big(16))


def arcnet(view: View) -> Meaning:
    """Addresses and type; RFC 1201 has a split flag and a sequence number behind them, or an exception in front."""
    kind, is_exception = view.byte(2), view.byte(3) == 0xFF
    size = np.where(kind == _ARCNET_OLD, 3, np.where(is_exception, 10, 6))
    flag = np.where(is_exception, view.byte(7), view.byte(3))
    return known((kind == _ARCNET_OLD) | (flag == 0), Meaning(size, _ARCNET[kind]))


def arcnet_linux(view: View) -> Meaning:
    """The same with an offset in front of the type."""
    kind = view.byte(4)
    whole = (kind == _ARCNET_OLD) | (view.byte(5) == 0)
    return known(whole, Meaning(np.where(kind == _ARCNET_OLD, 5, 8), _ARCNET[kind]))


def slip(view: View) -> Meaning:
    """BSD: direction and the header as it was on the line, 16 bytes."""
    return behind(16, raw)(view)


def symantec(view: View) -> Meaning:
    """A header of 44 bytes with an EtherType."""
    return fixed(44, view.big(6))


def preamble(view: View) -> Meaning:
    """8 bytes, of which the last one says that a whole frame begins (IEEE 802.3br)."""
    return known(view.byte(7) == _START_OF_FRAME, behind(8, with_checksum(ethernet))(view))


def netanalyzer_transparent(view: View) -> Meaning:
    """4 bytes of the card, then what the wire has."""
    return behind(4, preamble)(view)


def erf(view: View) -> Meaning:
    """Endace's record: 16 bytes, extension headers of 8 bytes, and a frame behind 2 bytes, a line's frame, or IP."""
    kind = view.byte(8)
    more, size = kind, np.full(len(view), 16)
    for _ in range(_MOST_ERF_EXTENSIONS):
        another = more & _ERF_MORE != 0
        if not another.any():
            break
        more = np.where(another, view.byte(size), 0)
        size = np.where(another, size + 8, size)
    kind = kind & ~_ERF_MORE
    found = choose(np.isin(kind, _ERF_ETHERNET), behind(size + 2, ethernet)(view), fixed(0, view.zeros()))
    found = choose(np.isin(kind, _ERF_HDLC), behind(size, ppp)(view), found)
    return choose(np.isin(kind, _ERF_IP), behind(size, raw)(view), found)
