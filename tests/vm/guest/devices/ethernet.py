# SPDX-License-Identifier: Apache-2.0
"""Interfaces on top of Ethernet. All packets of these interfaces also pass the parent interface."""

import json

from tests.vm.guest.devices.site import Site, Watched, add


def veth(site: Site) -> list[Watched]:
    site.under()
    return [Watched(site.kind, site.near, f"10.{site.number}.0.2", f"10.{site.number}.0.0/24")]


def vlan(site: Site) -> list[Watched]:
    """802.1Q with offload: the tag is in the metadata of the packet."""
    site.under()
    _tag(site, "vlan0", "802.1Q", 7)
    site.up("vlan0", "vlan0")
    return [site.watched("vlan0")]


def vlan_in_packet(site: Site) -> list[Watched]:
    """802.1Q without offload: the tag is in the packet."""
    site.under()
    for namespace, device, _, _ in site.each():
        namespace.run("ethtool", "-K", device, "txvlan", "off", "rxvlan", "off")
    _tag(site, "vlan1", "802.1Q", 8)
    site.up("vlan1", "vlan1")
    return [site.watched("vlan1")]


def qinq(site: Site) -> list[Watched]:
    """An 802.1Q tag after an 802.1ad tag."""
    site.under()
    _tag(site, "outer0", "802.1ad", 9)
    for namespace, _, _, _ in site.each():
        namespace.ip("link set outer0 up", "link add link outer0 name qinq0 type vlan id 10")
    site.up("qinq0", "qinq0")
    inner = site.watched("qinq0")
    outer = Watched("QinQ, outer tag", "outer0", inner.address, inner.subnet)
    return [inner, outer]


def bond(site: Site) -> list[Watched]:
    """A bond with two members in active-backup mode."""
    site.under(addresses=False)
    site.under(addresses=False, suffix="b")
    for namespace, device, _, _ in site.each():
        add(namespace, "bond0 type bond mode active-backup miimon 100")
        for member in (device, f"{device}b"):
            namespace.ip(f"link set {member} down", f"link set {member} master bond0", f"link set {member} up")
        namespace.ip(f"link set bond0 type bond active_slave {device}")
    site.up("bond0", "bond0")
    return [site.watched("bond0")]


def vlan_on_bond(site: Site) -> list[Watched]:
    site.under(addresses=False)
    for namespace, device, _, _ in site.each():
        add(namespace, "bond1 type bond mode active-backup miimon 100")
        namespace.ip(f"link set {device} down", f"link set {device} master bond1", "link set bond1 up")
        namespace.ip("link add link bond1 name vlan2 type vlan id 12")
    site.up("vlan2", "vlan2")
    upper = site.watched("vlan2")
    return [upper, Watched("bond under a VLAN", "bond1", upper.address, upper.subnet)]


def bridge(site: Site) -> list[Watched]:
    """The bridge itself has the IP address."""
    site.under(addresses=False)
    near = site.pair.near
    add(near, "bridge0 type bridge")
    near.ip(f"link set {site.near} master bridge0")
    site.up("bridge0", site.far)
    return [site.watched("bridge0")]


def macvlan(site: Site) -> list[Watched]:
    site.under(addresses=False)
    add(site.pair.near, f"link {site.near} name macvlan0 type macvlan mode bridge")
    site.up("macvlan0", site.far)
    return [site.watched("macvlan0")]


def ipvlan_l2(site: Site) -> list[Watched]:
    site.under(addresses=False)
    add(site.pair.near, f"link {site.near} name ipvlan0 type ipvlan mode l2")
    site.up("ipvlan0", site.far)
    return [site.watched("ipvlan0")]


def ipvlan_l3(site: Site) -> list[Watched]:
    """ipvlan in mode l3 does not resolve addresses. So the test adds neighbour entries with the Ethernet addresses on
    both sides."""
    site.under(addresses=False)
    add(site.pair.near, f"link {site.near} name ipvlan1 type ipvlan mode l3")
    site.up("ipvlan1", site.far)
    for namespace, device, _, other in site.each():
        address = f"{site.inner_address.rpartition('.')[0]}.{other}"
        namespace.ip(f"neighbour replace {address} lladdr {mac(site, other)} dev {device}")
    return [site.watched("ipvlan1")]


def vrf(site: Site) -> list[Watched]:
    """A VRF. The member interface has the IP address, and the socket of the application is bound to the VRF.

    Packets of a VRF do not pass the hooks of the VRF device itself.
    """
    site.under(addresses=False)
    near = site.pair.near
    add(near, "vrf0 type vrf table 77")
    near.ip("link set vrf0 up", f"link set {site.near} master vrf0")
    site.up(site.near, site.far)
    return [site.watched("vrf0", via="vrf0", limit="its hooks see no packets: watch its members")]


def netkit_l2(site: Site) -> list[Watched]:
    return _netkit(site, "l2")


def netkit_l3(site: Site) -> list[Watched]:
    return _netkit(site, "l3")


def _netkit(site: Site, mode: str) -> list[Watched]:
    """A netkit pair, which connects two namespaces like a veth pair."""
    near, far = f"netkit{mode}", f"peer{mode}"
    add(site.pair.near, f"{near} type netkit mode {mode} forward peer forward name {far} netns {site.pair.far.path}")
    site.up(near, far)
    site.pair.delay(far)
    return [Watched(site.kind, near, site.inner_address, site.inner_subnet)]


def _tag(site: Site, name: str, protocol: str, number: int) -> None:
    for namespace, device, _, _ in site.each():
        add(namespace, f"link {device} name {name} type vlan proto {protocol} id {number}")


def mac(site: Site, host: int) -> str:
    """Return the Ethernet address of a side's underlying device."""
    namespace, device, _, _ = site.each()[host - 1]
    return str(json.loads(namespace.run("ip", "-j", "link", "show", device))[0]["address"])
