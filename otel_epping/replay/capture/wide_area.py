# SPDX-License-Identifier: Apache-2.0
"""Link types of lines and wide area networks: PPP, Cisco HDLC, Frame Relay, ATM, DOCSIS; and of routers' captures."""

import numpy as np

from otel_epping.replay.capture.framing import behind, ethernet, llc, raw, with_checksum
from otel_epping.replay.capture.view import (
    IPV4,
    IPV6,
    MPLS,
    MPLS_MULTICAST,
    Meaning,
    Reader,
    View,
    choose,
    fixed,
    known,
    table,
)

_BY_PPP_PROTOCOL = table(1 << 16, {0x0021: IPV4, 0x0057: IPV6, 0x0281: MPLS, 0x0283: MPLS_MULTICAST})
_PPP_ADDRESS = 0xFF
_CISCO_ADDRESSES = (0x0F, 0x8F)
# Network layer protocol identifiers, ISO/IEC TR 9577
_NLPID_IPV4, _NLPID_IPV6, _NLPID_SNAP, _NLPID_PPP = 0xCC, 0x8E, 0x80, 0xCF
_BY_NLPID = table(256, {_NLPID_IPV4: IPV4, _NLPID_IPV6: IPV6})
_UNNUMBERED = 0x03
_BRIDGED = 0x0080C2  # organization of IEEE 802.1
_BRIDGED_ETHERNET = (0x0001, 0x0007)  # with checksum and without
# tcpdump's print-juniper.c
_JUNIPER_MAGIC, _JUNIPER_EXTENDED, _JUNIPER_BARE = 0x4D4743, 0x80, 0x02


def _ppp_protocol(view: View) -> Meaning:
    """A PPP protocol field; an odd first byte is all of it (RFC 1661 section 6.5)."""
    compressed = view.byte(0) & 1 == 1
    return Meaning(np.where(compressed, 1, 2), _BY_PPP_PROTOCOL[np.where(compressed, view.byte(0), view.big(0))])


def cisco_hdlc(view: View) -> Meaning:
    """Address, control, EtherType."""
    return fixed(4, view.big(2))


def ppp(view: View) -> Meaning:
    """With or without address and control field (RFC 1662 section 3.1); or as Cisco does, with an EtherType behind."""
    address = view.byte(0)
    framing = np.where((address == _PPP_ADDRESS) & (view.byte(1) == _UNNUMBERED), 2, 0)
    cisco = np.isin(address, _CISCO_ADDRESSES) & (view.byte(1) == 0)
    return choose(cisco, cisco_hdlc(view), behind(framing, _ppp_protocol)(view))


def pppd(view: View) -> Meaning:
    """The direction stands in the place of the address field."""
    return behind(2, _ppp_protocol)(view)


def _snap(view: View, padding: int) -> Meaning:
    """Organization and protocol: an EtherType, or a bridged frame behind this number of bytes of padding."""
    organization, protocol = view.big(0, 3), view.big(3)
    bridged = (organization == _BRIDGED) & np.isin(protocol, _BRIDGED_ETHERNET)
    plain = known(organization == 0, fixed(5, protocol))
    return choose(bridged, behind(5 + padding, ethernet)(view), plain)


def _by_nlpid(view: View) -> Meaning:
    nlpid = view.byte(0)
    found = choose(nlpid == _NLPID_SNAP, _snap(view.behind(1), 0), fixed(0, _BY_NLPID[nlpid]))
    return choose(nlpid == _NLPID_PPP, _ppp_protocol(view.behind(1)), found).behind(1)


def frame_relay(view: View) -> Meaning:
    """RFC 2427; or as Cisco does, with an EtherType. An address of 2 to 4 bytes, the last of which is odd."""
    size = np.where(view.byte(1) & 1 == 1, 2, np.where(view.byte(2) & 1 == 1, 3, 4))
    rest = view.behind(size)
    is_padded = np.where(rest.byte(1) == 0, 1, 0)
    standard = behind(1 + is_padded, _by_nlpid)(rest)
    return choose(rest.byte(0) == _UNNUMBERED, standard, fixed(2, rest.big(0))).behind(size)


def atm(view: View) -> Meaning:
    """RFC 2684: LLC with SNAP or with a network layer protocol identifier; or IP or PPP (RFC 2364) without LLC."""
    head = view.big(0, 3)
    snap = choose(view.big(3, 3) == _BRIDGED, _snap(view.behind(3), 2).behind(3), llc(view))
    bare = choose(np.isin(view.big(0), (0x0021, 0x0057)), _ppp_protocol(view), raw(view))
    return choose(head == 0xAAAA03, snap, choose(head == 0xFEFE03, behind(3, _by_nlpid)(view), bare))


def sun_atm(view: View) -> Meaning:
    """4 bytes, of which the first says what follows: LAN emulation or LLC."""
    kind = view.byte(0) & 0x0F
    found = choose(kind == 1, behind(6, ethernet)(view), behind(4, atm)(view))
    return known((kind == 1) | (kind == 2), found)


def docsis(view: View) -> Meaning:
    """A MAC header with a frame, maybe with an extended header: FC_TYPE 0 (DOCSIS MULPI, 6.2)."""
    control = view.byte(0)
    size = 6 + np.where(control & 1 == 1, view.byte(1), 0)
    return known(control & 0xFE == 0, behind(size, with_checksum(ethernet))(view))


def juniper(inner: Reader) -> Reader:
    """Juniper's header with its extensions, and what `inner` reads; or IP behind 4 bytes."""

    def read(view: View) -> Meaning:
        flags = view.byte(3)
        size = np.where(flags & _JUNIPER_EXTENDED != 0, 6 + view.big(4), 4)
        framed, bare = behind(size, inner)(view), behind(size + 4, raw)(view)
        return known(view.big(0, 3) == _JUNIPER_MAGIC, choose(flags & _JUNIPER_BARE != 0, bare, framed))

    return read
