# SPDX-License-Identifier: Apache-2.0
"""Link headers of captures, as scapy builds them, and by hand what scapy has not."""

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
    """RFC 1661 section 6.5: the protocol in one byte."""
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


# name -> link type, and what makes a frame of an IP packet
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
}
