# SPDX-License-Identifier: Apache-2.0
"""Network interfaces that the agent can attach to.

Their attributes are read by netlink, not from /sys: /sys shows the network namespace that it was mounted in, which may
not be ours.
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
    """What an interface leads to. A value is two sides (enum side, bpf/maps.h): that of the sender of outgoing packets,
    and that of the sender of incoming packets.

    At a mirror port the packets of both directions come in, so the sides are not known. The same holds for captures.
    """

    WAN = (1, 0)
    LAN = (0, 1)
    MIRROR = (2, 2)
    CAPTURE = MIRROR


@dataclass(frozen=True)
class Interface:
    """An interface that can be watched.

    name         its name, escaped (process/escaping.py)
    ifindex      its index
    link_header  the length of its Ethernet header in bytes, or 0 if its type has none
    """

    name: str
    ifindex: int
    link_header: int


def find(name: str) -> Interface:
    """Returns the interface with this name or alternative name.

    Raises EppingError if there is none, or if the interface is down or its link type does not carry IP.
    """
    link = links.find_link(name)
    if link is None:
        known = ", ".join(sorted(other.name for other in links.links()))
        raise EppingError(f"there is no interface '{name}': choose one of {known}")
    if not link.up:
        raise EppingError(f"interface {link.name} is down: ip link set {link.name} up")
    return interface_of(link.name, link.ifindex, link.hardware)


def interface_of(name: str, ifindex: int, hardware: int) -> Interface:
    """Returns the interface with this hardware type (linux/if_arp.h). Raises EppingError if it does not carry IP."""
    if hardware in _ETHERNET_HEADER_TYPES:
        return Interface(name, ifindex, ETHERNET_HEADER_BYTES)
    if hardware in _OTHER_IP_TYPES:
        return Interface(name, ifindex, 0)
    raise EppingError(
        f"interface {name} has a link type (ARPHRD {hardware}) that does not carry IP: choose another one"
    )
