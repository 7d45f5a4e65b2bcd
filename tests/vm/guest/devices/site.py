# SPDX-License-Identifier: Apache-2.0
"""The parts from which each kind of interface is created."""

from collections.abc import Callable
from dataclasses import dataclass

from otel_epping.lab.namespaces import LabError, Namespace
from tests.vm.guest.network import Pair
from tests.vm.guest.results import NotTriedError


@dataclass(frozen=True)
class Watched:
    """A watched interface of the near side, and an address that is reached through this interface.

    `inner` is true if the same RTTs are expected on the parent interface; `inner_tunnels` is true if these RTTs are
    expected on the parent interface with `--tunnels`. `via` is the device to which the application must bind its
    socket. `limit` is the reason why no packets are expected on the interface.
    """

    kind: str
    device: str
    address: str
    subnet: str
    parent: str | None = None
    inner: bool = True
    inner_tunnels: bool = True
    via: str = ""
    limit: str = ""


class Site:
    """The two namespaces for a kind of interface, and a number and a name that no other kind has.

    `near` and `far` are the two ends of the underlying link.
    """

    def __init__(self, pair: Pair, number: int, kind: str) -> None:
        self.kind = kind
        self.pair = pair
        self.number = number
        self.near = f"near{number}"
        self.far = f"far{number}"

    def under(self, addresses: bool = True, suffix: str = "") -> None:
        """Create the underlying link, with the addresses 10.NUMBER.0.1 and 10.NUMBER.0.2."""
        network = f"10.{self.number}.0" if addresses else ""
        self.pair.veth(self.near + suffix, self.far + suffix, network)

    def each(self) -> list[tuple[Namespace, str, int, int]]:
        """Return for the near and for the far side: the namespace, the underlying device, the host number of this side,
        and the host number of the other side."""
        return [(self.pair.near, self.near, 1, 2), (self.pair.far, self.far, 2, 1)]

    def ends(self, host: int) -> str:
        """Return the arguments of a tunnel between the addresses of the underlying link."""
        return f"local 10.{self.number}.0.{host} remote 10.{self.number}.0.{3 - host}"

    @property
    def inner_address(self) -> str:
        return f"10.{100 + self.number}.0.2"

    @property
    def inner_subnet(self) -> str:
        return f"10.{100 + self.number}.0.0/24"

    def up(self, near: str, far: str) -> None:
        """Give both devices their inner addresses, and set them up."""
        for namespace, device, host in ((self.pair.near, near, 1), (self.pair.far, far, 2)):
            namespace.ip(
                f"address add 10.{100 + self.number}.0.{host}/24 dev {device}",
                f"link set {device} up",
            )

    def watched(
        self,
        device: str,
        *,
        inner: bool = True,
        inner_tunnels: bool = True,
        via: str = "",
        limit: str = "",
    ) -> Watched:
        """Return the watched interface with the inner addresses. The parent of this interface is the underlying
        link."""
        return Watched(
            self.kind,
            device,
            self.inner_address,
            self.inner_subnet,
            parent=self.near,
            inner=inner,
            inner_tunnels=inner_tunnels,
            via=via,
            limit=limit,
        )


# Error messages of ip(8): the kernel does not know a type, or ip itself does not know the type.
_UNKNOWN = {
    "Unknown device type": "this kernel does not have it",
    "Operation not supported": "this kernel does not have it",
    "Garbage instead of arguments": "the ip command of this userland cannot create it",
}
Kind = Callable[[Site], list[Watched]]


def add(namespace: Namespace, command: str) -> None:
    """Run `ip link add`. Raises NotTriedError if the kernel or ip does not know the type."""
    try:
        namespace.ip(f"link add {command}")
    except LabError as error:
        for said, reason in _UNKNOWN.items():
            if said in str(error):
                raise NotTriedError(reason) from None
        raise
