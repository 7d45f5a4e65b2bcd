# SPDX-License-Identifier: Apache-2.0
"""Builds the link headers of captures, with scapy or, where scapy does not support them, by hand."""

import struct
from collections.abc import Callable

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1Q, Ether, Loopback
from scapy.layers.ppp import HDLC, PPP, PPPoE

MAC = "02:00:00:00:00:01"
V4, V6 = 0x0800, 0x86DD


def _ethertype(ip: bytes) -> int:
    return V4 if ip[0] >> 4 == 4 else V6


def _ppp_protocol(ip: bytes) -> int:
    return 0x21 if ip[0] >> 4 == 4 else 0x57


def _parsed(ip: bytes) -> IP | IPv6:
    return IP(ip) if ip[0] >> 4 == 4 else IPv6(ip)


def _family(ip: bytes, v6: int) -> int:
    return 2 if ip[0] >> 4 == 4 else v6


def _ethernet(ip: bytes) -> bytes:
    return bytes(Ether(src=MAC, dst=MAC, type=_ethertype(ip)) / ip)


def _tagged(ip: bytes) -> bytes:
    return bytes(Ether(src=MAC, dst=MAC) / Dot1Q(vlan=7, type=_ethertype(ip)) / ip)


def _cooked(ip: bytes) -> bytes:
    return bytes(CookedLinux(proto=_ethertype(ip)) / ip)


def _cooked_tagged(ip: bytes) -> bytes:
    return bytes(CookedLinux(proto=0x8100) / Dot1Q(vlan=7, type=_ethertype(ip)) / ip)


def _cooked_v2(ip: bytes) -> bytes:
    return bytes(CookedLinuxV2(proto=_ethertype(ip), ifindex=2) / ip)


def _raw(ip: bytes) -> bytes:
    return ip


def _ppp(ip: bytes) -> bytes:
    return struct.pack(">H", _ppp_protocol(ip)) + ip


def _ppp_framed(ip: bytes) -> bytes:
    return bytes(HDLC() / PPP(proto=_ppp_protocol(ip)) / ip)


def _ppp_compressed(ip: bytes) -> bytes:
    """RFC 1661 section 6.5: the protocol number has one byte."""
    return b"\xff\x03" + bytes([_ppp_protocol(ip)]) + ip


def _cisco(ip: bytes) -> bytes:
    return struct.pack(">BBH", 0x0F, 0, _ethertype(ip)) + ip


def _pppoe(ip: bytes) -> bytes:
    return bytes(PPPoE(sessionid=9) / PPP(proto=_ppp_protocol(ip)) / ip)


def _with_direction(ip: bytes) -> bytes:
    return b"\x01" + _ppp_framed(ip)


def _pppd(ip: bytes) -> bytes:
    return b"\x00\x03" + _ppp(ip)


def _null(order: str, v6: int) -> Callable[[bytes], bytes]:
    return lambda ip: struct.pack(f"{order}I", _family(ip, v6)) + ip


def _loopback(ip: bytes) -> bytes:
    return bytes(Loopback(type=_family(ip, 24)) / _parsed(ip))


Frame = Callable[[bytes], bytes]


CHECKSUM = b"\xfc\xfc\xfc\xfc"  # the frame check sequence, whose value no test checks


def _behind(front: bytes, frame: Frame, behind: bytes = b"") -> Frame:
    return lambda ip: front + frame(ip) + behind


def _llc(front: bytes) -> Frame:
    """Appends LLC with SNAP (RFC 1042) to a header."""
    return lambda ip: front + b"\xaa\xaa\x03\0\0\0" + struct.pack(">H", _ethertype(ip)) + ip


def _frame_relay(address: bytes, nlpid: bool = True) -> Frame:
    """RFC 2427 sections 5.1 and 5.3, or Cisco's encapsulation."""

    def make(ip: bytes) -> bytes:
        if nlpid:
            return address + b"\x03" + (b"\xcc" if ip[0] >> 4 == 4 else b"\x8e") + ip
        return address + struct.pack(">H", _ethertype(ip)) + ip

    return make


