# SPDX-License-Identifier: Apache-2.0
"""Finds the interfaces with a default route, for the selector `auto`, and recognizes notifications about changes.

A default route is a unicast route to at least half of all addresses. For IPv4, the default routes are 0.0.0.0/0,
0.0.0.0/1 and 128.0.0.0/1. VPNs use 0.0.0.0/1 and 128.0.0.0/1 to override another default route. For IPv6, a route is a
default route if it covers at least half of 2000::/3, the global unicast addresses (RFC 4291 section 2.4). The route
must be in the main table or in the table of a VRF.

A route may have a nexthop object instead of an interface. When the nexthop object is replaced or deleted, the kernel
may send no notification about the route.
"""

from collections.abc import Iterable

from otel_epping.kernel.netlink import links, routes
from otel_epping.kernel.netlink.links import Link
from otel_epping.kernel.netlink.routes import Nexthop, Route

_RT_TABLE_MAIN = 254
# For each address length in bytes: the length of a prefix that covers half of all addresses, and the first byte of each
# of the two prefixes with this length.
_HALVES = {4: (1, (0x00, 0x80)), 16: (4, (0x20, 0x30))}


def is_default(route: Route) -> bool:
    """Returns true if a route is a default route. Ignores the table of the route."""
    if not route.bits:
        return True
    most_bits, halves = _HALVES[len(route.destination)]
    return route.bits <= most_bits and any((route.destination[0] ^ half) >> 8 - route.bits == 0 for half in halves)


def _leads_to(number: int, nexthops: dict[int, Nexthop], passed: set[int]) -> Iterable[int]:
    """Yields the interfaces of a nexthop object. Adds the ids of the nexthop object and its members to `passed`."""
    passed.add(number)
    if nexthop := nexthops.get(number):  # a nexthop object that is missing was deleted together with its routes
        if nexthop.interface:
            yield nexthop.interface
        for member in nexthop.members:  # the members of a group are not groups
            yield from _leads_to(member, nexthops, passed)


class DefaultRoutes:
    """The interfaces that had a default route at the latest refresh().

    interfaces  the indexes of the interfaces
    """

    def __init__(self) -> None:
        self.interfaces: frozenset[int] = frozenset()
        self._nexthops: frozenset[int] = frozenset()
        self._tables: frozenset[int] = frozenset()

    def refresh(self, existing: Iterable[Link]) -> None:
        """Reads the routes from the kernel. `existing` has all interfaces. Raises OSError."""
        self._tables = _tables(existing)
        # The request for nexthops comes first, because it waits for the kernel's lock RTNL. The kernel holds RTNL
        # during the change that causes a notification. The request for routes does not wait for RTNL. If the agent
        # requested the routes first, the answer could still contain routes that the change removes.
        nexthops = {nexthop.number: nexthop for nexthop in routes.nexthops()}
        interfaces: set[int] = set()
        passed: set[int] = set()
        for route in routes.routes():
            if route.table in self._tables and is_default(route):
                interfaces.update(_leads_to(route.nexthop, nexthops, passed) if route.nexthop else route.interfaces)
        self.interfaces, self._nexthops = frozenset(interfaces), frozenset(passed)

    def may_change(self, kind: int, body: bytes) -> bool:
        """Returns true if refresh() may find different interfaces after the notification.

        Notifications about interfaces and addresses are checked, too. When an interface goes down or loses its last
        address, the kernel removes the interface's routes, but sends no notification about these routes.
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
