# SPDX-License-Identifier: Apache-2.0
"""The kernel's messages about interfaces, routes and filters (rtnetlink(7)): what there is, and what changes.

Only what following interfaces, the hooks and the comparison of packets need. pyroute2 has all of it, and takes 10 MB
and 80 ms, which is more than all of our settings and their model together.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from otel_epping.kernel.text import escaped, unescaped

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/nexthop.h
_NLM_F_REQUEST, _NLM_F_REQUEST_DUMP = 0x001, 0x001 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
RTM_NEWROUTE, RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
RTM_DELADDR = 21
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, _RTM_GETNEXTHOP = 104, 105, 106
_RTM_GETQDISC, _RTM_GETTFILTER, _RTM_GETSTATS = 38, 46, 94
_RTMGRP_LINK, _RTMGRP_TC = 0x1, 0x8
_RTMGRP_ROUTES = 0x10 | 0x40 | 0x400 | 1 << 31  # IPV4_IFADDR, IPV4_ROUTE, IPV6_ROUTE, RTNLGRP_NEXTHOP (32)
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_XDP, _IFLA_PROP_LIST, _IFLA_ALT_IFNAME = 3, 18, 43, 52, 53
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VRF_TABLE = 1, 2, 1
_IFLA_XDP_PROG_ID, _IFLA_XDP_OF_MODES = 4, (5, 6, 7)
_IFLA_STATS_LINK_64 = 1
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_TCA_BPF_NAME, _TCA_BPF_ID = 7, 11
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # of a filter on a clsact qdisc
_CLSACT = 0xFFFFFFF1  # the parent of a clsact qdisc, and of an ingress qdisc, which has the same place
_RTA_DST, _RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE, _RTA_NH_ID = 1, 4, 9, 15, 30
_RTN_UNICAST, _RTN_BLACKHOLE = 1, 6
_NHA_ID, _NHA_GROUP, _NHA_OIF = 1, 2, 5
_NLA_TYPE_MASK = 0x3FFF
_IFF_UP = 0x1

_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware, index, flags, change
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type
_TC = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, priority << 16 | protocol
_ATTRIBUTE = struct.Struct("=HH")
_NEXT_HOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index
_NEXT_HOP_OBJECT = struct.Struct("=4BI")  # nhmsg: family, scope, protocol, reserved, flags
_GROUP_MEMBER = struct.Struct("=IBBH")  # nexthop_grp: id, weight, weight's high byte, reserved
_ADDRESS = struct.Struct("=4xI")  # ifaddrmsg: family, length of the prefix, flags, scope, index
_NUMBER = struct.Struct("=I")
_STATS = struct.Struct("=BxxxII")  # if_stats_msg: family, index, mask of the wanted attributes
_PACKETS = struct.Struct("=QQ")  # the first two members of rtnl_link_stats64: packets received, transmitted

_DATAGRAM = 1 << 16
_TOGETHER = 32  # requests in a datagram, whose answers fit into any socket's buffer
_PATIENCE_S = 1.0
# Of what happened while we were busy; the kernel halves it to what net.core.rmem_max allows.
_BUFFER = 1 << 20


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
    return escaped(value.rstrip(b"\0"))


def link_of(body: bytes) -> Link | None:
    """The interface of an RTM_NEWLINK or RTM_DELLINK message; None if it is of a bridge's port, say, and not of it."""
    family, hardware, ifindex, flags, _ = _LINK.unpack_from(body)
    names, others, table = [], [], 0
    for kind, value in _attributes(body[_LINK.size :]):
        if kind == _IFLA_IFNAME:
            names.append(_text(value))
        elif kind == _IFLA_PROP_LIST:
            others += [_text(each) for kind, each in _attributes(value) if kind == _IFLA_ALT_IFNAME]
        elif kind == _IFLA_LINKINFO:
            table = _vrf_table(dict(_attributes(value)))
    if family != socket.AF_UNSPEC or not names:
        return None
    return Link(ifindex, (*names, *others), hardware, bool(flags & _IFF_UP), table)


def _vrf_table(info: dict[int, bytes]) -> int:
    """The number of the routing table of a VRF; 0 for an interface of another kind."""
    if _text(info.get(_IFLA_INFO_KIND, b"")) != "vrf":
        return 0
    table = dict(_attributes(info.get(_IFLA_INFO_DATA, b""))).get(_IFLA_VRF_TABLE)
    return int(_NUMBER.unpack(table)[0]) if table else 0


