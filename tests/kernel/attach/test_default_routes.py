# SPDX-License-Identifier: Apache-2.0
"""Tests the selection `auto`.

`auto` selects each interface that has a default route of any form, and follows each change of the routes.
"""

import select
import struct
from collections.abc import Iterator

import pytest

from otel_epping.kernel.attach.default_routes import DefaultRoutes, is_default
from otel_epping.kernel.netlink import links, routes
from otel_epping.lab.namespaces import Namespace

pytestmark = pytest.mark.parallel


# For each interface of the host: the IPv4 address and the IPv6 address of a neighbour.
GATEWAYS = {"a0": ("10.7.0.2", "fd07::2"), "a1": ("10.8.0.2", "fd08::2")}


class Router:
    """The default routes of a host with two interfaces.

    The routes are updated in the same way as in InterfaceMonitor.
    """

    def __init__(self, host: Namespace) -> None:
        self.host = host
        self._changes = links.LinkChanges(routes=True)
        self._routes = DefaultRoutes()
        self._routes.refresh(links.links())

    def __call__(self, *commands: str) -> list[str]:
        """Run commands of `ip`. Return the interfaces that have a default route after these commands."""
        self.host.ip(*commands)
        changed = False
        while select.select([self._changes], [], [], 0.05)[0]:
            messages = list(self._changes.read())
            changed |= any(self._routes.may_change(*message) for message in messages if message)
        if changed:
            self._routes.refresh(links.links())
        return sorted(link.name for link in links.links() if link.ifindex in self._routes.interfaces)

    def close(self) -> None:
        self._changes.close()


@pytest.fixture(params=[1, 0], ids=["compat", "objects_only"])
def ip(request: pytest.FixtureRequest) -> Iterator[Router]:
    """A router.

    A sysctl decides if a netlink message about a route with a nexthop object also contains the interface.
    """
    with Namespace("routes") as host, host.entered():
        host.sysctl("net.ipv4.nexthop_compat_mode", request.param)
        host.ip("link set lo up")  # lo is the interface of a blackhole nexthop
        for number, name in enumerate(GATEWAYS):
            host.ip(
                f"link add {name} type veth peer name p{number}",
                f"address add 10.{7 + number}.0.1/24 dev {name}",
                f"address add fd0{7 + number}::1/64 dev {name} nodad",
                f"link set {name} up",
                f"link set p{number} up",
            )
        router = Router(host)
        yield router
        router.close()


@pytest.mark.parametrize(("family", "default"), [(0, "default"), (1, "::/0")], ids=["ipv4", "ipv6"])
def test_nexthop_objects(ip: Router, family: int, default: str) -> None:
    via = {name: f"via {addresses[family]} dev {name}" for name, addresses in GATEWAYS.items()}
    assert ip(f"nexthop add id 1 {via['a0']}") == []
    assert ip(f"route add {default} nhid 1") == ["a0"]
    assert ip(f"nexthop replace id 1 {via['a1']}") == ["a1"]
    assert ip("nexthop del id 1") == []
    assert ip(f"nexthop add id 2 {via['a0']}", f"nexthop add id 3 {via['a1']}", "nexthop add id 9 group 2/3") == []
    assert ip(f"route add {default} nhid 9") == ["a0", "a1"]
    assert ip("nexthop replace id 9 group 3") == ["a1"]
    assert ip("nexthop replace id 9 group 2,3/3,5") == ["a0", "a1"]
    assert ip("nexthop del id 3") == ["a0"]
    assert ip("nexthop del id 2") == []
    assert ip(f"nexthop add id 4 {via['a0']}", f"route add {default} nhid 4") == ["a0"]
    assert ip("link set a0 down") == []
    assert ip("nexthop add id 5 blackhole") == []


def test_a_blackhole_that_is_replaced_by_a_nexthop(ip: Router) -> None:
    assert ip("nexthop add id 1 blackhole", "route add default nhid 1") == []
    assert ip("nexthop replace id 1 via 10.7.0.2 dev a0") == ["a0"]
    assert ip("nexthop replace id 1 blackhole") == []


def test_a_resilient_group(ip: Router) -> None:
    ip("nexthop add id 1 via 10.7.0.2 dev a0", "nexthop add id 2 via 10.8.0.2 dev a1")
    assert ip("nexthop add id 9 group 1/2 type resilient buckets 8", "route add default nhid 9") == ["a0", "a1"]
    assert ip("nexthop del id 1") == ["a1"]


