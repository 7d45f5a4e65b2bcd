# SPDX-License-Identifier: Apache-2.0
"""Interfaces: their attributes, their packet counters, and notifications of changes (rtnetlink(7))."""

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from otel_epping.kernel.netlink import messages
from otel_epping.process.escaping import unescaped

# linux/rtnetlink.h, linux/if_link.h
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK, _RTM_GETSTATS = 16, 17, 18, 94
_RTMGRP_LINK = 0x1
_RTMGRP_ROUTES = 0x10 | 0x40 | 0x400 | 1 << 31  # IPV4_IFADDR, IPV4_ROUTE, IPV6_ROUTE, RTNLGRP_NEXTHOP (32)
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_XDP, _IFLA_PROP_LIST, _IFLA_ALT_IFNAME = 3, 18, 43, 52, 53
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VRF_TABLE = 1, 2, 1
_IFLA_XDP_PROG_ID, _IFLA_XDP_OF_MODES = 4, (5, 6, 7)
_IFLA_STATS_LINK_64 = 1
_IFF_UP = 0x1

_LINK = struct.Struct("=BxHiII")  # Members of ifinfomsg: family, hardware, index, flags, change.
_STATS = struct.Struct("=BxxxII")  # Members of if_stats_msg: family, index, mask of the wanted attributes.
_PACKETS = struct.Struct("=QQ")  # The first two members of rtnl_link_stats64: packets received, transmitted.


@dataclass(frozen=True)
class Link:
    """An interface as the kernel describes it.

    names     the name, and then the alternative names, escaped (process/escaping.py)
    hardware  the hardware type (ARPHRD_*, linux/if_arp.h)
    up        true if the interface is set up (IFF_UP)
    table     the number of the routing table if the interface is a VRF; otherwise 0
    """

    ifindex: int
    names: tuple[str, ...]
    hardware: int
    up: bool
    table: int = 0

    @property
    def name(self) -> str:
        """The name, without alternative names."""
        return self.names[0]


def parse_link(body: bytes) -> Link | None:
    """Returns the interface that an RTM_NEWLINK or RTM_DELLINK message describes.

    Returns None if the message does not describe the interface itself, but for example its role as a port of a bridge.
    """
    family, hardware, ifindex, flags, _ = _LINK.unpack_from(body)
    names, others, table = [], [], 0
    for kind, value in messages.attributes(body[_LINK.size :]):
        if kind == _IFLA_IFNAME:
            names.append(messages.decode_text(value))
        elif kind == _IFLA_PROP_LIST:
            others += [
                messages.decode_text(each) for kind, each in messages.attributes(value) if kind == _IFLA_ALT_IFNAME
            ]
        elif kind == _IFLA_LINKINFO:
            table = _vrf_table(dict(messages.attributes(value)))
    if family != socket.AF_UNSPEC or not names:
        return None
    return Link(ifindex, (*names, *others), hardware, bool(flags & _IFF_UP), table)


def _vrf_table(info: dict[int, bytes]) -> int:
    """Returns the number of the routing table of a VRF. Returns 0 for other kinds of interfaces."""
    if messages.decode_text(info.get(_IFLA_INFO_KIND, b"")) != "vrf":
        return 0
    table = dict(messages.attributes(info.get(_IFLA_INFO_DATA, b""))).get(_IFLA_VRF_TABLE)
    return int.from_bytes(table, sys.byteorder) if table else 0


def links() -> Iterator[Link]:
    """Yields all interfaces of the calling thread's network namespace. Raises OSError."""
    yield from filter(None, map(parse_link, messages.dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))))


def find_link(name: str) -> Link | None:
    """Returns the interface that has `name` as its name or as an alternative name.

    Returns None if no interface has the name. An alternative name has up to 127 bytes (ip-link(8)).
    """
    # If the request has the attribute IFLA_ALT_IFNAME, the kernel searches names and alternative names. The attribute
    # IFLA_IFNAME is limited to 15 bytes.
    value = unescaped(name) + b"\0"
    attribute = messages.ATTRIBUTE.pack(messages.ATTRIBUTE.size + len(value), _IFLA_ALT_IFNAME) + value
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute + bytes(-len(attribute) % 4)
    for answer in messages.request(_RTM_GETLINK, [body]):
        return parse_link(answer)
    return None  # no interface has the name, or the name is too long


@dataclass(frozen=True)
class Device:
    """Properties of an interface that determine how packets pass the interface.

    kind  the kind (IFLA_INFO_KIND), such as "bond" or "vrf"; '' for a network card
    xdp   the ids of the XDP programs on the interface
    """

    kind: str
    xdp: tuple[int, ...]


def device(ifindex: int) -> Device:
    """Returns the properties of an interface, or Device("", ()) if the interface is gone. Raises OSError."""
    for body in messages.request(_RTM_GETLINK, [_LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)]):
        found = dict(messages.attributes(body[_LINK.size :]))
        kind = dict(messages.attributes(found.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND, b"")
        xdp = dict(messages.attributes(found.get(_IFLA_XDP, b"")))
        # If the interface has programs in several modes (generic, driver, hardware), each mode has its own attribute
        # with the id of the program.
        modes = [mode for mode in _IFLA_XDP_OF_MODES if mode in xdp] or [_IFLA_XDP_PROG_ID]
        programs = (int.from_bytes(xdp[mode], sys.byteorder) for mode in modes if mode in xdp)
        return Device(messages.decode_text(kind), tuple(programs))
    return Device("", ())


def packet_counts(ifindexes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Returns the kernel's packet counts (received, transmitted) for each interface, by index.

    `ip -s link` shows the same counts. Interfaces that are gone are missing in the result. Raises OSError.
    """
    bodies = [_STATS.pack(socket.AF_UNSPEC, ifindex, 1 << _IFLA_STATS_LINK_64 - 1) for ifindex in ifindexes]
    found = {}
    for body in messages.request(_RTM_GETSTATS, bodies):
        counts = dict(messages.attributes(body[_STATS.size :])).get(_IFLA_STATS_LINK_64)
        if counts:
            found[_STATS.unpack_from(body)[1]] = _PACKETS.unpack_from(counts)
    return found


class LinkChanges:
    """Receives notifications about changed interfaces.

    If `routes` is true, the object also receives notifications about changed routes, addresses and nexthops. An object
    of this class can be passed to select.select(). Raises OSError if no socket can be opened.
    """

    def __init__(self, *, routes: bool) -> None:
        self._socket = messages.open_listener(_RTMGRP_LINK | (_RTMGRP_ROUTES if routes else 0))

    def fileno(self) -> int:
        """Returns the socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def read(self) -> Iterator[tuple[int, bytes] | None]:
        """Yields (type, body) of each message that has arrived. Yields None if the kernel has dropped messages."""
        return messages.receive(self._socket)
