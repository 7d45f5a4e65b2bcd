# SPDX-License-Identifier: Apache-2.0
"""Which interfaces have a default route, for `auto`; and which messages of the kernel can change that.

A default route is a unicast route to at least half of all addresses: 0.0.0.0/0, or 0.0.0.0/1 and 128.0.0.0/1, by which
VPNs override another one; of IPv6 half of 2000::/3, the global unicast addresses (RFC 4291 section 2.4), is enough.
It counts in the main table and in the tables of VRFs.

A route may name a nexthop object rather than an interface. The object can be replaced or deleted without a message of
the route's own.
"""

from collections.abc import Iterable

from otel_epping.kernel.netlink import links, routes
from otel_epping.kernel.netlink.links import Link
from otel_epping.kernel.netlink.routes import Nexthop, Route

_RT_TABLE_MAIN = 254
# By the bytes of an address: bits of the prefixes that are half of all addresses, and the first byte of each.
_HALVES = {4: (1, (0x00, 0x80)), 16: (4, (0x20, 0x30))}


def is_default(route: Route) -> bool:
    """Whether a route is a default route, in whichever table."""
    if not route.bits:
        return True
    most_bits, halves = _HALVES[len(route.destination)]
    return route.bits <= most_bits and any((route.destination[0] ^ half) >> 8 - route.bits == 0 for half in halves)


def _leads_to(number: int, nexthops: dict[int, Nexthop], passed: set[int]) -> Iterable[int]:
    """Interfaces of a nexthop object; the objects on the way there are added to `passed`."""
    passed.add(number)
    if nexthop := nexthops.get(number):  # else the object was deleted, and the route goes with it
        if nexthop.interface:
            yield nexthop.interface
        for member in nexthop.members:  # a group has no groups among its members
            yield from _leads_to(member, nexthops, passed)


class DefaultRoutes:
    """The interfaces that had a default route when look() was last called.

    interfaces  their indexes
    """

    def __init__(self) -> None:
        self.interfaces: frozenset[int] = frozenset()
        self._nexthops: frozenset[int] = frozenset()
        self._tables: frozenset[int] = frozenset()

    def look(self, existing: Iterable[Link]) -> None:
        """Asks the kernel; `existing` are all interfaces there are. Raises OSError."""
        self._tables = _tables(existing)
        # Nexthops first: that request waits for the lock (RTNL) of whatever sent a message, while routes may be listed
        # before the kernel has taken out those that end with an interface, an address or an object.
        nexthops = {nexthop.number: nexthop for nexthop in routes.nexthops()}
        interfaces: set[int] = set()
        passed: set[int] = set()
        for route in routes.routes():
            if route.table in self._tables and is_default(route):
                interfaces.update(_leads_to(route.nexthop, nexthops, passed) if route.nexthop else route.interfaces)
        self.interfaces, self._nexthops = frozenset(interfaces), frozenset(passed)

    def may_change(self, kind: int, body: bytes) -> bool:
        """Whether a message means that look() may find something else.

        Routes of an interface that goes down, or loses its last address, end without a message of their own.
        """
        if kind in (routes.RTM_NEWROUTE, routes.RTM_DELROUTE):
            route = routes.parse_route(body)
            return route is not None and route.table in self._tables and is_default(route)
        if kind in (routes.RTM_NEWNEXTHOP, routes.RTM_DELNEXTHOP):
            return routes.parse_nexthop(body).number in self._nexthops
        if kind == routes.RTM_DELADDR:
            return routes.parse_address_interface(body) in self.interfaces
        if kind in (links.RTM_NEWLINK, links.RTM_DELLINK) and (link := links.parse_link(body)):
            return link.ifindex in self.interfaces or bool(link.table)
        return False


def _tables(existing: Iterable[Link]) -> frozenset[int]:
    return frozenset({_RT_TABLE_MAIN, *(link.table for link in existing if link.table)})
