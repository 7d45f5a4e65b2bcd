# SPDX-License-Identifier: Apache-2.0
"""Interfaces that encrypt packets. On the parent interface, the inner packets cannot be read."""

from otel_epping.lab.namespaces import Namespace
from tests.vm.guest.devices.ethernet import mac
from tests.vm.guest.devices.site import Site, Watched, add

_AUTH = f"auth hmac(sha256) 0x{'11' * 32}"
_ENC = f"enc cbc(aes) 0x{'22' * 16}"
_KEYS = {1: "01 " + "09876543210987654321098765432109", 2: "02 " + "12345678901234567890123456789012"}


def macsec(site: Site) -> list[Watched]:
    site.under(addresses=False)
    for namespace, device, host, other in site.each():
        add(namespace, f"link {device} name macsec0 type macsec port 11 encrypt on")
        peer = f"rx address {mac(site, other)} port 11"
        for command in (
            f"add macsec0 tx sa 0 pn 1 on key {_KEYS[host]}",
            f"add macsec0 {peer}",
            f"add macsec0 {peer} sa 0 pn 1 on key {_KEYS[other]}",
        ):
            namespace.run("ip", "macsec", *command.split())
    site.up("macsec0", "macsec0")
    return [_encrypted(site, "macsec0")]


def wireguard(site: Site) -> list[Watched]:
    site.under()
    private = {host: namespace.run("wg", "genkey") for namespace, _, host, _ in site.each()}
    for namespace, _, host, other in site.each():
        add(namespace, "wg0 type wireguard")
        public = namespace.run("wg", "pubkey", stdin=private[other]).strip()
        peer = f"peer {public} endpoint 10.{site.number}.0.{other}:51820 allowed-ips 0.0.0.0/0"
        settings = f"private-key /dev/stdin listen-port 51820 {peer}"
        namespace.run("wg", "set", "wg0", *settings.split(), stdin=private[host])
    site.up("wg0", "wg0")
    return [_encrypted(site, "wg0")]


def vti(site: Site) -> list[Watched]:
    """IPsec with a VTI device, which marks the packets."""
    site.under()
    for namespace, _, host, other in site.each():
        add(namespace, f"vti1 type vti {site.ends(host)} key 9")
        _states(site, namespace, 11, "mark 9 mask 0xffffffff")
        ends = f"10.{site.number}.0"
        for direction, source, target in (("out", host, other), ("in", other, host)):
            tunnel = f"tmpl src {ends}.{source} dst {ends}.{target} proto esp mode tunnel"
            namespace.ip(f"xfrm policy add dir {direction} {tunnel} mark 9")
    site.up("vti1", "vti1")
    for namespace, _, _, _ in site.each():
        namespace.sysctl("net.ipv4.conf.vti1.disable_policy", 1)
    return [_encrypted(site, "vti1")]


def xfrm(site: Site) -> list[Watched]:
    """IPsec with an xfrm interface."""
    site.under()
    for namespace, device, host, other in site.each():
        add(namespace, f"xfrm0 type xfrm dev {device} if_id 42")
        _states(site, namespace, 21, "if_id 42")
        ends = f"10.{site.number}.0"
        for direction, source, target in (("out", host, other), ("in", other, host), ("fwd", other, host)):
            tunnel = f"tmpl src {ends}.{source} dst {ends}.{target} proto esp mode tunnel"
            namespace.ip(f"xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir {direction} if_id 42 {tunnel}")
    site.up("xfrm0", "xfrm0")
    return [_encrypted(site, "xfrm0")]


def _states(site: Site, namespace: Namespace, spi: int, selector: str) -> None:
    """Set the keys of both directions."""
    for source, target, number in ((1, 2, spi), (2, 1, spi + 1)):
        ends = f"src 10.{site.number}.0.{source} dst 10.{site.number}.0.{target}"
        namespace.ip(f"xfrm state add {ends} proto esp spi {number} mode tunnel {selector} {_AUTH} {_ENC}")


def _encrypted(site: Site, device: str) -> Watched:
    return site.watched(device, inner=False, inner_tunnels=False)
