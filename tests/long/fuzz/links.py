# SPDX-License-Identifier: Apache-2.0
"""Reads and builds the headers between an Ethernet header and IP, as the standards of these headers define.

Each kind of header is identified by the EtherType before the header. Most headers have a fixed size and end with the
EtherType of the next header. The program has its own rules for two cases that the standards do not define:

- If fewer than 8 bytes follow an EtherType, the packet is malformed, because an IP header is longer than 8 bytes.
- After the last MPLS label, the program expects IP if the first nibble is 4 or 6. Otherwise the program expects an
  Ethernet frame, with or without a control word before the frame. The program accepts the frame if its EtherType is in
  PSEUDOWIRE_TYPES.
"""

import struct
from collections.abc import Callable


class MalformedError(Exception):
    """The packet is broken, or ends too early."""


class NotIpError(Exception):
    """The packet contains no IP packet, or it contains headers that the program does not support."""


def number(frame: bytes, at: int, size: int) -> int:
    """Returns the unsigned number of `size` bytes at offset `at`, in network byte order. Raises MalformedError if the
    packet is too short."""
    if at + size > len(frame):
        raise MalformedError
    return int.from_bytes(frame[at : at + size], "big")


MAC = bytes.fromhex("020000000001")
FRAME = 14  # bytes of an Ethernet header
IPV4, IPV6 = 0x0800, 0x86DD
PPPOE, LABELS, NSH, MACSEC, TRILL, BATMAN, ARISTA, REALTEK = (
    0x8864,
    (0x8847, 0x8848),
    0x894F,
    0x88E5,
    0x22F3,
    0x4305,
    0xD28B,
    0x8899,
)
JUMBO_LLC, LLC_WITHOUT_LENGTH, LONGEST_802_3 = 0x8870, 4, 1500
PSEUDOWIRE_TYPES = {IPV4, IPV6, 0x8100, 0x88A8, PPPOE}
# The number of bytes before the EtherType of the next header, for each EtherType.
FIXED = {
    0x22E9: 2,  # IEEE 802.1Qau: flow identifier
    0x6558: 12,  # two addresses
    0x8100: 2,
    0x88A8: 2,
    0x9100: 2,
    0x9200: 2,
    0x9300: 2,
    0xDADB: 2,
    0x8874: 4,  # Broadcom's tag has 6 bytes, including the EtherType
    0x88E7: 4 + 12,  # priority and service identifier; two addresses
    0x8903: 2 + 12,  # FTag and TTL; two addresses
    0x8909: 1 + 1 + 2 + 2,  # version, length, option, group
    0x8926: 4,  # direction, virtual interfaces
    0x892F: 2 + 2,  # path and size, sequence number
    0x893B: 2,  # one half of a TRILL label
    0x893F: 2 + 4,  # priorities; E-CIDs with their extensions
    0xDADA: 2 + 4,  # reserved; the tag
    0xF1C1: 2 + 2,  # reserved, sequence number
}
PPP = {0x0021: IPV4, 0x0057: IPV6, 0x0281: LABELS[0], 0x0283: LABELS[0]}  # RFC 1332, 5072, 3032
NSH_NEXT = {1: IPV4, 2: IPV6, 4: NSH, 5: LABELS[0]}  # RFC 8300 section 11.2.5; 3 is an Ethernet frame
BATMAN_BYTES = {0x01: 14, 0x40: 10, 0x42: 18}  # broadcast, unicast, unicast with four addresses

# The next EtherType, the offset after this EtherType, and the end of the packet or None.
Read = tuple[int, int, int | None]


def read_header(frame: bytes, kind: int, at: int) -> Read:
    """Reads the header at offset `at`. `kind` is the EtherType before the header."""
    is_llc = kind <= LONGEST_802_3 or kind == JUMBO_LLC
    if kind not in FIXED and kind not in READERS and not is_llc:
        raise NotIpError
    number(frame, at, 8)
    if is_llc:
        return read_llc(frame, kind, at)
    if kind in FIXED:
        return behind(frame, at + FIXED[kind])
    return READERS[kind](frame, at)


def behind(frame: bytes, at: int) -> Read:
    """Reads the EtherType of the next header at offset `at`."""
    return number(frame, at, 2), at + 2, None


