# SPDX-License-Identifier: Apache-2.0
"""The lab: two clients, a router and servers, with links, addresses and routes.

    client  10.1.0.2 ─┐
                      ├─ router ─ wan0 ═══ the link that delays packets ═══ uplink0 ─ servers
    legacy  10.2.0.2 ─┘

`client` has Linux's default settings. In `legacy`, TCP timestamps are off, as in Windows. `router` forwards IPv4 and
IPv6. RTTs are measured at the router's interface `wan0`. `servers` has one address in each server subnet: host number
10. Each subnet has a configured RTT, which the link adds to the packets, so RTTs measured at `wan0` can be compared
with known RTTs. The server subnets are reserved for documentation and benchmarks (RFC 5737, RFC 2544, RFC 3849), so no
real network uses them.
"""

import ipaddress
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from otel_epping.lab.delayed_link import DelayedLink, DelayedNetwork, LinkStatistics
from otel_epping.lab.namespaces import LabError, Namespace

__all__ = ["DEFAULT_NETWORKS", "WAN_INTERFACE", "DelayedNetwork", "Lab", "server_address"]

WAN_INTERFACE = "wan0"

DEFAULT_NETWORKS: tuple[DelayedNetwork, ...] = tuple(
    DelayedNetwork(ipaddress.ip_network(subnet), delay_ms * 1_000_000)
    for subnet, delay_ms in (
        ("192.0.2.0/24", 1),
        ("2001:db8:1::/48", 5),
        ("198.51.100.0/24", 10),
        ("2001:db8:2::/48", 20),
        ("203.0.113.0/24", 35),
        ("198.18.1.0/24", 50),
        ("2001:db8:3::/48", 80),
        ("198.18.2.0/24", 120),
        ("2001:db8:4::/48", 160),
        ("198.18.3.0/24", 200),
    )
)


def server_address(network: DelayedNetwork) -> str:
    """Returns the server's address in a subnet: host number 10 (hexadecimal in IPv6, `::10`)."""
    return str(network.subnet[10 if network.subnet.version == 4 else 0x10])


class Lab:
    """The running lab; a context manager. Raises LabError if the lab cannot be built.

    client, legacy, router, servers   the namespaces
    networks                          the server subnets and their RTTs
    addresses                         the servers' addresses, in the order of `networks`
    statistics                        the link's LinkStatistics after exit; None before exit
    """

    def __init__(self, networks: Sequence[DelayedNetwork] = DEFAULT_NETWORKS) -> None:
        self.networks = tuple(networks)
        self.addresses = [server_address(network) for network in self.networks]
        self.statistics: LinkStatistics | None = None
        with ExitStack() as undo:
            self.servers = undo.enter_context(Namespace("servers"))
            self.router = undo.enter_context(Namespace("router"))
            self.client = undo.enter_context(Namespace("client"))
            self.legacy = undo.enter_context(Namespace("legacy"))
            self._link = DelayedLink(self.router, WAN_INTERFACE, self.servers, "uplink0", self.networks)
            self._configure()
            self._link.start()
            self._undo = undo.pop_all()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        with self._undo:
            self.statistics = self._link.stop()

    def serve(self) -> subprocess.Popen[str]:
        """Starts the server program on all addresses, and waits until the program listens.

        Raises LabError on failure.
        """
        argv = [sys.executable, "-m", "otel_epping.lab.traffic", "serve"]
        process = self.servers.popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise LabError("the lab's server program did not start")
        return process

    def talk(self, host: Namespace, *options: str, addresses: Sequence[str] | None = None) -> subprocess.Popen[str]:
        """Starts the client program in `host`, with connections to `addresses` (default: all servers' addresses).

        `options` are options of `traffic talk`. traffic.finish() ends the program, and traffic.result() waits for the
        program's end. finish() and result() return the program's totals.
        """
        argv = [sys.executable, "-m", "otel_epping.lab.traffic", "talk", *options, *(addresses or self.addresses)]
        return host.popen(argv, stdout=subprocess.PIPE)

    def download(self, host: Namespace, address: str, octets: int) -> subprocess.Popen[str]:
        """Starts a program in `host`. The program downloads `octets` bytes from `address`, and then ends."""
        return host.popen([sys.executable, "-m", "otel_epping.lab.traffic", "download", address, str(octets)])

    def _configure(self) -> None:
        self.router.sysctl("net.ipv4.ip_forward", 1)
        self.router.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.legacy.sysctl("net.ipv4.tcp_timestamps", 0)
        self._connect_host(self.client, 1)
        self._connect_host(self.legacy, 2)
        self.router.ip(*_interface(WAN_INTERFACE, 0, 1), *_default_route(WAN_INTERFACE, 0, 2))
        self.servers.ip(
            *_interface("uplink0", 0, 2),
            *_default_route("uplink0", 0, 1),
            *(f"address add {address} dev lo" for address in self.addresses),
        )

    def _connect_host(self, host: Namespace, number: int) -> None:
        """Connects a host to the router by a pair of veth interfaces, as local network `number`."""
        self.router.ip(
            f"link add {host.name}0 type veth peer name eth0 netns {host.path}",
            *_interface(f"{host.name}0", number, 1),
        )
        host.ip(*_interface("eth0", number, 2), *_default_route("eth0", number, 1))


def _interface(name: str, number: int, host: int) -> list[str]:
    """Returns `ip` commands that set up an interface, with the address of host `host` in local network `number`."""
    return [
        f"address add 10.{number}.0.{host}/24 dev {name}",
        f"address add fd00:{number}::{host}/64 dev {name}",
        f"link set {name} up",
    ]


def _default_route(name: str, number: int, gateway: int) -> list[str]:
    return [
        f"route add default via 10.{number}.0.{gateway} dev {name}",
        f"route add ::/0 via fd00:{number}::{gateway} dev {name}",
    ]
