# SPDX-License-Identifier: Apache-2.0
"""Interfaces as the kernel describes them, what it counts on them, and what it says of changes (rtnetlink(7))."""

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from otel_epping.kernel.netlink import messages
from otel_epping.process.text import unescaped

# linux/rtnetlink.h, linux/if_link.h
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK, _RTM_GETSTATS = 16, 17, 18, 94
_RTMGRP_LINK = 0x1
_RTMGRP_ROUTES = 0x10 | 0x40 | 0x400 | 1 << 31  # IPV4_IFADDR, IPV4_ROUTE, IPV6_ROUTE, RTNLGRP_NEXTHOP (32)
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_XDP, _IFLA_PROP_LIST, _IFLA_ALT_IFNAME = 3, 18, 43, 52, 53
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VRF_TABLE = 1, 2, 1
_IFLA_XDP_PROG_ID, _IFLA_XDP_OF_MODES = 4, (5, 6, 7)
_IFLA_STATS_LINK_64 = 1
_IFF_UP = 0x1

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware, index, flags, change
_STATS = struct.Struct("=BxxxII")  # if_stats_msg: family, index, mask of the wanted attributes
_PACKETS = struct.Struct("=QQ")  # the first two members of rtnl_link_stats64: packets received, transmitted


@dataclass(frozen=True)
class Link:
    """An interface as the kernel describes it; `names` are its name and, after it, its alternative names, escaped
    (text.py).

    `table` is the number of its routing table if the interface is a VRF, else 0.
    """

    ifindex: int
    names: tuple[str, ...]
    hardware: int
    up: bool
    table: int = 0

    @property
    def name(self) -> str:
        """What it is called."""
        return self.names[0]


def link_of(body: bytes) -> Link | None:
    """The interface of an RTM_NEWLINK or RTM_DELLINK message; None if it is of a bridge's port, say, and not of it."""
    family, hardware, ifindex, flags, _ = _LINK.unpack_from(body)
    names, others, table = [], [], 0
    for kind, value in messages.attributes(body[_LINK.size :]):
        if kind == _IFLA_IFNAME:
            names.append(messages.text_of(value))
        elif kind == _IFLA_PROP_LIST:
            others += [messages.text_of(each) for kind, each in messages.attributes(value) if kind == _IFLA_ALT_IFNAME]
        elif kind == _IFLA_LINKINFO:
            table = _vrf_table(dict(messages.attributes(value)))
    if family != socket.AF_UNSPEC or not names:
        return None
    return Link(ifindex, (*names, *others), hardware, bool(flags & _IFF_UP), table)


def _vrf_table(info: dict[int, bytes]) -> int:
    """The number of the routing table of a VRF; 0 for an interface of another kind."""
    if messages.text_of(info.get(_IFLA_INFO_KIND, b"")) != "vrf":
        return 0
    table = dict(messages.attributes(info.get(_IFLA_INFO_DATA, b""))).get(_IFLA_VRF_TABLE)
    return int.from_bytes(table, sys.byteorder) if table else 0


def links() -> Iterator[Link]:
    """All interfaces of our network namespace."""
    yield from filter(None, map(link_of, messages.dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))))


def link_named(name: str) -> Link | None:
    """The interface that has this name or alternative name (of up to 127 bytes, ip-link(8)), if there is one."""
    # The kernel looks up both kinds of names for IFLA_ALT_IFNAME, and for IFLA_IFNAME takes 15 bytes only.
    value = unescaped(name) + b"\0"
    attribute = messages.ATTRIBUTE.pack(messages.ATTRIBUTE.size + len(value), _IFLA_ALT_IFNAME) + value
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute + bytes(-len(attribute) % 4)
    for answer in messages.ask(_RTM_GETLINK, [body]):
        return link_of(answer)
    return None  # no interface has the name, or the name is too long


@dataclass(frozen=True)
class Device:
    """What an interface is: its kind (bond, vrf...; '' for a card), and the ids of its XDP programs."""

    kind: str
    xdp: tuple[int, ...]


def device(ifindex: int) -> Device:
    """What an interface is; nothing is known of one that is gone. Raises OSError."""
    for body in messages.ask(_RTM_GETLINK, [_LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)]):
        found = dict(messages.attributes(body[_LINK.size :]))
        kind = dict(messages.attributes(found.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND, b"")
        xdp = dict(messages.attributes(found.get(_IFLA_XDP, b"")))
        # With programs of more than one mode, each mode has an attribute of its own.
        modes = [mode for mode in _IFLA_XDP_OF_MODES if mode in xdp] or [_IFLA_XDP_PROG_ID]
        programs = (int.from_bytes(xdp[mode], sys.byteorder) for mode in modes if mode in xdp)
        return Device(messages.text_of(kind), tuple(programs))
    return Device("", ())


def packets(ifindexes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Packets received and transmitted on interfaces, by index, as the kernel counts them (`ip -s link`); nothing of an
    interface that is gone. Raises OSError.
    """
    bodies = [_STATS.pack(socket.AF_UNSPEC, ifindex, 1 << _IFLA_STATS_LINK_64 - 1) for ifindex in ifindexes]
    found = {}
    for body in messages.ask(_RTM_GETSTATS, bodies):
        counts = dict(messages.attributes(body[_STATS.size :])).get(_IFLA_STATS_LINK_64)
        if counts:
            found[_STATS.unpack_from(body)[1]] = _PACKETS.unpack_from(counts)
    return found


class Changes:
    """What the kernel says of interfaces, and of routes and what they depend on if asked to, from now on; to be
    selected on."""

    def __init__(self, *, routes: bool) -> None:
        self._socket = messages.listener(_RTMGRP_LINK | (_RTMGRP_ROUTES if routes else 0))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """No more of it."""
        self._socket.close()

    def read(self) -> Iterator[tuple[int, bytes] | None]:
        """Types and bodies of the messages there are; None where the kernel had to leave some out."""
        return messages.received(self._socket)