def read_llc(frame: bytes, length: int, at: int) -> Read:
    """Reads IEEE 802.2: SNAP with the EtherTypes of RFC 1042 or IEEE 802.1H; IP directly in LLC; or Cisco ISL, whose
    header of 26 bytes contains an LLC header."""
    end = at + length if length <= LONGEST_802_3 and length != LLC_WITHOUT_LENGTH else None
    head = frame[at : at + 6]
    if head[:3] == b"\x06\x06\x03":
        return IPV4, at + 3, end
    if head[:3] == b"\xaa\xaa\x03" and head[3:] in (b"\0\0\0", b"\0\0\xf8"):
        return number(frame, at + 6, 2), at + 8, end
    if head == b"\xaa\xaa\x03\0\0\x0c":
        return number(frame, at - FRAME + 26 + 12, 2), at - FRAME + 26 + FRAME, end
    raise NotIpError


def read_pppoe(frame: bytes, at: int) -> Read:
    """Reads PPPoE (RFC 2516 section 4). A PPP protocol number of one byte is odd (RFC 1661 section 6.5)."""
    size = 1 if frame[at + 6] % 2 else 2
    kind = PPP.get(number(frame, at + 6, size))
    if kind is None:
        raise NotIpError
    return kind, at + 6 + size, at + 6 + number(frame, at + 4, 2)


def read_label(frame: bytes, at: int) -> Read:
    """Reads an MPLS label (RFC 3032 section 2.1, RFC 4928 section 3, RFC 4448 section 4)."""
    if not frame[at + 2] & 1:
        return LABELS[0], at + 4, None
    nibble = frame[at + 4] >> 4
    if nibble in (4, 6):
        return {4: IPV4, 6: IPV6}[nibble], at + 4, None
    for control_word in (0, 4) if nibble == 0 else (0,):
        kind_at = at + 4 + control_word + 12
        if int.from_bytes(frame[kind_at : kind_at + 2], "big") in PSEUDOWIRE_TYPES and kind_at + 2 <= len(frame):
            return behind(frame, kind_at)
    raise NotIpError


def read_nsh(frame: bytes, at: int) -> Read:
    """Reads NSH (RFC 8300 section 2.2)."""
    size = (frame[at + 1] & 0x3F) * 4
    if size < 8:
        raise NotIpError
    if frame[at + 3] == 3:
        return behind(frame, at + size + 12)
    if frame[at + 3] not in NSH_NEXT:
        raise NotIpError
    return NSH_NEXT[frame[at + 3]], at + size, None


def read_macsec(frame: bytes, at: int) -> Read:
    """Reads a MACsec header (IEEE 802.1AE section 9), if the data after the header is neither encrypted nor changed.

    The secure channel identifier in the header is optional.
    """
    if frame[at] & 0x0C:
        raise NotIpError
    return behind(frame, at + 1 + 1 + 4 + (8 if frame[at] & 0x20 else 0))


def read_trill(frame: bytes, at: int) -> Read:
    """Reads TRILL (RFC 6325 section 3): flags, two nicknames, the options, and then an Ethernet frame."""
    options = number(frame, at, 2) >> 6 & 0x1F
    return behind(frame, at + 6 + 4 * options + 12)


def read_batman(frame: bytes, at: int) -> Read:
    """Reads a batman-adv header with the compatibility version 15."""
    if frame[at + 1] != 15 or frame[at] not in BATMAN_BYTES:
        raise NotIpError
    return behind(frame, at + BATMAN_BYTES[frame[at]] + 12)


def read_arista(frame: bytes, at: int) -> Read:
    """Reads Arista's subtype 1: a version and a timestamp.

    The timestamp has 48 bits if bit 5 of the version is set. Otherwise the timestamp has 64 bits.
    """
    if number(frame, at, 2) != 1:
        raise NotIpError
    return behind(frame, at + 4 + (6 if frame[at + 3] & 0x20 else 8))


def read_realtek(frame: bytes, at: int) -> Read:
    """Reads Realtek's protocol 0xa with a tag of 2 bytes, or Realtek's protocol 0x04 with a tag of 6 bytes."""
    if frame[at] >> 4 == 0xA:
        return behind(frame, at + 2)
    if frame[at] == 0x04:
        return behind(frame, at + 6)
    raise NotIpError


READERS: dict[int, Callable[[bytes, int], Read]] = {
    PPPOE: read_pppoe,
    LABELS[0]: read_label,
    LABELS[1]: read_label,
    NSH: read_nsh,
    MACSEC: read_macsec,
    TRILL: read_trill,
    BATMAN: read_batman,
    ARISTA: read_arista,
    REALTEK: read_realtek,
}

# ---- building

Built = tuple[int, bytes]  # a header's EtherType, and the header
Builder = Callable[[int, int], Built]  # arguments: the EtherType of the next header, and the bits that fill the header


