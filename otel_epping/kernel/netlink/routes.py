# SPDX-License-Identifier: Apache-2.0
"""Routes and nexthop objects (rtnetlink(7), linux/nexthop.h)."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from otel_epping.kernel.netlink import messages

# linux/rtnetlink.h, linux/nexthop.h
RTM_DELADDR = 21
RTM_NEWROUTE, RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
RTM_NEWNEXTHOP, RTM_DELNEXTHOP, _RTM_GETNEXTHOP = 104, 105, 106
_RTA_DST, _RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE, _RTA_NH_ID = 1, 4, 9, 15, 30
_RTN_UNICAST, _RTN_BLACKHOLE = 1, 6
_NHA_ID, _NHA_GROUP, _NHA_OIF = 1, 2, 5

_ROUTE = struct.Struct("=8BI")  # Members of rtmsg: family, address lengths, tos, table, protocol, scope, type.
_NEXT_HOP = struct.Struct("=HBBi")  # Members of rtnexthop: length, flags, hops, index.
_NEXT_HOP_OBJECT = struct.Struct("=4BI")  # Members of nhmsg: family, scope, protocol, reserved, flags.
_GROUP_MEMBER = struct.Struct("=IBBH")  # Members of nexthop_grp: id, weight, high byte of the weight, reserved.
_ADDRESS = struct.Struct("=4xI")  # Members of ifaddrmsg: family, length of the prefix, flags, scope, index.
_NUMBER = struct.Struct("=I")


@dataclass(frozen=True)
class Route:
    """A unicast route.

    table        the number of the routing table
    destination  the address of the destination; empty if `bits` is 0
    bits         the prefix length of the destination
    interfaces   the indexes of the outgoing interfaces
    nexthop      the id of the nexthop object of the route (ip-nexthop(8)), or 0

    If a route has a nexthop object, use the interfaces of the nexthop object, not `interfaces`. If the sysctl
    net.ipv4.nexthop_compat_mode is 0, the kernel's message about the route contains no interfaces. While the nexthop
    object is a blackhole, the kernel reports the type of the route as blackhole, too.
    """

    table: int
    destination: bytes
    bits: int
    interfaces: tuple[int, ...]
    nexthop: int


def parse_route(body: bytes) -> Route | None:
    """Returns the unicast route that an RTM_NEWROUTE or RTM_DELROUTE message describes.

    Returns None for other routes.
    """
    _, bits, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if kind not in (_RTN_UNICAST, _RTN_BLACKHOLE):
        return None
    destination, nexthop = b"", 0
    interfaces: list[int] = []
    for attribute, value in messages.attributes(body[_ROUTE.size :]):
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
    """A nexthop object: an interface, a group of nexthop objects, or a blackhole.

    number     the id of the nexthop object
    interface  the index of the interface; 0 for a group or a blackhole
    members    the ids of the nexthop objects in the group; empty for an interface or a blackhole
    """

    number: int
    interface: int
    members: tuple[int, ...]


def parse_nexthop(body: bytes) -> Nexthop:
    """Returns the nexthop object that an RTM_NEWNEXTHOP or RTM_DELNEXTHOP message describes."""
    attributes = dict(messages.attributes(body[_NEXT_HOP_OBJECT.size :]))
    number, interface = (
        int(_NUMBER.unpack(attributes[kind])[0]) if kind in attributes else 0 for kind in (_NHA_ID, _NHA_OIF)
    )
    members = attributes.get(_NHA_GROUP, b"")
    whole = members[: len(members) // _GROUP_MEMBER.size * _GROUP_MEMBER.size]
    return Nexthop(number, interface, tuple(member[0] for member in _GROUP_MEMBER.iter_unpack(whole)))


def parse_address_interface(body: bytes) -> int:
    """Returns the index of the interface in an RTM_DELADDR message."""
    return int(_ADDRESS.unpack_from(body)[0])


def routes() -> Iterator[Route]:
    """Yields the unicast routes of IPv4 and IPv6 in all tables. Raises OSError."""
    for family in (socket.AF_INET, socket.AF_INET6):
        yield from filter(None, map(parse_route, messages.dump(_RTM_GETROUTE, _ROUTE.pack(family, *[0] * 8))))


def nexthops() -> Iterator[Nexthop]:
    """Yields all nexthop objects. Raises OSError."""
    yield from map(parse_nexthop, messages.dump(_RTM_GETNEXTHOP, _NEXT_HOP_OBJECT.pack(*[0] * 5)))
