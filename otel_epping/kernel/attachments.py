# SPDX-License-Identifier: Apache-2.0
"""The program on interfaces: one TCX link per direction, and the row that the program keeps for the interface.

A TCX link lives as long as its descriptor, so the kernel detaches the program when this process ends, however it ends.
"""

import os

import numpy as np

from otel_epping.kernel import interfaces, libbpf, memory
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.interfaces import Role
from otel_epping.kernel.loader import Program

# bpf/maps.h, bpf/epping.bpf.c
INTERFACES = 1024
UNKNOWN_INTERFACE = 0
_PROBES = 4

_HOOKS = {"epping_ingress": libbpf.BPF_TCX_INGRESS, "epping_egress": libbpf.BPF_TCX_EGRESS}


def _holds(link: int) -> bool:
    """Whether a link is on an interface still."""
    try:
        return bool(memory.map_info(link).get("ifindex"))
    except OSError:  # closed meanwhile, by another thread
        return False


class Attachments:
    """The interfaces that a loaded program watches, or has watched: `names` maps their numbers to names."""

    def __init__(self, program: Program) -> None:
        self.names = {UNKNOWN_INTERFACE: ""}
        self._program = program
        self._ifindexes: dict[int, int] = {}
        self._links: dict[str, list[int]] = {}

    def register(self, interface: interfaces.Interface, role: Role = Role.WAN) -> None:
        """Puts an interface where the program finds it by ifindex. Raises EppingError if there is no room."""
        for probe in range(_PROBES):
            row = (interface.ifindex + probe) % INTERFACES
            if self._ifindexes.get(row, interface.ifindex) == interface.ifindex:
                value = np.array([interface.ifindex, interface.link_header, *role.value], np.uint32)
                libbpf.map_update(self._program.maps["interfaces"].fd, np.uint32(row).tobytes(), value.tobytes())
                self._ifindexes[row] = interface.ifindex
                self.names[row + 1] = interface.name
                return
        raise EppingError(f"no room for interface {interface.name}: watch fewer interfaces with one agent")

    def attach(self, name: str, role: Role = Role.WAN) -> None:
        """Begins to watch an interface, both ways. Raises EppingError if that cannot be."""
        interface = interfaces.find(name)
        self.register(interface, role)
        links: list[int] = []
        try:
            for entry_point, hook in _HOOKS.items():
                links.append(libbpf.link_create(self._program.entry_points[entry_point], interface.ifindex, hook))
        except OSError as error:
            for link in links:
                os.close(link)
            raise EppingError(f"cannot attach to {name} ({error.strerror}): see otel-epping check") from error
        self._links.setdefault(name, []).extend(links)

    def detach(self, name: str) -> None:
        """Ends watching an interface. What was counted stays."""
        for link in self._links.pop(name, []):
            os.close(link)

    def state(self) -> dict[str, bool]:
        """Interfaces that are watched, or were: whether they are, as the kernel says, which cuts the links of one that
        goes. May be asked by any thread.
        """
        links = dict(self._links)
        watched = {name for name, fds in links.items() if all(map(_holds, fds))}
        return {name: name in watched for name in list(self.names.values()) if name}

    def detach_all(self) -> None:
        """Ends watching every interface."""
        for name in list(self._links):
            self.detach(name)
