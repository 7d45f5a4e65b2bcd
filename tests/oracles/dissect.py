# SPDX-License-Identifier: Apache-2.0
"""Reads the fields of the TCP packet in a frame as the RFCs define them. Uses no code of the project.

The first header may be Ethernet, Linux cooked v1 or v2, BSD loopback, PPP, Cisco HDLC, PPPoE or raw IP. Any stack of
802.1Q and 802.1ad tags, 802.1ah, LLC with SNAP, PPPoE (RFC 2516) and MPLS (RFC 3032) may follow. After MPLS, the first
nibble identifies IP (RFC 4928). The next headers are IPv4 (RFC 791), or IPv6 with its extension headers (RFC 8200), and
TCP (RFC 9293) with the timestamp option (RFC 7323). Packets inside tunnels are not read.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tests.oracles.frames import Frame

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

# https://www.tcpdump.org/linktypes.html
ETHERNET, PPP, RAW, LOOP, SLL, SLL2 = 1, 9, 101, 108, 113, 276
NULL, RAW_OPENBSD, RAW_BSDOS, IPV4_ONLY, IPV6_ONLY = 0, 14, 12, 228, 229
PPP_HDLC, PPPOE, CISCO_HDLC, PPP_PPPD, PPP_WITH_DIRECTION = 50, 51, 104, 166, 204
_RAW = {RAW, RAW_OPENBSD, RAW_BSDOS, IPV4_ONLY, IPV6_ONLY}

IPV4, IPV6 = 0x0800, 0x86DD
_TAGS = {0x8100: "802.1Q", 0x88A8: "802.1ad", 0x9100: "802.1ad"}
_PPPOE, _PBB, _MPLS = 0x8864, 0x88E7, {0x8847, 0x8848}
_MOST_LENGTH = 1500  # IEEE 802.3: the maximum of a length field; greater values are EtherTypes
_SNAP = b"\xaa\xaa\x03\0\0\0"
_PPP = {0x0021: IPV4, 0x0057: IPV6, 0x0281: 0x8847, 0x0283: 0x8848}
# AF_INET, and the numbers of AF_INET6 on Linux, the BSDs and macOS
_FAMILIES = {2: IPV4, 10: IPV6, 24: IPV6, 28: IPV6, 30: IPV6}

# By link type: the number of bytes before the PPP frame.
_PPP_FRAMING = {PPP: 0, PPP_HDLC: 0, CISCO_HDLC: 0, PPP_PPPD: 2, PPP_WITH_DIRECTION: 1}

_ICMP, _TCP, _FRAGMENT, _AH, _ICMPV6 = 1, 6, 44, 51, 58
_EXTENSIONS = {0, 43, _AH, 60, 135}


class CutShortError(Exception):
    """A header is invalid, truncated, or longer than its packet. The message names the header."""


class NotTcpError(Exception):
    """The protocol after the extension headers of an IPv6 packet is not TCP."""


@dataclass(slots=True, eq=False)
class Packet:
    """A TCP packet. If `fault` is set, a header is faulty, and fields after the faulty place may have no value."""

    frame: int
    time_ns: int
    stack: tuple[str, ...] = ()  # the headers between the link header and the IP header
    version: int = 0
    source: tuple[bytes, int] = (b"", 0)  # address and port
    destination: tuple[bytes, int] = (b"", 0)
    seq: int = 0
    ack: int = 0
    flags: int = 0  # the flags, and the four reserved bits before them
    window: int = 0
    checksum: int = 0
    identification: int | None = None  # of IPv4
    payload: int = 0  # bytes on the wire
    timestamp: tuple[int, int] | None = None  # TSval, TSecr
    ip_options: bytes = b""
    tcp_options: bytes = b""
    extensions: bool = False  # IPv6 extension headers
    snapped: bool = False  # the end of the IP packet is not in the capture
    fault: str = ""

    @property
    def flow(self) -> tuple[object, ...]:
        """The key of the connection, the same for both directions."""
        return (self.version, *sorted((self.source, self.destination)))

    def __str__(self) -> str:
        return f"{endpoint(self.source)} > {endpoint(self.destination)}"


def endpoint(end: tuple[bytes, int]) -> str:
    """Returns address:port in pping's format."""
    address, port = end
    if not address:
        return "?"
    return f"{socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)}:{port}"


