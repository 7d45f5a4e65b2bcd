# SPDX-License-Identifier: Apache-2.0
"""Tunnels that transport IP or Ethernet over IP. With `--tunnels`, the program reads the inner packets on the parent
interface, if the program supports this kind of tunnel."""

from tests.vm.guest.devices.site import Site, Watched, add


def ipip(site: Site) -> list[Watched]:
    return _between_addresses(site, "ipip")


def gre(site: Site) -> list[Watched]:
    return _between_addresses(site, "gre")


def gre_key(site: Site) -> list[Watched]:
    return _between_addresses(site, "gre", "key 42 csum seq")


def gretap(site: Site) -> list[Watched]:
    return _between_addresses(site, "gretap")


def vxlan(site: Site) -> list[Watched]:
    return _between_addresses(site, "vxlan", "id 42 dstport 4789")


def gre_multipoint(site: Site) -> list[Watched]:
    """GRE without a remote address. The neighbour entry has the remote address."""
    site.under()
    inner = f"10.{100 + site.number}.0"
    for namespace, _, host, other in site.each():
        add(namespace, f"mgre0 type gre local 10.{site.number}.0.{host} key 77 ttl 64")
        namespace.ip(
            "link set mgre0 arp on",
            f"address add {inner}.{host}/24 dev mgre0",
            "link set mgre0 up",
            f"neighbour replace {inner}.{other} lladdr 10.{site.number}.0.{other} dev mgre0",
        )
    return [site.watched("mgre0", inner=False)]


def geneve(site: Site) -> list[Watched]:
    """The program does not read the inner packets of Geneve."""
    site.under()
    for namespace, _, _, other in site.each():
        add(namespace, f"geneve0 type geneve id 42 remote 10.{site.number}.0.{other}")
    site.up("geneve0", "geneve0")
    return [site.watched("geneve0", inner=False, inner_tunnels=False)]


def sit(site: Site) -> list[Watched]:
    """IPv6 over IPv4."""
    site.under()
    network = f"fd{site.number}:9:"
    for namespace, _, host, _ in site.each():
        add(namespace, f"sit1 type sit {site.ends(host)}")
        namespace.ip("link set sit1 up", f"address add {network}:{host}/48 dev sit1")
    return [Watched(site.kind, "sit1", f"{network}:2", f"{network}:/48", site.near, False, True)]


def ip6tnl(site: Site) -> list[Watched]:
    return _between_v6_addresses(site, "ip6tnl mode any")


def ip6gre(site: Site) -> list[Watched]:
    return _between_v6_addresses(site, "ip6gre")


def _between_addresses(site: Site, link: str, arguments: str = "") -> list[Watched]:
    site.under()
    device = f"{link}x{site.number}"
    for namespace, _, host, _ in site.each():
        add(namespace, f"{device} type {link} {arguments} {site.ends(host)}")
    site.up(device, device)
    return [site.watched(device, inner=False)]


def _between_v6_addresses(site: Site, link: str) -> list[Watched]:
    site.under()
    network = f"fdee:{site.number}:"
    device = f"{link.split()[0]}x"
    for namespace, under, host, other in site.each():
        namespace.ip(f"address add {network}:{host}/64 dev {under}")
        add(
            namespace,
            f"{device} type {link} local {network}:{host} remote {network}:{other} encaplimit none dev {under}",
        )
    site.up(device, device)
    return [site.watched(device, inner=False)]
