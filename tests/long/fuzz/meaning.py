# SPDX-License-Identifier: Apache-2.0
"""Models the meaning of a packet. The model interprets the bytes of the packet as the RFCs define.

The RFCs do not define some cases. For these cases, the kernel program has the limits in the constants below, and the
following rules:

- A packet is `malformed` if its TCP header, its IP header or a header before the IP header is broken, truncated, or
  longer than a length field allows. A packet is also `malformed` if the length in its IP header is greater than the
  length of the packet on the wire.
- A packet with a truncated UDP or ICMP header keeps its kind, but is not measured.
- All headers must be complete. The payload may be truncated, because captures truncate payloads.
- A first fragment counts as a TCP, UDP or ICMP packet, if the fragment contains the complete TCP, UDP or ICMP header.
  The end of a TCP segment in a first fragment is unknown. All other fragments have the kind `fragment`.
- If a packet is in a tunnel and the tunnel header is complete, the program reads the inner packet. If the inner packet
  is also a tunnel packet, the program does not read the second tunnel.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from tests.long.fuzz import links
from tests.long.fuzz.links import MalformedError, NotIpError, number

ETHERNET = 14
IP_VERSIONS = {0x0800: 4, 0x86DD: 6}
TAG = 0x8100
MOST_LINK_HEADERS = 8  # a packet with more link headers counts as not IP

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
MOST_EXTENSIONS = 8  # a packet with more extension headers is malformed
MOST_EXTENSION_BYTES = 2048  # a packet with more bytes of extension headers is malformed

TCP, UDP, GRE = 6, 17, 47
IP_IN_IP = {4: 4, 41: 6}
VXLAN_PORT, VNI_PRESENT = 4789, 0x08000000
ETHERNET_INSIDE = 0x6558  # "transparent Ethernet bridging", a protocol type of GRE
ICMP_OF = {4: 1, 6: 58}
FIN, SYN, RST, ACK = 1, 2, 4, 16


@dataclass(slots=True)
class Meaning:
    """The properties of a packet that influence the counts. Endpoints are (address, port); the port is 0 for ICMP."""

    kind: str = "malformed"
    version: int = 0
    protocol: int = 0  # the protocol number of the transport header
    source: tuple[bytes, int] = (b"", 0)
    destination: tuple[bytes, int] = (b"", 0)
    ecn: int = 0
    network_at: int = 0  # the offset of the IP header
    transport_at: int = 0  # the offset after the IP headers
    headers: int = 0  # the number of bytes before the payload; an ICMP header has 8 bytes
    flags: int = 0
    sequence: int = 0
    acknowledged: int = 0
    payload: int = 0  # bytes after the TCP, UDP or ICMP header, including bytes that are not in the capture
    checksum: bytes = b""  # for TCP, UDP, and ICMP with code 0
    window: int = 0
    timestamp: tuple[int, int] | None = None  # TSval, TSecr
    echo: tuple[int, bytes] | None = None  # ICMP type; identifier and sequence number
    link_end: int = 0
    is_first_fragment: bool = False  # all other fragments have the kind "fragment"
    head: bytes = b""  # the first 8 bytes of the UDP payload; empty if the payload has fewer than 8 bytes


@dataclass(slots=True)
class Place:
    """The place of an IP header: the IP version according to the previous header, the offset of the IP header, and the
    end of the packet according to the link headers.
    """

    version: int
    at: int
    end: int


def read(
    frame: bytes, link_header: int, wire_length: int, *, tunnels: bool = False, aggregate: bool = False
) -> Meaning:
    """Returns the meaning of a packet. If the packet is malformed or not IP, only the kind is set. With `tunnels`, the
    result describes the inner packet."""
    meaning = Meaning()
    try:
        place = read_link(frame, link_header, wire_length, aggregate)
        if tunnels:
            look_inside(frame, place)
        meaning.network_at = place.at
        meaning.link_end = place.end
        (read_ipv4 if place.version == 4 else read_ipv6)(frame, wire_length, meaning)
    except MalformedError:
        return Meaning("malformed", network_at=meaning.network_at, transport_at=meaning.transport_at)
    except NotIpError:
        return Meaning("non_ip")
    return meaning


def read_link(frame: bytes, link_header: int, end: int, aggregate: bool) -> Place:
    """Skips the link headers. Returns the place of the IP header."""
    if not link_header:
        version = number(frame, 0, 1) >> 4
        if version not in (4, 6):
            raise NotIpError
        return Place(version, 0, end)
    kind, at, headers = number(frame, 12, 2), ETHERNET, 0
    while kind not in IP_VERSIONS:
        kind, at, length = links.read_header(frame, kind, at)
        # An aggregate has the length field of its first packet, so the field says nothing about the whole aggregate.
        if length is not None and not aggregate:
            end = min(end, length)
        headers += 1
        if headers > MOST_LINK_HEADERS:
            raise NotIpError
    return Place(IP_VERSIONS[kind], at, end)


def look_inside(frame: bytes, place: Place) -> None:
    """If the packet is in a tunnel with a complete tunnel header, changes `place` to the inner IP header."""
    with suppress(MalformedError, NotIpError):
        place.version, place.at = read_tunnel(frame, place.version, place.at)


def read_tunnel(frame: bytes, version: int, at: int) -> tuple[int, int]:
    """Returns the version and the offset of the inner IP header.

    The outer packet must not be a fragment and must not have extension headers. After the outer IP header, the packet
    has IP (RFC 2003, 2473, 4213), GRE (RFC 2784, 2890) or VXLAN (RFC 7348), with at most one VLAN tag. The length field
    of the inner packet is checked. The length field of the outer packet is not checked.
    """
    if number(frame, at, 1) >> 4 != version:
        raise MalformedError
    if version == 4:
        if at + 20 > len(frame) or frame[at] & 15 < 5 or number(frame, at + 6, 2) & 0x3FFF:
            raise NotIpError
        protocol, inside = frame[at + 9], at + (frame[at] & 15) * 4
    else:
        protocol, inside = number(frame, at + 6, 1), at + 40
    if protocol in IP_IN_IP:
        return IP_IN_IP[protocol], inside
    if protocol == GRE:
        flags, kind = number(frame, inside, 2), number(frame, inside + 2, 2)
        # Bits 0 to 3: checksum, routing (RFC 1701), key, sequence number; bits 13 to 15: the version.
        if flags & 0x4007:
            raise NotIpError
        inside += 4 + 4 * (flags & 0xB000).bit_count()
    elif protocol == UDP and number(frame, inside + 2, 2) == VXLAN_PORT:
        if not number(frame, inside + 8, 8) >> 32 & VNI_PRESENT:
            raise NotIpError
        kind, inside = ETHERNET_INSIDE, inside + 16
    else:
        raise NotIpError
    if kind == ETHERNET_INSIDE:
        kind, inside = number(frame, inside + 12, 2), inside + ETHERNET
    if kind == TAG:
        kind, inside = number(frame, inside + 2, 2), inside + 4
    if kind not in IP_VERSIONS:
        raise NotIpError
    return IP_VERSIONS[kind], inside


def read_ipv4(frame: bytes, end: int, meaning: Meaning) -> None:
    """Reads an IPv4 header (RFC 791 section 3.1)."""
    at = meaning.network_at
    if at + 20 > len(frame) or frame[at] >> 4 != 4:
        raise MalformedError
    header = (frame[at] & 15) * 4
    on_the_wire = end - at
    # BIG TCP: if an aggregate is too long for the length field, the length field is 0, and the length on the wire is
    # used.
    total = (frame[at + 2] << 8 | frame[at + 3]) or on_the_wire
    if header < 20 or not header <= total <= on_the_wire or at + header > len(frame):
        raise MalformedError
    meaning.version = 4
    meaning.ecn = frame[at + 1] & 3
    meaning.source = frame[at + 12 : at + 16], 0
    meaning.destination = frame[at + 16 : at + 20], 0
    meaning.headers = meaning.transport_at = at + header
    more, offset = frame[at + 6] >> 5 & 1, (frame[at + 6] & 0x1F) << 8 | frame[at + 7]
    if offset:
        meaning.kind = "fragment"
    elif more:
        read_first_fragment(frame, frame[at + 9], total - header, meaning)
    else:
        read_transport(frame, frame[at + 9], total - header, meaning)


def read_ipv6(frame: bytes, end: int, meaning: Meaning) -> None:
    """Reads an IPv6 header (RFC 8200 section 3)."""
    at = meaning.network_at
    if at + 40 > min(len(frame), end) or frame[at] >> 4 != 6:
        raise MalformedError
    # The length field is 0 in a jumbogram (RFC 2675) and in a long aggregate.
    rest = (frame[at + 4] << 8 | frame[at + 5]) or end - at - 40
    if at + 40 + rest > end:
        raise MalformedError
    meaning.version = 6
    meaning.ecn = frame[at + 1] >> 4 & 3
    meaning.source = frame[at + 8 : at + 24], 0
    meaning.destination = frame[at + 24 : at + 40], 0
    meaning.transport_at = at + 40
    try:
        protocol, rest = skip_extensions(frame, frame[at + 6], rest, meaning)
    except MalformedError:
        # A first fragment may end before the end of the last extension header. Such a first fragment is not malformed.
        if not meaning.is_first_fragment:
            raise
        meaning.kind = "fragment"
    else:
        meaning.headers = meaning.transport_at
        if protocol == FRAGMENT:
            meaning.kind = "fragment"
        elif meaning.is_first_fragment:
            read_first_fragment(frame, protocol, rest, meaning)
        else:
            read_transport(frame, protocol, rest, meaning)


def skip_extensions(frame: bytes, protocol: int, rest: int, meaning: Meaning) -> tuple[int, int]:
    """Skips extension headers (RFC 8200 section 4.2).

    Returns the protocol after the last skipped header, and the number of the bytes that follow. Does not skip the
    fragment header of a second or later fragment. Skips the fragment header of an unfragmented packet (RFC 6946).
    """
    seen, begin = 0, meaning.transport_at
    while protocol in (HOP_BY_HOP, ROUTING, DESTINATION, MOBILITY, AUTHENTICATION, FRAGMENT):
        at = meaning.transport_at
        following, units = number(frame, at, 1), number(frame, at, 4) >> 16 & 0xFF
        if protocol == FRAGMENT:
            offset_and_more = number(frame, at + 2, 2)
            if offset_and_more & 0xFFF8:
                break
            meaning.is_first_fragment |= bool(offset_and_more & 1)
            units = 0
        # In an authentication header, the length field contains the header's length in 4-byte words minus 2 (RFC 4302
        # section 2.2).
        size = (units + 2) * 4 if protocol == AUTHENTICATION else (units + 1) * 8
        seen += 1
        if size > rest or seen > MOST_EXTENSIONS:
            raise MalformedError
        protocol, rest = following, rest - size
        meaning.transport_at += size
    if meaning.transport_at - begin > MOST_EXTENSION_BYTES or meaning.transport_at > len(frame):
        raise MalformedError
    return protocol, rest


def read_first_fragment(frame: bytes, protocol: int, rest: int, meaning: Meaning) -> None:
    """Reads the transport header of a first fragment.

    The kind is "fragment" if the header is incomplete or unsupported.
    """
    meaning.is_first_fragment = True
    try:
        read_transport(frame, protocol, rest, meaning)
    except MalformedError:
        meaning.kind = "fragment"
    if meaning.kind == "other":
        meaning.kind = "fragment"


def read_transport(frame: bytes, protocol: int, rest: int, meaning: Meaning) -> None:
    """Reads the transport header.

    `rest` is the number of bytes after the IP headers, according to the length field of the IP header. `rest` includes
    bytes that are not in the capture. If the length in a link header leaves fewer bytes, the
    smaller number is used.
    """
    rest = max(0, min(rest, meaning.link_end - meaning.transport_at))
    meaning.protocol = protocol
    if protocol == TCP:
        read_tcp(frame, rest, meaning)
    elif protocol == UDP:
        meaning.kind = "udp"
        meaning.headers += 8
        meaning.payload = max(0, rest - 8)
        read_udp(frame, rest, meaning)
    elif protocol in ICMP_OF.values():
        meaning.kind = "icmp"
        meaning.headers += 8
        meaning.payload = max(0, rest - 8)
        at = meaning.transport_at
        # RFC 792, RFC 4443 section 4.1: the code of an echo is 0.
        if protocol == ICMP_OF[meaning.version] and rest >= 8 and at + 8 <= len(frame) and frame[at + 1] == 0:
            meaning.echo = frame[at], frame[at + 4 : at + 8]
            meaning.checksum = frame[at + 2 : at + 4]
    else:
        meaning.kind = "other"


def read_tcp(frame: bytes, rest: int, meaning: Meaning) -> None:
    """Reads a TCP header (RFC 9293 section 3.1)."""
    at = meaning.transport_at
    if at + 20 > len(frame):
        raise MalformedError
    header = (frame[at + 12] >> 4) * 4
    if not 20 <= header <= rest or at + header > len(frame):
        raise MalformedError
    meaning.kind = "tcp"
    meaning.headers += header
    set_ports(frame, at, meaning)
    meaning.sequence = int.from_bytes(frame[at + 4 : at + 8], "big")
    meaning.acknowledged = int.from_bytes(frame[at + 8 : at + 12], "big")
    meaning.flags = frame[at + 13]
    meaning.window = frame[at + 14] << 8 | frame[at + 15]
    meaning.payload = rest - header
    meaning.checksum = frame[at + 16 : at + 18]
    meaning.timestamp = find_timestamp(frame[at + 20 : at + header])


def find_timestamp(options: bytes) -> tuple[int, int] | None:
    """Returns the first timestamp option (RFC 7323 section 3.2).

    The list of options ends at the End of Option List option (RFC 9293 section 3.1), at an option with a length below 2
    bytes, or at an option that is longer than the rest of the list.
    """
    while len(options) >= 2 and options[0] != 0:
        if options[0] == 1:
            options = options[1:]
            continue
        size = options[1]
        if not 2 <= size <= len(options):
            return None
        if options[0] == 8 and size == 10:
            return int.from_bytes(options[2:6], "big"), int.from_bytes(options[6:10], "big")
        options = options[size:]
    return None


def read_udp(frame: bytes, rest: int, meaning: Meaning) -> None:
    """Reads a UDP header (RFC 768)."""
    at = meaning.transport_at
    if rest < 8 or at + 8 > len(frame):
        return
    set_ports(frame, at, meaning)
    meaning.checksum = frame[at + 6 : at + 8]
    # Bytes after the IP packet, such as padding, do not belong to the payload.
    if rest >= 16 and at + 16 <= len(frame):
        meaning.head = frame[at + 8 : at + 16]


def set_ports(frame: bytes, at: int, meaning: Meaning) -> None:
    """Reads the two ports at the start of a TCP or UDP header."""
    meaning.source = meaning.source[0], frame[at] << 8 | frame[at + 1]
    meaning.destination = meaning.destination[0], frame[at + 2] << 8 | frame[at + 3]


@lru_cache(maxsize=1 << 16)
def prefix(address: bytes, bits: int) -> bytes:
    """Returns the address with only its first `bits` bits. All other bits are 0."""
    all_bits = 8 * len(address)
    mask = (1 << all_bits) - (1 << (all_bits - bits))
    return (int.from_bytes(address, "big") & mask).to_bytes(len(address), "big")
