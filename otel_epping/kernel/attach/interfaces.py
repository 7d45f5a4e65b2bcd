# SPDX-License-Identifier: Apache-2.0
"""Network interfaces that the agent can attach to.

The attributes of interfaces are read by netlink, not from /sys. The directory /sys shows the network namespace in which
/sys was mounted. The agent may run in a different network namespace.
"""

from dataclasses import dataclass
from enum import Enum

from otel_epping.errors import EppingError
from otel_epping.kernel.netlink import links

# linux/if_arp.h
_ETHERNET_HEADER_TYPES = {1, 772}  # ARPHRD_ETHER, ARPHRD_LOOPBACK
ETHERNET_HEADER_BYTES = 14
# Hardware types without an Ethernet header. For an interface of one of these types, the program asks the kernel for the
# position of the network header (bpf/packet_start.h).
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
    """The position of an interface in the network.

    Each position is a pair of sides (enum side, bpf/maps.h). Outgoing packets come from the first side, and incoming
    packets come from the second side.

    At a mirror port, the packets of both directions are incoming packets, so the sides are not known. The sides are
    also not known in captures.
    """

    WAN = (1, 0)
    LAN = (0, 1)
    MIRROR = (2, 2)
    CAPTURE = MIRROR


@dataclass(frozen=True)
class Interface:
    """An interface that can be watched.

    name         the name of the interface, escaped (process/escaping.py)
    ifindex      the index of the interface
    link_header  the length of the Ethernet header in bytes; 0 if the interface has no Ethernet header
    """

    name: str
    ifindex: int
    link_header: int


def find(name: str) -> Interface:
    """Returns the interface that has `name` as its name or as an alternative name.

    Raises EppingError if the interface does not exist, is down, or has a link type that does not carry IP.
    """
    link = links.find_link(name)
    if link is None:
        known = ", ".join(sorted(other.name for other in links.links()))
        raise EppingError(f"there is no interface '{name}': choose one of {known}")
    if not link.up:
        raise EppingError(f"interface {link.name} is down: ip link set {link.name} up")
    return interface_of(link.name, link.ifindex, link.hardware)


def interface_of(name: str, ifindex: int, hardware: int) -> Interface:
    """Returns an interface with the hardware type `hardware` (linux/if_arp.h).

    Raises EppingError if interfaces of this type do not carry IP.
    """
    if hardware in _ETHERNET_HEADER_TYPES:
        return Interface(name, ifindex, ETHERNET_HEADER_BYTES)
    if hardware in _OTHER_IP_TYPES:
        return Interface(name, ifindex, 0)
    raise EppingError(
        f"interface {name} has a link type (ARPHRD {hardware}) that does not carry IP: choose another one"
    )