def _frame_relay_snap(ip: bytes) -> bytes:
    return b"\x18\x41\x03\0\x80\0\0\0" + struct.pack(">H", _ethertype(ip)) + ip


def _frame_relay_bridged(ip: bytes) -> bytes:
    return b"\x18\x41\x03\0\x80\0\x80\xc2\0\x07" + _ethernet(ip)


def _bridged(ip: bytes) -> bytes:
    """RFC 2684 section 5.2."""
    return b"\xaa\xaa\x03\0\x80\xc2\0\x07\0\0" + _ethernet(ip)


def _routed(ip: bytes) -> bytes:
    """RFC 2684 section 5.1: ISO network layer protocols."""
    return b"\xfe\xfe\x03" + (b"\xcc" if ip[0] >> 4 == 4 else b"\x8e") + ip


# 802.11: frame control, duration, three addresses, sequence control
_ADDRESSES = bytes.fromhex("020000000001 020000000002 020000000003")


def _wireless(first: int, second: int, behind: bytes = b"") -> Frame:
    return _llc(bytes([first, second, 0, 0]) + _ADDRESSES + b"\x10\0" + behind)


_WIRELESS_DATA = _wireless(0x08, 0x01)
_WIRELESS_QOS = _wireless(0x88, 0x02, b"\0\0")


def _wireless_aggregate(ip: bytes) -> bytes:
    """IEEE 802.11 9.3.2.2.2: an A-MSDU that contains one packet."""
    inner = _llc(b"")(ip)
    header = bytes.fromhex("020000000002 020000000001") + struct.pack(">H", len(inner))
    return b"\x88\x01\0\0" + _ADDRESSES + b"\x10\0\x80\0" + header + inner


def _radiotap(frame: Frame, present: int = 0, fields: bytes = b"", more: tuple[int, ...] = ()) -> Frame:
    words = struct.pack(f"<{1 + len(more)}I", present, *more)
    return _behind(struct.pack("<BBH", 0, 0, 4 + len(words) + len(fields)) + words + fields, frame)


def _avs(ip: bytes) -> bytes:
    return struct.pack(">II", 0x80211001, 64) + bytes(56) + _WIRELESS_DATA(ip)


def _prism(order: str) -> Frame:
    return _behind(struct.pack(f"{order}II", 0x44, 144) + b"wlan0".ljust(136, b"\0"), _WIRELESS_DATA)


def _nflog(order: str, *attributes: tuple[int, bytes]) -> Frame:
    """linux/netfilter/nfnetlink_log.h."""

    def make(ip: bytes) -> bytes:
        header = struct.pack(">BBH", _family(ip, 10), 0, 5)
        packet_header = struct.pack(">HBB", _ethertype(ip), 3, 0)
        parts = [(1, packet_header), *attributes, (9, ip)]
        return header + b"".join(
            struct.pack(f"{order}HH", 4 + len(value), kind) + value + bytes(-len(value) % 4) for kind, value in parts
        )

    return make


def _nflog_of_a_bridge(ip: bytes) -> bytes:
    return b"\x07" + _nflog("<", (10, b"prefix\0"))(ip)[1:]


