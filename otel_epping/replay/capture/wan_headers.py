# SPDX-License-Identifier: Apache-2.0
"""Reads link headers of wide area networks: PPP, Cisco HDLC, Frame Relay, ATM, DOCSIS, and Juniper's headers."""

import numpy as np

from otel_epping.replay.capture.common_headers import after, ethernet, llc, raw, with_checksum
from otel_epping.replay.capture.packet_view import (
    IPV4,
    IPV6,
    MPLS,
    MPLS_MULTICAST,
    HeaderReader,
    LinkHeaders,
    PacketView,
    choose,
    fixed_size,
    lookup_table,
    only_if,
)

_BY_PPP_PROTOCOL = lookup_table(1 << 16, {0x0021: IPV4, 0x0057: IPV6, 0x0281: MPLS, 0x0283: MPLS_MULTICAST})
_PPP_ADDRESS = 0xFF
_CISCO_ADDRESSES = (0x0F, 0x8F)
# Network layer protocol identifiers, ISO/IEC TR 9577
_NLPID_IPV4, _NLPID_IPV6, _NLPID_SNAP, _NLPID_PPP = 0xCC, 0x8E, 0x80, 0xCF
_BY_NLPID = lookup_table(256, {_NLPID_IPV4: IPV4, _NLPID_IPV6: IPV6})
_UNNUMBERED = 0x03
_BRIDGED = 0x0080C2  # the OUI of IEEE 802.1
_BRIDGED_ETHERNET = (0x0001, 0x0007)  # with and without a frame check sequence
# tcpdump's print-juniper.c
_JUNIPER_MAGIC, _JUNIPER_EXTENDED, _JUNIPER_BARE = 0x4D4743, 0x80, 0x02


def _ppp_protocol(view: PacketView) -> LinkHeaders:
    """Reads a PPP protocol field of 2 bytes, or of only 1 byte if the first byte is odd (RFC 1661 section 6.5)."""
    compressed = view.byte(0) & 1 == 1
    return LinkHeaders(np.where(compressed, 1, 2), _BY_PPP_PROTOCOL[np.where(compressed, view.byte(0), view.big(0))])


def cisco_hdlc(view: PacketView) -> LinkHeaders:
    """Reads a Cisco HDLC header: address, control, EtherType."""
    return fixed_size(4, view.big(2))


def ppp(view: PacketView) -> LinkHeaders:
    """Reads PPP with or without address and control fields (RFC 1662 section 3.1), or Cisco HDLC."""
    address = view.byte(0)
    framing = np.where((address == _PPP_ADDRESS) & (view.byte(1) == _UNNUMBERED), 2, 0)
    cisco = np.isin(address, _CISCO_ADDRESSES) & (view.byte(1) == 0)
    return choose(cisco, cisco_hdlc(view), after(framing, _ppp_protocol)(view))


def pppd(view: PacketView) -> LinkHeaders:
    """Reads the PPP header of packets from pppd. The address field contains the direction instead of an address."""
    return after(2, _ppp_protocol)(view)


def _snap(view: PacketView, padding: int) -> LinkHeaders:
    """Reads a SNAP header: the OUI and the protocol.

    The protocol is either an EtherType, or a number that means that a bridged Ethernet frame follows after `padding`
    bytes.
    """
    oui, protocol = view.big(0, 3), view.big(3)
    bridged = (oui == _BRIDGED) & np.isin(protocol, _BRIDGED_ETHERNET)
    plain = only_if(oui == 0, fixed_size(5, protocol))
    return choose(bridged, after(5 + padding, ethernet)(view), plain)


def _by_nlpid(view: PacketView) -> LinkHeaders:
    nlpid = view.byte(0)
    found = choose(nlpid == _NLPID_SNAP, _snap(view.skip(1), 0), fixed_size(0, _BY_NLPID[nlpid]))
    return choose(nlpid == _NLPID_PPP, _ppp_protocol(view.skip(1)), found).preceded_by(1)


def frame_relay(view: PacketView) -> LinkHeaders:
    """Reads a Frame Relay header in the format of RFC 2427, or in Cisco's format with an EtherType.

    The address has 2 to 4 bytes. Only the last byte of the address is odd.
    """
    size = np.where(view.byte(1) & 1 == 1, 2, np.where(view.byte(2) & 1 == 1, 3, 4))
    rest = view.skip(size)
    is_padded = np.where(rest.byte(1) == 0, 1, 0)
    standard = after(1 + is_padded, _by_nlpid)(rest)
    return choose(rest.byte(0) == _UNNUMBERED, standard, fixed_size(2, rest.big(0))).preceded_by(size)


def atm(view: PacketView) -> LinkHeaders:
    """Reads the headers in the payload of ATM. The payload may begin with an LLC header.

    After an LLC header, a SNAP header or an NLPID follows (RFC 2684). Without an LLC header, the payload is IP (RFC
    2684) or PPP (RFC 2364).
    """
    head = view.big(0, 3)
    snap = choose(view.big(3, 3) == _BRIDGED, _snap(view.skip(3), 2).preceded_by(3), llc(view))
    bare = choose(np.isin(view.big(0), (0x0021, 0x0057)), _ppp_protocol(view), raw(view))
    return choose(head == 0xAAAA03, snap, choose(head == 0xFEFE03, after(3, _by_nlpid)(view), bare))


def sun_atm(view: PacketView) -> LinkHeaders:
    """Reads a SunATM header of 4 bytes. The first byte shows whether LAN emulation or an LLC header follows."""
    kind = view.byte(0) & 0x0F
    found = choose(kind == 1, after(6, ethernet)(view), after(4, atm)(view))
    return only_if((kind == 1) | (kind == 2), found)


def docsis(view: PacketView) -> LinkHeaders:
    """Reads DOCSIS: a MAC header with FC_TYPE 0, an optional extended header, then a frame (DOCSIS MULPI, 6.2)."""
    control = view.byte(0)
    size = 6 + np.where(control & 1 == 1, view.byte(1), 0)
    return only_if(control & 0xFE == 0, after(size, with_checksum(ethernet))(view))


def juniper(inner: HeaderReader) -> HeaderReader:
    """Returns a reader for the Juniper header, its extensions, and the headers that follow.

    The Juniper header is followed either by the headers that `inner` reads, or by 4 bytes and an IP packet.
    """

    def read(view: PacketView) -> LinkHeaders:
        flags = view.byte(3)
        size = np.where(flags & _JUNIPER_EXTENDED != 0, 6 + view.big(4), 4)
        framed, bare = after(size, inner)(view), after(size + 4, raw)(view)
        return only_if(view.big(0, 3) == _JUNIPER_MAGIC, choose(flags & _JUNIPER_BARE != 0, bare, framed))

    return read