def test_ipv4_over_an_ipv6_nexthop(ip: Router) -> None:
    assert ip("route add 0.0.0.0/0 via inet6 fd07::2 dev a0") == ["a0"]
    assert ip("nexthop add id 1 via fd08::2 dev a1", "route replace 0.0.0.0/0 nhid 1") == ["a1"]


def test_several_nexthops_of_one_route(ip: Router) -> None:
    assert ip("route add default nexthop via 10.7.0.2 dev a0 nexthop via 10.8.0.2 dev a1") == ["a0", "a1"]
    assert ip("route del default") == []
    assert ip("route add ::/0 nexthop via fd07::2 dev a0 nexthop via fd08::2 dev a1") == ["a0", "a1"]


def test_pairs_of_routes_that_cover_all_addresses(ip: Router) -> None:
    assert ip("route add 0.0.0.0/1 via 10.7.0.2", "route add 128.0.0.0/1 via 10.7.0.2") == ["a0"]
    assert ip("route del 0.0.0.0/1", "route del 128.0.0.0/1") == []
    assert ip("route add 2000::/3 via fd08::2 dev a1") == ["a1"]
    assert ip("route del 2000::/3", "route add 64.0.0.0/2 via 10.7.0.2", "route add fc00::/7 via fd07::2") == []


def test_routes_that_end_without_a_message(ip: Router) -> None:
    """The kernel deletes some routes without a netlink message.

    The kernel sends no message when the last address of an interface is deleted, or when the interface goes down. The
    deleted routes do not return if the interface is set up again at once.
    """
    assert ip("route add default via 10.7.0.2 dev a0") == ["a0"]
    assert ip("address del 10.7.0.1/24 dev a0") == []
    assert ip("address add 10.7.0.1/24 dev a0", "route add default via 10.7.0.2 dev a0") == ["a0"]
    assert ip("link set a0 down", "link set a0 up") == []


def test_other_types_and_tables_are_ignored(ip: Router) -> None:
    assert ip("route add unreachable default metric 9", "route add default via 10.7.0.2 dev a0 table 7") == []
    assert ip("route add default via 10.8.0.2 dev a1 table 70000") == []


@pytest.mark.parametrize("table", [7, 70000])
def test_the_table_of_a_vrf(ip: Router, table: int) -> None:
    """The test does not create a VRF device, because not every kernel has the VRF module. Instead, the test creates a
    netlink message about a VRF device. The route is real."""
    body = struct.pack("=BxHiII", 0, 1, 99, 1, 0)
    data = attribute(2, attribute(1, struct.pack("=I", table)))  # IFLA_INFO_DATA, IFLA_VRF_TABLE
    body += attribute(3, b"red\0") + attribute(18, attribute(1, b"vrf\0") + data)  # IFLA_IFNAME, IFLA_LINKINFO
    red = links.parse_link(body)
    assert red == links.Link(99, ("red",), 1, True, table)
    routes = DefaultRoutes()
    ip(f"route add default via 10.7.0.2 dev a0 table {table}")
    routes.refresh(links.links())
    assert not routes.interfaces
    assert routes.may_change(links.RTM_NEWLINK, body)
    routes.refresh([*links.links(), red])
    assert [link.name for link in links.links() if link.ifindex in routes.interfaces] == ["a0"]


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@pytest.mark.parametrize(
    ("destination", "bits", "expected"),
    [
        (bytes([0] * 4), 1, True),
        (bytes([128, 0, 0, 0]), 1, True),
        (bytes([64, 0, 0, 0]), 2, False),
        (bytes([10, 0, 0, 0]), 8, False),
        (bytes(16), 1, True),
        (bytes([0x80, *bytes(15)]), 1, False),
        (bytes([0x20, *bytes(15)]), 3, True),
        (bytes([0x30, *bytes(15)]), 4, True),
        (bytes([0x40, *bytes(15)]), 3, False),
        (bytes([0x20, *bytes(15)]), 5, False),
        (b"", 0, True),
    ],
)
def test_is_default(destination: bytes, bits: int, expected: bool) -> None:
    assert is_default(routes.Route(254, destination, bits, (3,), 0)) is expected
