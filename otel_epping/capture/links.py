# SPDX-License-Identifier: Apache-2.0
"""Link types of captures, each turned into Ethernet framing, which is what the kernel program reads.

A link header that isn't Ethernet's has to say one thing only: what it carries. It is replaced by an Ethernet header
with that for a type, and addresses of zeros; its bytes are written just in front of the network header, over the old
link header or the record's header, which nobody needs any more. So no packet is copied, and a packet counts with the
length that it has on an Ethernet.

Layouts: https://www.tcpdump.org/linktypes.html
"""

from collections.abc import Callable

import numpy as np

from otel_epping.capture.batch import Batch, Bytes, Numbers

_ETHERNET = 1
_ETHERNET_HEADER = 14
_IPV4, _IPV6, _PPPOE_SESSION, _MPLS, _MPLS_MULTICAST = 0x0800, 0x86DD, 0x8864, 0x8847, 0x8848
_UNKNOWN = 0

# Length of each packet's link header, and what is behind it, as an EtherType.
Meaning = tuple[Numbers, Numbers]


def _table(size: int, meanings: dict[int, int]) -> Numbers:
    table = np.full(size, _UNKNOWN)
    for value, meaning in meanings.items():
        table[value] = meaning
    return table


_BY_VERSION = _table(16, {4: _IPV4, 6: _IPV6})
# AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD and macOS
_BY_FAMILY = _table(256, {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6})
_BY_PPP_PROTOCOL = _table(1 << 16, {0x0021: _IPV4, 0x0057: _IPV6, 0x0281: _MPLS, 0x0283: _MPLS_MULTICAST})
_PPP_ADDRESS = 0xFF
_CISCO_ADDRESSES = (0x0F, 0x8F)


def _word(buffer: Bytes, at: Numbers) -> Numbers:
    """The 16 bits there, in network byte order."""
    return buffer[at].astype(np.int64) << 8 | buffer[at + 1]


def _raw(buffer: Bytes, starts: Numbers) -> Meaning:
    return np.zeros_like(starts), _BY_VERSION[buffer[starts] >> 4]


def _null(buffer: Bytes, starts: Numbers) -> Meaning:
    # A number below 256, in the byte order of the machine that captured: one of the two is zero.
    return np.full_like(starts, 4), _BY_FAMILY[buffer[starts] | buffer[starts + 3]]


def _cooked(buffer: Bytes, starts: Numbers) -> Meaning:
    return np.full_like(starts, 16), _word(buffer, starts + 14)


def _cooked_v2(buffer: Bytes, starts: Numbers) -> Meaning:
    return np.full_like(starts, 20), _word(buffer, starts)


def _pppoe(buffer: Bytes, starts: Numbers) -> Meaning:
    return np.zeros_like(starts), np.full_like(starts, _PPPOE_SESSION)


def _ppp_protocol(buffer: Bytes, at: Numbers) -> Meaning:
    """Of a PPP protocol field; an odd first byte is all of it (RFC 1661 section 6.5)."""
    compressed = buffer[at] & 1 == 1
    protocol = np.where(compressed, buffer[at], _word(buffer, at))
    return np.where(compressed, 1, 2), _BY_PPP_PROTOCOL[protocol]


def _ppp(buffer: Bytes, starts: Numbers) -> Meaning:
    """With or without address and control field (RFC 1662 section 3.1); or as Cisco does, with an EtherType behind."""
    address = buffer[starts]
    framing = np.where((address == _PPP_ADDRESS) & (buffer[starts + 1] == 3), 2, 0)
    size, meaning = _ppp_protocol(buffer, starts + framing)
    cisco = np.isin(address, _CISCO_ADDRESSES) & (buffer[starts + 1] == 0)
    return np.where(cisco, 4, framing + size), np.where(cisco, _word(buffer, starts + 2), meaning)


def _ppp_with_direction(buffer: Bytes, starts: Numbers) -> Meaning:
    size, meaning = _ppp(buffer, starts + 1)
    return size + 1, meaning


def _pppd(buffer: Bytes, starts: Numbers) -> Meaning:
    """The direction stands in the place of the address field."""
    size, meaning = _ppp_protocol(buffer, starts + 2)
    return size + 2, meaning


_LINKS: dict[int, Callable[[Bytes, Numbers], Meaning]] = {
    0: _null,
    9: _ppp,
    12: _raw,  # DLT_RAW
    14: _raw,  # DLT_RAW of OpenBSD
    50: _ppp,  # HDLC
    51: _pppoe,
    101: _raw,
    104: _ppp,  # Cisco HDLC
    108: _null,  # of OpenBSD, always in network byte order
    113: _cooked,
    166: _pppd,
    204: _ppp_with_direction,
    228: _raw,  # IPv4
    229: _raw,  # IPv6
    276: _cooked_v2,
}
KNOWN = (_ETHERNET, *_LINKS)
# Of those that a user is likely to have, and that carry no plain IP.
_NAMES = {
    6: "Token Ring",
    10: "FDDI",
    105: "IEEE 802.11",
    119: "IEEE 802.11 with Prism header",
    127: "IEEE 802.11 with radiotap header",
    189: "USB",
    192: "PPI",
    195: "IEEE 802.15.4",
    201: "Bluetooth",
    220: "USB",
    239: "NFLOG",
    253: "Netlink",
}


def name(link: int) -> str:
    """The link type as a user reads it."""
    return f"{link} ({_NAMES[link]})" if link in _NAMES else str(link)


def ethernet(batch: Batch) -> Batch:
    """The packets with Ethernet headers. All links must be of KNOWN types; writes into the batch's buffer.

    What is shorter than its link header comes out shorter than an Ethernet header.
    """
    starts, captured, original = batch.starts.copy(), batch.captured.copy(), batch.original.copy()
    for link in np.unique(batch.links).tolist():
        if link == _ETHERNET:
            continue
        its = batch.links == link
        size, meaning = _LINKS[link](batch.buffer, starts[its])
        starts[its] += size - _ETHERNET_HEADER
        captured[its] -= size - _ETHERNET_HEADER
        original[its] -= size - _ETHERNET_HEADER
        # In what is too short for its link header there is no room: the bytes behind it are the next packet's.
        whole = captured[its] >= _ETHERNET_HEADER
        header = np.zeros((np.count_nonzero(whole), _ETHERNET_HEADER), np.uint8)
        header[:, -2], header[:, -1] = meaning[whole] >> 8, meaning[whole] & 0xFF
        batch.buffer[starts[its][whole][:, None] + np.arange(_ETHERNET_HEADER)] = header
    return Batch(
        batch.buffer, batch.offset, starts, captured, original, batch.times_ns, np.full_like(starts, _ETHERNET)
    )