def _pflog(size: int, v6: int) -> Frame:
    return lambda ip: struct.pack("BB", size, _family(ip, v6)).ljust((size + 3) // 4 * 4, b"\0") + ip


def _enc(order: str) -> Frame:
    return lambda ip: struct.pack(f"{order}III", _family(ip, 24), 7, 1) + ip


def _pktap(link: int, frame: Frame) -> Frame:
    """pktap(4): length, type, link type, name, flags, family, lengths, and other fields."""
    return _behind(struct.pack("<III24sIIII", 108, 1, link, b"en0", 1, 2, 14, 0).ljust(108, b"\0"), frame)


def _ppi(link: int, frame: Frame) -> Frame:
    """A PPI header with one field of type 2, which is 20 bytes long."""
    return _behind(struct.pack("<BBHI", 0, 0, 32, link) + struct.pack("<HH", 2, 20) + bytes(20), frame)


def _juniper(frame: Frame, extensions: bytes = b"") -> Frame:
    extended = struct.pack(">H", len(extensions)) + extensions if extensions else b""
    return _behind(b"MGC" + bytes([0x81 if extensions else 0x01]) + extended, frame)


def _juniper_bare(ip: bytes) -> bytes:
    return b"MGC\x03" + struct.pack(">I", 2) + ip


def _erf(kind: int, front: bytes, frame: Frame, extensions: bytes = b"") -> Frame:
    def make(ip: bytes) -> bytes:
        inner = front + frame(ip)
        size = len(inner) - len(front)
        head = struct.pack("<QBB", 1 << 32, kind | (0x80 if extensions else 0), 4)
        return head + struct.pack(">HHH", 16 + len(extensions) + len(inner), 0, size) + extensions + inner

    return make


def _ethernet_tagged(tag: bytes) -> Frame:
    def make(ip: bytes) -> bytes:
        whole = _ethernet(ip)
        return whole[:12] + tag + whole[12:]

    return make


def _docsis(extended: bytes = b"") -> Frame:
    def make(ip: bytes) -> bytes:
        frame = _ethernet(ip)
        length = len(extended) + len(frame) + len(CHECKSUM)
        return struct.pack(">BBH", bool(extended), len(extended), length) + extended + b"\0\0" + frame + CHECKSUM

    return make


def _ipnet(ip: bytes) -> bytes:
    return struct.pack(">BBHIIIII", 1, _family(ip, 26), 0, len(ip), 1, 2, 0, 0) + ip


def _mpls(ip: bytes) -> bytes:
    return struct.pack(">I", 16 << 12 | 1 << 8 | 64) + ip


def _cooked_as(hardware: int, protocol: int, frame: Frame) -> Frame:
    """A Linux cooked capture. The hardware type (`hardware`) determines which headers follow the cooked header."""
    return _behind(struct.pack(">HHH8sH", 0, hardware, 6, b"", protocol), frame)


def _arcnet(front: bytes, new: bytes, at: int) -> Frame:
    def make(ip: bytes) -> bytes:
        return front[:at] + bytes([212 if ip[0] >> 4 == 4 else 196]) + new + ip

    return make


def _arcnet_exception(ip: bytes) -> bytes:
    """tcpdump's print-arcnet.c: first a flag and a sequence number whose bits are all 1, then the type, and another
    flag and sequence number."""
    kind = bytes([212 if ip[0] >> 4 == 4 else 196])
    return b"\1\2" + kind + b"\xff\xff\xff" + kind + b"\0\0\1" + ip


def _ppp_short(ip: bytes) -> bytes:
    return bytes([_ppp_protocol(ip)]) + ip


# name -> link type, and a function that creates a frame from an IP packet
LINKS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "ethernet": (1, _ethernet),
    "802.1Q": (1, _tagged),
    "raw": (101, _raw),
    "raw as DLT 12": (12, _raw),
    "raw of OpenBSD": (14, _raw),
    "null, little-endian, FreeBSD": (0, _null("<", 28)),
    "null, big-endian, macOS": (0, _null(">", 30)),
    "null of Linux": (0, _null("<", 10)),
    "null as scapy has it": (0, _loopback),
    "loop": (108, _null(">", 24)),
    "cooked": (113, _cooked),
    "cooked 802.1Q": (113, _cooked_tagged),
    "cooked v2": (276, _cooked_v2),
    "PPP": (9, _ppp),
    "PPP framed": (9, _ppp_framed),
    "PPP with a short protocol": (9, _ppp_compressed),
    "PPP in HDLC": (50, _ppp_framed),
    "Cisco's PPP in HDLC": (50, _cisco),
    "Cisco HDLC": (104, _cisco),
    "PPPoE": (51, _pppoe),
    "PPP with direction": (204, _with_direction),
    "pppd": (166, _pppd),
    "PPPoE with a short protocol": (51, lambda ip: struct.pack(">BBHH", 0x11, 0, 9, len(ip) + 1) + _ppp_short(ip)),
    "null of Windows": (0, _null("<", 23)),
    "Token Ring": (6, _llc(b"\x10\x40" + bytes.fromhex("020000000001 020000000002"))),
    "Token Ring with a route": (
        6,
        _llc(b"\x10\x40" + bytes.fromhex("020000000001 820000000002") + b"\x06\x30\0\x11\0\x20"),
    ),
    "FDDI": (10, _llc(b"\x50" + bytes.fromhex("020000000001 020000000002"))),
    "ARCNET": (7, _arcnet(b"\1\2", b"\0\0\1", 2)),
    "ARCNET with exception": (7, _arcnet_exception),
    "ARCNET of Linux": (129, _arcnet(b"\1\2\0\0", b"\0\0\1", 4)),
    "SLIP": (8, _behind(b"\0\x45" + bytes(14), _raw)),
    "Symantec": (99, lambda ip: bytes(6) + struct.pack(">H", _ethertype(ip)) + bytes(36) + ip),
    "ATM": (100, _llc(b"")),
    "ATM, bridged": (100, _bridged),
    "ATM, routed": (100, _routed),
    "ATM without LLC": (100, _raw),
    "ATM with PPP": (100, _ppp),
    "ATM with PPP in LLC": (100, lambda ip: b"\xfe\xfe\x03\xcf" + _ppp(ip)),
    "ATM of Linux": (106, _llc(b"")),
    "802.11": (105, _WIRELESS_DATA),
    "802.11 QoS": (105, _WIRELESS_QOS),
    "802.11 with four addresses": (105, _wireless(0x88, 0x03, bytes(6) + b"\0\0")),
    "802.11 with HT control": (105, _wireless(0x88, 0x81, b"\0\0" + bytes(4))),
    "802.11 A-MSDU": (105, _wireless_aggregate),
    "802.11 with CF-Ack": (105, _wireless(0x18, 0x01)),
    "Frame Relay": (107, _frame_relay(b"\x18\x41")),
    "Frame Relay, 4 bytes of address": (107, _frame_relay(b"\x18\x40\x20\x41")),
    "Frame Relay, SNAP": (107, _frame_relay_snap),
    "Frame Relay, bridged": (107, _frame_relay_bridged),
    "Frame Relay of Cisco": (107, _frame_relay(b"\x18\x41", nlpid=False)),
    "Frame Relay with direction": (206, _behind(b"\1", _frame_relay(b"\x18\x41"))),
    "enc": (109, _enc("<")),
    "enc, big-endian": (109, _enc(">")),
    "cooked, IPv4 in GRE": (113, lambda ip: _cooked_as(778, _ethertype(ip), _raw)(ip)),
    "cooked, LLC": (113, _cooked_as(1, 4, _llc(b""))),
    "cooked, 802.11": (113, _cooked_as(803, 4, _radiotap(_WIRELESS_DATA))),
    "cooked v2, LLC": (276, _behind(struct.pack(">HHIHBB8s", 4, 0, 2, 1, 0, 6, b""), _llc(b""))),
    "pflog of OpenBSD": (117, _pflog(61, 24)),
    "pflog of FreeBSD": (117, _pflog(64, 28)),
    "Prism": (119, _prism("<")),
    "Prism, big-endian": (119, _prism(">")),
    "AVS": (163, _avs),
    "AVS as Prism": (119, _avs),
    "Fibre Channel": (122, _llc(b"\x10\0" + bytes(14))),
    "SunATM": (123, _behind(b"\2\0\0\x20", _llc(b""))),
    "SunATM, LAN emulation": (123, _behind(b"\x81\0\0\x20\0\1", _ethernet)),
    "radiotap": (127, _radiotap(_WIRELESS_DATA)),
    "radiotap with flags": (127, _radiotap(_WIRELESS_QOS, 1 << 1, b"\0")),
    "radiotap with time and padding": (
        127,
        _radiotap(_wireless(0x88, 0x01, b"\0\0" + b"\0\0"), 1 << 0 | 1 << 1, bytes(8) + b"\x20"),
    ),
    "radiotap with checksum": (127, lambda ip: _radiotap(_WIRELESS_QOS, 1 << 1, b"\x10")(ip) + CHECKSUM),
    "radiotap with more bitmaps": (
        127,
        _radiotap(
            _wireless(0x88, 0x01, b"\0\0" + b"\0\0"), 1 << 0 | 1 << 1 | 1 << 31, bytes(4) + bytes(8) + b"\x20", (0,)
        ),
    ),
    "FireWire": (138, lambda ip: bytes(16) + struct.pack(">H", _ethertype(ip)) + ip),
    "DOCSIS": (143, _docsis()),
    "DOCSIS with an extended header": (143, _docsis(b"\x10\0\0\0")),
    "Juniper, Ethernet": (178, _juniper(_ethernet)),
    "Juniper with extensions": (178, _juniper(_ethernet, b"\1\1\5\2\1\7")),
    "Juniper without a link header": (178, _juniper_bare),
    "Juniper, PPP": (179, _juniper(_ppp_framed)),
    "Juniper, Frame Relay": (180, _juniper(_frame_relay(b"\x18\x41"))),
    "Juniper, Cisco HDLC": (181, _juniper(_cisco)),
    "PPI": (192, _ppi(105, _WIRELESS_DATA)),
    "PPI, Ethernet": (192, _ppi(1, _ethernet)),
    "ERF, Ethernet": (197, _erf(2, b"\0\0", _ethernet)),
    "ERF, Ethernet with extensions": (197, _erf(2, b"\0\0", _ethernet, b"\x83" + bytes(7) + b"\x04" + bytes(7))),
    "ERF, PPP": (197, _erf(1, b"", _ppp_framed)),
    "ERF, IP": (197, lambda ip: _erf(22 if ip[0] >> 4 == 4 else 23, b"", _raw)(ip)),
    "Cisco HDLC with direction": (205, _behind(b"\0", _cisco)),
    "MPLS": (219, _mpls),
    "ipnet": (226, _ipnet),
    "raw IPv4 or IPv6": (228, _raw),
    "raw IPv6": (229, _raw),
    "NFLOG": (239, _nflog("<")),
    "NFLOG with more attributes": (239, _nflog("<", (10, b"ssh\0"), (11, bytes(4)), (13, bytes(4)))),
    "NFLOG, big-endian": (239, _nflog(">", (10, b"a prefix of some length\0"))),
    "NFLOG of a bridge": (239, _nflog_of_a_bridge),
    "netANALYZER": (240, _behind(bytes(4), _ethernet, CHECKSUM)),
    "netANALYZER with preamble": (241, _behind(bytes(4) + b"\x55" * 7 + b"\xd5", _ethernet, CHECKSUM)),
    "InfiniBand": (242, lambda ip: bytes(40) + struct.pack(">HH", _ethertype(ip), 0) + ip),
    "PKTAP, Ethernet": (258, _pktap(1, _ethernet)),
    "PKTAP, raw": (258, _pktap(12, _raw)),
    "PKTAP, null": (258, _pktap(0, _null("<", 30))),
    "802.3br": (274, _behind(b"\x55" * 7 + b"\xd5", _ethernet, CHECKSUM)),
    "Broadcom tag": (281, _ethernet_tagged(b"\x20\0\0\1")),
    "Broadcom tag in front": (282, _behind(b"\x20\0\0\1", _ethernet)),
    "DSA tag": (284, _ethernet_tagged(b"\xc0\0\0\1")),
    "EDSA tag": (285, _ethernet_tagged(b"\xda\xda\0\0\xc0\0\0\1")),
}