def _unpack(layout: str, data: bytes, at: int, what: str) -> tuple[int, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error:
        raise CutShortError(f"the capture ends in the {what} header") from None


def link_payload(frame: Frame) -> tuple[int, int]:
    """Returns the EtherType and the offset of the header after the link header. The EtherType is 0 if it is unknown.
    Raises CutShortError."""
    data, link = frame.data, frame.link_type
    if link == ETHERNET:
        return _unpack("!H", data, 12, "Ethernet")[0], 14
    if link in _RAW:
        version = _unpack("B", data, 0, "IP")[0] >> 4
        return {4: IPV4, 6: IPV6}.get(version, 0), 0
    if link == SLL:
        return _unpack("!H", data, 14, "cooked")[0], 16
    if link == SLL2:
        return _unpack("!H", data, 0, "cooked")[0], 20
    if link in (NULL, LOOP):
        (family,) = _unpack("!I", data, 0, "loopback")
        # The address family is in the byte order of the machine that made the capture. No family is greater than 255.
        return _FAMILIES.get(family if family < 256 else family >> 24, 0), 4
    if link == PPPOE:
        return _PPPOE, 0
    if link in _PPP_FRAMING:
        at = _PPP_FRAMING[link]
        if data[at : at + 2] in (b"\x0f\x00", b"\x8f\x00") and link != PPP_PPPD:  # RFC 1547: Cisco's framing
            return _unpack("!H", data, at + 2, "Cisco HDLC")[0], at + 4
        if data[at : at + 2] == b"\xff\x03":  # RFC 1662: address and control field
            at += 2
        protocol, size = _unpack("!B", data, at, "PPP")[0], 1
        if not protocol & 1:  # RFC 1661 section 6.5: a compressed protocol field is one odd byte
            protocol, size = _unpack("!H", data, at, "PPP")[0], 2
        return _PPP.get(protocol, 0), at + size
    return 0, 0


def _network(frame: Frame) -> tuple[int, int, int, tuple[str, ...]]:
    """Returns the EtherType IPV4, IPV6 or 0, the offset of the IP header, the end of the packet, and the names of the
    headers before IP."""
    data, end = frame.data, frame.length
    ethertype, at = link_payload(frame)
    stack: list[str] = []
    while ethertype not in (IPV4, IPV6):
        if ethertype in _TAGS:
            stack.append(_TAGS[ethertype])
            ethertype, at = _unpack("!2xH", data, at, stack[-1])[0], at + 4
        elif ethertype == _PPPOE:
            stack.append("PPPoE")
            length, protocol = _unpack("!4xHH", data, at, "PPPoE")
            # The length in a PPPoE header covers the protocol field and the data after this field. Any further bytes
            # are padding.
            ethertype, end, at = _PPP.get(protocol, 0), min(end, at + 6 + length), at + 8
        elif ethertype in _MPLS:
            stack.append("MPLS")
            bottom, at = _unpack("!I", data, at, "MPLS")[0] & 0x100, at + 4
            if bottom:
                ethertype = {4: IPV4, 6: IPV6}.get(_unpack("B", data, at, "IP")[0] >> 4, 0)
        elif ethertype == _PBB:
            stack.append("802.1ah")
            ethertype, at = _unpack("!16xH", data, at, stack[-1])[0], at + 18
        elif ethertype <= _MOST_LENGTH and data[at : at + 6] == _SNAP:
            stack.append("LLC/SNAP")
            end, ethertype, at = min(end, at + ethertype), _unpack("!6xH", data, at, stack[-1])[0], at + 8
        else:
            return 0, at, end, tuple(stack)
    return ethertype, at, end, tuple(stack)


def options(data: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yields IPv4 or TCP options except NOPs: (kind, value). For the end-of-options marker, the value is the bytes
    after the marker. For a broken option, the value is None."""
    at = 0
    while at < len(data):
        if data[at] == 1:
            at += 1
            continue
        if data[at] == 0:
            yield 0, data[at + 1 :]
            return
        size = data[at + 1] if at + 1 < len(data) else 0
        if size < 2 or at + size > len(data):
            yield data[at], None
            return
        yield data[at], data[at + 2 : at + size]
        at += size


def _timestamp(tcp_options: bytes) -> tuple[int, int] | None:
    """Returns TSval and TSecr of the first timestamp option, unless a broken option precedes this option."""
    for kind, value in options(tcp_options):
        if kind == 8 and value is not None and len(value) == 8:
            tsval, tsecr = struct.unpack("!II", value)
            return tsval, tsecr
    return None


def _ipv4(frame: Frame, at: int, packet: Packet) -> tuple[int, int]:
    """Returns the offset of the payload, and the number of payload bytes on the wire."""
    data, room = frame.data, frame.length - at
    first, total, packet.identification, fragment = _unpack("!BxHHH", data, at, "IPv4")
    header = (first & 15) * 4
    total = total or room  # segmentation offload: the length does not fit into the field
    packet.snapped = at + total > len(data)
    if first >> 4 != 4 or header < 20:
        raise CutShortError("the IPv4 header is invalid")
    if total < header:
        raise CutShortError("the IPv4 packet is shorter than its header")
    if at + header > len(data):
        raise CutShortError("the capture ends in the IPv4 options")
    packet.ip_options = data[at + 20 : at + header]
    if total > room:
        packet.fault = f"the IPv4 header announces {total} bytes, but {room} were on the wire"
    if fragment & 0x1FFF:  # only the first fragment has the TCP header
        raise CutShortError("a fragment")
    return at + header, total - header


def _ipv6(frame: Frame, at: int, packet: Packet) -> tuple[int, int]:
    """Returns the offset of the payload, and the number of payload bytes on the wire."""
    data, room = frame.data, frame.length - at - 40
    first, length, protocol = _unpack("!B3xHB", data, at, "IPv6")
    left = length or room  # a jumbogram (RFC 2675), or segmentation offload
    at += 40
    packet.snapped = at + left > len(data)
    if first >> 4 != 6:
        raise CutShortError("the IPv6 header is invalid")
    if left > room:
        raise CutShortError(f"the IPv6 header announces {length} bytes, but {room} were on the wire")
    while protocol in _EXTENSIONS or protocol == _FRAGMENT:
        packet.extensions = True
        following, units, place = _unpack("!BBH", data, at, "IPv6 extension")
        size = (units + 2) * 4 if protocol == _AH else (units + 1) * 8
        if protocol == _FRAGMENT:
            size = 8
            if place & 0xFFF8:
                raise CutShortError("a fragment")
        protocol, at, left = following, at + size, left - size
        if left < 0:
            raise CutShortError("the IPv6 packet is shorter than its extension headers")
    if protocol != _TCP:
        raise NotTcpError
    return at, left


def _tcp(data: bytes, at: int, length: int, packet: Packet) -> None:
    source, destination = _unpack("!HH", data, at, "TCP")
    packet.source, packet.destination = (packet.source[0], source), (packet.destination[0], destination)
    packet.seq, packet.ack, offset, packet.flags, packet.window, packet.checksum = _unpack(
        "!4xIIBBHH2x", data, at, "TCP"
    )
    header = (offset >> 4) * 4
    if header < 20 or header > length:
        raise CutShortError(f"a TCP header of {header} bytes in a packet of {length} bytes")
    if at + header > len(data):
        raise CutShortError("the capture ends in the TCP options")
    packet.payload = length - header
    packet.flags |= (offset & 15) << 8
    packet.tcp_options = data[at + 20 : at + header]
    packet.timestamp = _timestamp(packet.tcp_options)


def is_icmp(frame: Frame) -> bool:
    """Returns true if a frame carries ICMP or ICMPv6."""
    try:
        ethertype, at, _, _ = _network(frame)
        if ethertype == IPV4:
            return _unpack("B", frame.data, at + 9, "IPv4")[0] == _ICMP
        return ethertype == IPV6 and _unpack("B", frame.data, at + 6, "IPv6")[0] == _ICMPV6
    except CutShortError:
        return False


def tcp_packet(frame: Frame) -> Packet | None:
    """Returns the TCP packet in a frame, or None if the frame has no IP header that announces TCP."""
    packet = Packet(frame.number, frame.time_ns)
    data = frame.data
    try:
        ethertype, at, end, packet.stack = _network(frame)
        if ethertype == IPV4:
            (protocol,) = _unpack("!9xB10x", data, at, "IPv4")
            packet.version = 4
            packet.source, packet.destination = (data[at + 12 : at + 16], 0), (data[at + 16 : at + 20], 0)
        elif ethertype == IPV6:
            (protocol,) = _unpack("!6xB33x", data, at, "IPv6")
            packet.version = 6
            packet.source, packet.destination = (data[at + 8 : at + 24], 0), (data[at + 24 : at + 40], 0)
        else:
            return None
    except CutShortError:
        return None
    try:
        if packet.version == 4 and protocol != _TCP:
            return None
        at, length = (_ipv4 if packet.version == 4 else _ipv6)(frame, at, packet)
        # In some short frames, the IP length wrongly includes the padding. The length in a PPPoE header excludes the
        # padding.
        _tcp(data, at, min(length, end - at), packet)
    except NotTcpError:
        return None
    except CutShortError as error:
        packet.fault = str(error)
    return packet
