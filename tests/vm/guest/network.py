# SPDX-License-Identifier: Apache-2.0
"""Two namespaces, and links between them. netem delays the packets of one side. The delay of netem is the expected
RTT."""

from otel_epping.lab.namespaces import Namespace

DELAY_MS = 20


class Pair:
    """The namespace `near`, whose interfaces are watched, and the namespace `far`, which delays its packets by
    DELAY_MS."""

    def __init__(self) -> None:
        self.near = Namespace("near")
        self.far = Namespace("far")
        for namespace in self.sides:
            for scope in ("all", "default"):
                namespace.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)

    @property
    def sides(self) -> tuple[Namespace, Namespace]:
        return self.near, self.far

    def veth(self, near: str, far: str, network: str = "", delay: bool = True) -> None:
        """Create a link. If `network` is given, for example 10.1.0, the ends have the addresses NETWORK.1 and
        NETWORK.2."""
        self.near.ip(f"link add {near} type veth peer name {far} netns {self.far.path}")
        for host, (namespace, device) in enumerate(((self.near, near), (self.far, far)), 1):
            if network:
                namespace.ip(f"address add {network}.{host}/24 dev {device}")
            namespace.ip(f"link set {device} up")
        if delay:
            self.delay(far)

    def delay(self, device: str) -> None:
        """Delay the packets that the far side sends through a device."""
        # By default, netem holds at most 1,000 packets, and drops further packets.
        self.far.run("tc", "qdisc", "add", "dev", device, "root", "netem", "delay", f"{DELAY_MS}ms", "limit", "10000")