@dataclass(frozen=True)
class Route:
    """A unicast route: its destination, and where packets go: to interfaces, or to a nexthop object.

    `destination` has the bytes that the kernel gives: none where `bits` is 0. `nexthop` is the id of the object
    (ip-nexthop(8)), or 0. Where a route has one, its interfaces are those of the object: with the sysctl
    net.ipv4.nexthop_compat_mode=0 the route itself names none. While the object is a blackhole, so is the type of the
    route.
    """

    table: int
    destination: bytes
    bits: int
    interfaces: tuple[int, ...]
    nexthop: int


def route_of(body: bytes) -> Route | None:
    """The route of an RTM_NEWROUTE or RTM_DELROUTE message; None if it is not a unicast route."""
    _, bits, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if kind not in (_RTN_UNICAST, _RTN_BLACKHOLE):
        return None
    destination, nexthop = b"", 0
    interfaces: list[int] = []
    for attribute, value in _attributes(body[_ROUTE.size :]):
        if attribute == _RTA_DST:
            destination = value
        elif attribute == _RTA_OIF:
            interfaces += _NUMBER.unpack(value)
        elif attribute == _RTA_TABLE:
            (table,) = _NUMBER.unpack(value)
        elif attribute == _RTA_NH_ID:
            (nexthop,) = _NUMBER.unpack(value)
        elif attribute == _RTA_MULTIPATH:
            at = 0
            while at + _NEXT_HOP.size <= len(value):
                length, _, _, ifindex = _NEXT_HOP.unpack_from(value, at)
                interfaces.append(ifindex)
                at += max(length + 3 & ~3, _NEXT_HOP.size)
    if kind == _RTN_BLACKHOLE and not nexthop:
        return None
    return Route(table, destination, bits, tuple(interfaces), nexthop)


@dataclass(frozen=True)
class Nexthop:
    """A nexthop object: the interface it leads to, or the ids of a group's members; neither for a blackhole."""

    number: int
    interface: int
    members: tuple[int, ...]


def nexthop_of(body: bytes) -> Nexthop:
    """The object of an RTM_NEWNEXTHOP or RTM_DELNEXTHOP message."""
    attributes = dict(_attributes(body[_NEXT_HOP_OBJECT.size :]))
    number, interface = (
        int(_NUMBER.unpack(attributes[kind])[0]) if kind in attributes else 0 for kind in (_NHA_ID, _NHA_OIF)
    )
    members = attributes.get(_NHA_GROUP, b"")
    whole = members[: len(members) // _GROUP_MEMBER.size * _GROUP_MEMBER.size]
    return Nexthop(number, interface, tuple(member[0] for member in _GROUP_MEMBER.iter_unpack(whole)))


def address_interface_of(body: bytes) -> int:
    """The index of the interface of an RTM_DELADDR message."""
    return int(_ADDRESS.unpack_from(body)[0])


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


def link_named(name: str) -> Link | None:
    """The interface that has this name or alternative name (of up to 127 bytes, ip-link(8)), if there is one."""
    # The kernel looks up both kinds of names for IFLA_ALT_IFNAME, and for IFLA_IFNAME takes 15 bytes only.
    value = unescaped(name) + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), _IFLA_ALT_IFNAME) + value
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute + bytes(-len(attribute) % 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asker:
        asker.sendto(_MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETLINK, _NLM_F_REQUEST, 1, 0) + body, (0, 0))
        for answer, data in _messages(asker.recv(_DATAGRAM)):
            if answer == RTM_NEWLINK:
                return link_of(data)
    return None  # NLMSG_ERROR: there is none, or the name is longer than one can be


def routes() -> Iterator[Route]:
    """All unicast routes of IPv4 and IPv6, of all tables."""
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from filter(None, map(route_of, _dump(_RTM_GETROUTE, _ROUTE.pack(family, *[0] * 8))))


def nexthops() -> Iterator[Nexthop]:
    """All nexthop objects."""
    yield from map(nexthop_of, _dump(_RTM_GETNEXTHOP, _NEXT_HOP_OBJECT.pack(*[0] * 5)))


@dataclass(frozen=True)
class Filter:
    """A filter on a clsact qdisc; `name` and `program`, its id, are those of a BPF program, or '' and 0.

    A packet begins in chain 0, and meets the filters there in the order in which the kernel lists them. `protocol` is
    an EtherType, ETH_P_ALL (3) for all. A list of filters has a head, which looks like a filter with the handle 0.
    """

    direction: str
    kind: str
    priority: int
    protocol: int
    chain: int
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
        chain = int.from_bytes(attributes.get(_TCA_CHAIN, b""), sys.byteorder)
        yield Filter(direction, kind, info >> 16, socket.ntohs(info & 0xFFFF), chain, handle, name, program)


