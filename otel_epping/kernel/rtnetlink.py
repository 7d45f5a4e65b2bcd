# SPDX-License-Identifier: Apache-2.0
"""The kernel's messages about interfaces, routes and filters (rtnetlink(7)): what there is, and what changes.

Only what following interfaces and the clsact hook need. pyroute2 has all of it, and takes 10 MB and 80 ms, which is
more than all of our settings and their model together.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
_NLM_F_REQUEST_DUMP = 0x001 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
RTM_NEWROUTE, RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_GETQDISC, _RTM_GETTFILTER = 38, 46
_RTMGRP_LINK, _RTMGRP_IPV4_ROUTE, _RTMGRP_IPV6_ROUTE = 0x1, 0x40, 0x400
_IFLA_IFNAME, _IFLA_PROP_LIST, _IFLA_ALT_IFNAME = 3, 52, 53
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_BPF_NAME, _TCA_BPF_ID = 7, 11
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # of a filter on a clsact qdisc
_CLSACT = 0xFFFFFFF1  # the parent of a clsact qdisc, and of an ingress qdisc, which has the same place
_RTA_OIF, _RTA_MULTIPATH = 4, 9
_RT_TABLE_MAIN, _RTN_UNICAST = 254, 1
_NLA_TYPE_MASK = 0x3FFF
_IFF_UP = 0x1

_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware, index, flags, change
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type
_TC = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, priority << 16 | protocol
_ATTRIBUTE = struct.Struct("=HH")
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index

_DATAGRAM = 1 << 16
# Of what happened while we were busy; the kernel halves it to what net.core.rmem_max allows.
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Link:
    """An interface as the kernel describes it; `names` are its name and, after it, its alternative names."""

    ifindex: int
    names: tuple[str, ...]
    hardware: int
    up: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return self.names[0]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind = _MESSAGE.unpack_from(data, at)[:2]
        yield kind, data[at + _MESSAGE.size : at + length]
        at += max(length + 3 & ~3, _MESSAGE.size)


def _text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


def link_of(body: bytes) -> Link | None:
    """The interface of an RTM_NEWLINK or RTM_DELLINK message; None if it is of a bridge's port, say, and not of it."""
    family, hardware, ifindex, flags, _ = _LINK.unpack_from(body)
    names, others = [], []
    for kind, value in _attributes(body[_LINK.size :]):
        if kind == _IFLA_IFNAME:
            names.append(_text(value))
        elif kind == _IFLA_PROP_LIST:
            others += [_text(each) for kind, each in _attributes(value) if kind == _IFLA_ALT_IFNAME]
    if family != socket.AF_UNSPEC or not names:
        return None
    return Link(ifindex, (*names, *others), hardware, bool(flags & _IFF_UP))


def default_route_of(body: bytes) -> list[int] | None:
    """The indexes of the interfaces of a route, if it is a default route of the main table."""
    _, destination_bits, *_, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if destination_bits or table != _RT_TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    found = []
    for attribute, value in _attributes(body[_ROUTE.size :]):
        if attribute == _RTA_OIF:
            found.append(struct.unpack("=i", value)[0])
        elif attribute == _RTA_MULTIPATH:
            at = 0
            while at + _NEXT_HOP.size <= len(value):
                length, _, _, ifindex = _NEXT_HOP.unpack_from(value, at)
                found.append(ifindex)
                at += max(length + 3 & ~3, _NEXT_HOP.size)
    return found


def _dump(kind: int, body: bytes) -> Iterator[bytes]:
    """All that the kernel has of a kind. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asker:
        asker.sendto(_MESSAGE.pack(_MESSAGE.size + len(body), kind, _NLM_F_REQUEST_DUMP, 1, 0) + body, (0, 0))
        while True:
            for answer, data in _messages(asker.recv(_DATAGRAM)):
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    raise OSError(code, os.strerror(code))
                yield data


def links() -> Iterator[Link]:
    """All interfaces of our network namespace."""
    yield from filter(None, map(link_of, _dump(_RTM_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))))


def default_routes() -> frozenset[int]:
    """Indexes of the interfaces that have a default route in the main table, by IPv4 or IPv6."""
    found: set[int] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(_RTM_GETROUTE, _ROUTE.pack(family, *[0] * 8)):
            found.update(default_route_of(body) or ())
    return frozenset(found)


@dataclass(frozen=True)
class Filter:
    """A filter on a clsact qdisc; `name` and `program`, its id, are those of a BPF program, or '' and 0.

    A list of filters has a head, which looks like a filter with the handle 0.
    """

    direction: str
    kind: str
    priority: int
    handle: int
    name: str
    program: int


def filters(ifindex: int, direction: str) -> Iterator[Filter]:
    """The filters of any kind on an interface's clsact qdisc, if it has one; `direction` is ingress or egress."""
    for body in _dump(_RTM_GETTFILTER, _TC.pack(socket.AF_UNSPEC, ifindex, 0, _PARENTS[direction], 0)):
        _, _, handle, _, info = _TC.unpack_from(body)
        attributes = dict(_attributes(body[_TC.size :]))
        kind = _text(attributes.get(_TCA_KIND, b""))
        options = dict(_attributes(attributes.get(_TCA_OPTIONS, b""))) if kind == "bpf" else {}
        name = _text(options.get(_TCA_BPF_NAME, b""))
        program = int.from_bytes(options.get(_TCA_BPF_ID, b""), sys.byteorder)
        yield Filter(direction, kind, info >> 16, handle, name, program)


def ingress_qdisc(ifindex: int) -> str:
    """The kind of the qdisc that an interface has for what comes in: clsact, ingress, or '' if it has none."""
    for body in _dump(_RTM_GETQDISC, _TC.pack(socket.AF_UNSPEC, ifindex, 0, 0, 0)):
        _, index, _, parent, _ = _TC.unpack_from(body)
        if (index, parent) == (ifindex, _CLSACT):
            return _text(dict(_attributes(body[_TC.size :])).get(_TCA_KIND, b""))
    return ""


class Changes:
    """What the kernel says of interfaces, and of routes if asked to, from now on; to be selected on."""

    def __init__(self, *, routes: bool) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind((0, _RTMGRP_LINK | (_RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE if routes else 0)))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """No more of it."""
        self._socket.close()

    def read(self) -> Iterator[tuple[int, bytes] | None]:
        """Types and bodies of the messages there are; None where the kernel had to leave some out."""
        while True:
            try:
                yield from _messages(self._socket.recv(_DATAGRAM))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
