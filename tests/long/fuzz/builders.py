# SPDX-License-Identifier: Apache-2.0
"""Builds whole packets, layer by layer.

Checksums are 0, because neither the program nor the model reads checksums. This module does not use scapy, which needs
100 us to build a packet. test_fuzz.py checks that scapy and dpkt can read the built packets.
"""

import struct
from collections.abc import Sequence

from tests.long.fuzz import links
from tests.long.fuzz.meaning import AUTHENTICATION, FRAGMENT, ICMP_OF

MAC = bytes.fromhex("020000000001")
IP_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
IP_PROTOCOL = {4: 4, 6: 41}  # the protocol numbers of IPv4 and IPv6 in an outer IP packet
PPP_IP = {4: 0x0021, 6: 0x0057}
PPPOE = bytes.fromhex("88641100")  # EtherType, then version, type and code of PPPoE
# The link headers that the conversations of talks.py use. ALL_LINKS also has the rare link headers.
LINKS = ("802.1Q", "802.1ad", "802.1Q of old", "pppoe", "mpls")
ALL_LINKS = (*LINKS, "pppoe, one byte", *sorted(links.BUILDERS.keys() - set(LINKS)))


def link(stack: Sequence[str], version: int, chance_bits: int = 0) -> bytes:
    """Returns an Ethernet header, followed by the link headers that `stack` names, for an IP packet of this version."""
    headers = b""
    following = IP_ETHERTYPE[version]
    bottom = True
    for name in reversed(stack):
        if name == "mpls":
            headers = struct.pack(">I", (chance_bits & 0xFFFFF) << 12 | bottom << 8 | 64) + headers
            following, bottom = 0x8847, False
            continue
        if name.startswith("pppoe"):
            inside = {0x8847: 0x0281, 0x8848: 0x0283, IP_ETHERTYPE[version]: PPP_IP[version]}.get(following, 0xC021)
            size = 1 if name != "pppoe" and inside < 0x100 else 2
            headers = struct.pack(">BBHH", 0x11, 0, 7, 0xFFFF) + inside.to_bytes(size, "big") + headers
            following = 0x8864
        else:
            following, header = links.BUILDERS[name](following, chance_bits)
            headers = header + headers
        # An MPLS label that is followed by another label does not have the bottom-of-stack bit.
        bottom = following not in links.LABELS
    return MAC + MAC + struct.pack(">H", following) + headers


def with_session_length(frame: bytes, link_bytes: int, more: int = 0) -> bytes:
    """Sets the length field of the frame's PPPoE header to the correct length plus `more`. Returns the frame.

    A frame without a PPPoE header is returned unchanged. The length field is the number of bytes after the PPPoE header
    of 6 bytes (RFC 2516 section 4).
    """
    at = frame.find(PPPOE, 12, link_bytes) + 2
    if at < 12:
        return frame
    length = max(0, len(frame) - at - 6 + more) & 0xFFFF
    return frame[: at + 4] + length.to_bytes(2, "big") + frame[at + 6 :]


def ip(source: bytes, destination: bytes, protocol: int, payload: bytes, ecn: int = 0) -> bytes:
    """Returns an IP packet without options. The length of the addresses determines the IP version."""
    if len(source) == 4:
        head = struct.pack(">BBHHHBBH", 0x45, ecn, 20 + len(payload), 1, 0x4000, 64, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28 | ecn << 20, len(payload), protocol, 64)
    return head + source + destination + payload


def tcp(
    ports: tuple[int, int],
    sequence: int,
    acknowledged: int,
    flags: int,
    options: bytes = b"",
    payload: bytes = b"",
    window: int = 1024,
) -> bytes:
    """Returns a TCP segment. The length of `options` must be a multiple of 4 bytes."""
    offset = (20 + len(options)) // 4
    numbers = sequence % (1 << 32), acknowledged % (1 << 32)
    return struct.pack(">HHIIBBHHH", *ports, *numbers, offset << 4, flags, window, 0, 0) + options + payload


def timestamp(tsval: int, tsecr: int) -> bytes:
    """Returns the timestamp option after two NOPs, the usual order on the wire (RFC 7323 appendix A)."""
    return struct.pack(">BBBBII", 1, 1, 8, 10, tsval % (1 << 32), tsecr % (1 << 32))


def udp(ports: tuple[int, int], payload: bytes) -> bytes:
    """Returns a UDP datagram."""
    return struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload


def echo(version: int, request: bool, identifier: int, number: int, payload: bytes = b"abcdefgh") -> bytes:
    """Returns an ICMP echo request or reply."""
    kind = {4: (0, 8), 6: (129, 128)}[version][request]
    return struct.pack(">BBHHH", kind, 0, 0, identifier, number) + payload


def icmp_protocol(version: int) -> int:
    """Returns the protocol number of ICMP or ICMPv6."""
    return ICMP_OF[version]


def dns(transaction: int, is_response: bool) -> bytes:
    """Returns a query for the address of `a.` (RFC 1035 section 4.1), or a response without an answer record."""
    flags = 0x8180 if is_response else 0x0100
    return struct.pack(">HHHHHH", transaction, flags, 1, 0, 0, 0) + b"\x01a\x00\x00\x01\x00\x01"


def quic(version: int, kind: int) -> bytes:
    """Returns the start of a QUIC packet with a long header (RFC 9000 section 17.2).

    `kind` is the number of the packet type in QUIC version 1, for example 0 for Initial.
    """
    number, first = {1: (1, 0), 2: (0x6B3343CF, 1)}[version]
    return struct.pack(">BIB", 0xC0 | (kind + first & 3) << 4, number, 8) + bytes(range(8)) + bytes(30)


def gre(flags: int, kind: int, payload: bytes) -> bytes:
    """Returns a GRE header (RFC 2784, RFC 2890) and the payload.

    `flags` determines the optional words of the header.
    """
    return struct.pack(">HH", flags, kind) + bytes(4 * (flags & 0xB000).bit_count()) + payload


def extension(protocol: int, following: int, units: int) -> bytes:
    """Returns an IPv6 extension header with the length field `units` (RFC 8200 section 4.2, RFC 4302 section 2.2).

    If the result is a fragment header, it has a fixed length, and says that the packet is not fragmented (RFC 6946).
    """
    if protocol == FRAGMENT:
        return bytes([following, units]) + bytes(6)
    size = (units + 2) * 4 if protocol == AUTHENTICATION else (units + 1) * 8
    return bytes([following, units]) + bytes(size - 2)