def ingress_qdisc(ifindex: int) -> str:
    """The kind of the qdisc that an interface has for what comes in: clsact, ingress, or '' if it has none."""
    for body in _dump(_RTM_GETQDISC, _TC.pack(socket.AF_UNSPEC, ifindex, 0, 0, 0)):
        _, index, _, parent, _ = _TC.unpack_from(body)
        if (index, parent) == (ifindex, _CLSACT):
            return _text(dict(_attributes(body[_TC.size :])).get(_TCA_KIND, b""))
    return ""


@dataclass(frozen=True)
class Device:
    """What an interface is: its kind (bond, vrf...; '' for a card), and the ids of its XDP programs."""

    kind: str
    xdp: tuple[int, ...]


def _ask(kind: int, bodies: Sequence[bytes]) -> Iterator[bytes]:
    """The answers to requests about one thing each; those that the kernel refuses have none. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asker:
        asker.settimeout(_PATIENCE_S)
        for begin in range(0, len(bodies), _TOGETHER):
            part = bodies[begin : begin + _TOGETHER]
            requests = [_MESSAGE.pack(_MESSAGE.size + len(body), kind, _NLM_F_REQUEST, 0, 0) + body for body in part]
            asker.sendto(b"".join(requests), (0, 0))
            waiting = len(part)
            while waiting:
                for answer, data in _messages(asker.recv(_DATAGRAM)):
                    waiting -= 1
                    if answer != _NLMSG_ERROR:
                        yield data


def device(ifindex: int) -> Device:
    """What an interface is; nothing is known of one that is gone. Raises OSError."""
    for body in _ask(_RTM_GETLINK, [_LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0)]):
        found = dict(_attributes(body[_LINK.size :]))
        kind = dict(_attributes(found.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND, b"")
        xdp = dict(_attributes(found.get(_IFLA_XDP, b"")))
        # With programs of more than one mode, each mode has an attribute of its own.
        modes = [mode for mode in _IFLA_XDP_OF_MODES if mode in xdp] or [_IFLA_XDP_PROG_ID]
        programs = (int.from_bytes(xdp[mode], sys.byteorder) for mode in modes if mode in xdp)
        return Device(_text(kind), tuple(programs))
    return Device("", ())


def packets(ifindexes: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Packets received and transmitted on interfaces, by index, as the kernel counts them (`ip -s link`); nothing of an
    interface that is gone. Raises OSError.
    """
    bodies = [_STATS.pack(socket.AF_UNSPEC, ifindex, 1 << _IFLA_STATS_LINK_64 - 1) for ifindex in ifindexes]
    found = {}
    for body in _ask(_RTM_GETSTATS, bodies):
        counts = dict(_attributes(body[_STATS.size :])).get(_IFLA_STATS_LINK_64)
        if counts:
            found[_STATS.unpack_from(body)[1]] = _PACKETS.unpack_from(counts)
    return found


class FilterChanges:
    """Which interfaces had a change of their qdiscs or filters from now on."""

    def __init__(self) -> None:
        self._socket = _listener(_RTMGRP_TC)

    def read(self) -> set[int] | None:
        """The indexes of the interfaces; None where the kernel had to leave some out."""
        found: set[int] = set()
        missed = False
        for message in _received(self._socket):
            if message is None:
                missed = True
            else:
                found.add(_TC.unpack_from(message[1])[1])
        return None if missed else found

    def close(self) -> None:
        """No more of it."""
        self._socket.close()


def _listener(groups: int) -> socket.socket:
    """A socket that hears what changes."""
    listener = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listener.bind((0, groups))
    return listener


def _received(listener: socket.socket) -> Iterator[tuple[int, bytes] | None]:
    """Types and bodies of the messages there are; None where the kernel had to leave some out."""
    while True:
        try:
            yield from _messages(listener.recv(_DATAGRAM))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None


class Changes:
    """What the kernel says of interfaces, and of routes and what they depend on if asked to, from now on; to be
    selected on."""

    def __init__(self, *, routes: bool) -> None:
        self._socket = _listener(_RTMGRP_LINK | (_RTMGRP_ROUTES if routes else 0))

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """No more of it."""
        self._socket.close()

    def read(self) -> Iterator[tuple[int, bytes] | None]:
        """Types and bodies of the messages there are; None where the kernel had to leave some out."""
        return _received(self._socket)