def fixed(kind: int) -> Builder:
    """Returns a builder of a header with a fixed size.

    If the program does not read a field, the builder fills the field with `bits`.
    """

    def build(following: int, bits: int) -> Built:
        size = FIXED[kind]
        return kind, (bits * 0x0101_0101_0101).to_bytes(16, "big")[-size:].rjust(size, b"\2") + number_of(following)

    return build


def number_of(ethertype: int) -> bytes:
    return ethertype.to_bytes(2, "big")


def frame_of(following: int) -> bytes:
    """Returns an Ethernet header."""
    return MAC + MAC + number_of(following)


def variable(kind: int, head: bytes, carries_frame: bool = False) -> Builder:
    """Returns a builder of a header whose bytes are always the same."""
    return lambda following, _: (kind, head + (frame_of(following) if carries_frame else number_of(following)))


def trill(following: int, bits: int) -> Built:
    options = bits % 4
    return TRILL, struct.pack(">HHH", options << 6 | 17, 5, 6) + bytes(4 * options) + frame_of(following)


def nsh(following: int, bits: int) -> Built:
    words = 2 + bits % 5
    numbers = {IPV4: 1, IPV6: 2, NSH: 4, LABELS[0]: 5}
    base = struct.pack(">HBBI", words | 0x0FC0, 1 if words == 6 else 2, numbers.get(following, 3), 0x0000_0AFF)
    return NSH, base + bytes(4 * (words - 2)) + (b"" if following in numbers else frame_of(following))


def llc(following: int, bits: int) -> Built:
    """Builds an LLC header.

    The length field has the greatest value, because a builder does not know the length of the data.
    """
    if following == IPV4 and bits % 3 == 0:
        return LONGEST_802_3, b"\x06\x06\x03"
    return LONGEST_802_3, b"\xaa\xaa\x03" + (b"\0\0\xf8" if bits % 3 == 1 else b"\0\0\0") + number_of(following)


def jumbo_llc(following: int, bits: int) -> Built:
    return JUMBO_LLC, llc(following, bits)[1]


def pseudowire(following: int, bits: int) -> Built:
    """Builds an MPLS label and an Ethernet header after the label, with or without a control word between them."""
    control_word = bytes(4) if bits % 2 else b""
    return LABELS[bits % 4 // 2], struct.pack(">I", 16 << 12 | 1 << 8 | 64) + control_word + frame_of(following)


BUILDERS: dict[str, Builder] = {
    "802.1Q": fixed(0x8100),
    "802.1ad": fixed(0x88A8),
    "802.1Q of old": fixed(0x9100),
    "802.1Q of old, 0x9200": fixed(0x9200),
    "802.1Q of old, 0x9300": fixed(0x9300),
    "802.1ah": fixed(0x88E7),
    "802.1Qau": fixed(0x22E9),
    "802.1BR": fixed(0x893F),
    "802.1CB": fixed(0xF1C1),
    "HSR": fixed(0x892F),
    "VN-Tag": fixed(0x8926),
    "Cisco MetaData": fixed(0x8909),
    "FabricPath": fixed(0x8903),
    "transparent Ethernet": fixed(0x6558),
    "Broadcom": fixed(0x8874),
    "Marvell": fixed(0xDADA),
    "DSA 802.1Q": fixed(0xDADB),
    "TRILL label": fixed(0x893B),
    "TRILL": trill,
    "NSH": nsh,
    "802.3": llc,
    "LLC, jumbo": jumbo_llc,
    "ISL": variable(LONGEST_802_3, b"\xaa\xaa\x03\0\0\x0c\0\x0a\0\0\0\0", carries_frame=True),
    "MACsec": variable(MACSEC, b"\0\0\0\0\0\1"),
    "MACsec with channel": variable(MACSEC, b"\x20\0\0\0\0\1" + bytes(8)),
    "Realtek": variable(REALTEK, b"\xa0\1"),
    "Realtek, 8": variable(REALTEK, b"\x04\0\0\0\0\1"),
    "batman-adv": variable(BATMAN, b"\x40\x0f\x32\0" + MAC, carries_frame=True),
    "batman-adv, 4 addresses": variable(BATMAN, b"\x42\x0f\x32\0" + MAC + MAC + b"\0\0", carries_frame=True),
    "batman-adv, broadcast": variable(BATMAN, b"\x01\x0f\x32\0\0\0\0\1" + MAC, carries_frame=True),
    "Arista": variable(ARISTA, struct.pack(">HHQ", 1, 0x0010, 1)),
    "Arista, 48 bits": variable(ARISTA, struct.pack(">HHHI", 1, 0x0020, 1, 2)),
    "pseudowire": pseudowire,
}
