# SPDX-License-Identifier: Apache-2.0
"""Network interfaces: what the agent must know of one before it attaches to it.

Asked by netlink and not in /sys, which shows the network namespace it was mounted in, not ours.
"""

from dataclasses import dataclass
from enum import Enum

from otel_epping.errors import EppingError
from otel_epping.kernel.netlink import links

# linux/if_arp.h
_ETHERNET_HEADER_TYPES = {1, 772}  # ARPHRD_ETHER, ARPHRD_LOOPBACK
ETHERNET_HEADER_BYTES = 14
# Types without an Ethernet header: the program asks the kernel for the network header (bpf/packet_start.h).
_OTHER_IP_TYPES = {
    7: "arcnet",
    15: "dlci",
    19: "atm",
    24: "ieee1394",
    32: "infiniband",
    256: "slip",
    257: "cslip",
    258: "slip6",
    259: "cslip6",
    512: "ppp",
    513: "cisco",
    519: "rawip",
    768: "tunnel",
    769: "tunnel6",
    770: "frad",
    774: "fddi",
    776: "sit",
    778: "gre",
    779: "pimreg",
    822: "caif",
    823: "ip6gre",
    825: "6lowpan",
    65534: "none",
}


class Role(Enum):
    """What an interface faces: the sides (enum side of bpf/maps.h) of what goes out through it and what comes in.

    At a mirror port both directions of a conversation arrive the same way, so the side of neither end is known. A
    capture is no interface, and the same holds for its packets.
    """

    WAN = (1, 0)
    LAN = (0, 1)
    MIRROR = (2, 2)
    CAPTURE = MIRROR


@dataclass(frozen=True)
class Interface:
    """An interface that can be watched; `link_header` is the bytes of the Ethernet header that its type has, or 0.

    `name` is escaped (text.py).
    """

    name: str
    ifindex: int
    link_header: int


def find(name: str) -> Interface:
    """Looks an interface up by its name or an alternative name of it.

    Raises EppingError if no interface has the name, or if the interface is down or its link foreign.
    """
    link = links.link_named(name)
    if link is None:
        known = ", ".join(sorted(other.name for other in links.links()))
        raise EppingError(f"there is no interface '{name}': choose one of {known}")
    if not link.up:
        raise EppingError(f"interface {link.name} is down: ip link set {link.name} up")
    return interface_of(link.name, link.ifindex, link.hardware)


def interface_of(name: str, ifindex: int, hardware: int) -> Interface:
    """An interface by its hardware type (linux/if_arp.h). Raises EppingError if its link is foreign."""
    if hardware in _ETHERNET_HEADER_TYPES:
        return Interface(name, ifindex, ETHERNET_HEADER_BYTES)
    if hardware in _OTHER_IP_TYPES:
        return Interface(name, ifindex, 0)
    raise EppingError(
        f"interface {name} has a link type (ARPHRD {hardware}) that does not carry IP: choose another one"
    )
