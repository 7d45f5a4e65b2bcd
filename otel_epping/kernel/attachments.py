# SPDX-License-Identifier: Apache-2.0
"""The program on interfaces: one TCX link per direction, and the number under which it counts for an interface.

A TCX link lives as long as its descriptor, so the kernel detaches the program when this process ends, however it ends.

A number belongs to a name for good. An interface that went away keeps its counts, and one that comes back under the
same name goes on counting there, though the kernel gives it another index.
"""

import os

import numpy as np

from otel_epping.kernel import interfaces, libbpf, memory
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.interfaces import Interface, Role
from otel_epping.kernel.loader import Program

# bpf/maps.h, bpf/epping.bpf.c
INTERFACES = 1024
UNKNOWN_INTERFACE = 0
_ROWS = 4096
_PROBES = 4

_ROW = np.dtype([("ifindex", "u4"), ("link_header", "u2"), ("number", "u2"), ("side", "u4", (2,))])
_HOOKS = {"epping_ingress": libbpf.BPF_TCX_INGRESS, "epping_egress": libbpf.BPF_TCX_EGRESS}


def _link(program: Program, ifindex: int) -> list[int]:
    """Puts the program on both hooks of an interface: the links' descriptors. Raises OSError."""
    links: list[int] = []
    try:
        for entry_point, hook in _HOOKS.items():
            links.append(libbpf.link_create(program.entry_points[entry_point], ifindex, hook))
    except OSError:
        for link in links:
            os.close(link)
        raise
    return links


def _holds(link: int) -> bool:
    """Whether a link is on an interface still."""
    try:
        return bool(memory.map_info(link).get("ifindex"))
    except OSError:  # closed meanwhile, by another thread
        return False


class Attachments:
    """The interfaces that a loaded program watches, or has watched.

    names   number of an interface -> its name; '' for all without a number
    counts  how often one was attached, detached, and refused by whoever follows interfaces (follower.py)
    """

    def __init__(self, program: Program) -> None:
        self.names = {UNKNOWN_INTERFACE: ""}
        self.counts = {"attached": 0, "detached": 0, "refused": 0}
        self._program = program
        self._numbers: dict[str, int] = {}
        self._rows: dict[int, int] = {}  # row of the table -> ifindex
        self._watched: dict[str, tuple[int, list[int]]] = {}  # name -> ifindex, links

    @property
    def watched(self) -> list[str]:
        """Names of the interfaces that are watched."""
        return list(self._watched)

    def _number_of(self, name: str) -> int:
        """The number of a name; that of unknown interfaces when there are no more."""
        if name not in self._numbers:
            if len(self.names) > INTERFACES:
                return UNKNOWN_INTERFACE
            self._numbers[name] = len(self.names)
            self.names[len(self.names)] = name
        return self._numbers[name]

    def _row_of(self, interface: Interface) -> int:
        """Where the program looks for an interface: its own row, a free one, or that of one that is watched no more."""
        rows = {row: self._rows.get(row) for row in ((interface.ifindex + probe) % _ROWS for probe in range(_PROBES))}
        watched = {ifindex for ifindex, _ in self._watched.values()}
        for fits in (
            [row for row, ifindex in rows.items() if ifindex == interface.ifindex],
            [row for row, ifindex in rows.items() if ifindex is None],
            [row for row, ifindex in rows.items() if ifindex not in watched],
        ):
            if fits:
                return fits[0]
        raise EppingError(f"no room for interface {interface.name}: watch fewer interfaces with one agent")

    def register(self, interface: Interface, role: Role = Role.WAN) -> int:
        """Puts an interface where the program finds it by ifindex; the number under which it counts from now on.

        A row stays as it is when its interface is detached: the program may run for its last packets still.
        Raises EppingError if there is no room.
        """
        row = self._row_of(interface)
        number = self._number_of(interface.name)
        value = np.array([(interface.ifindex, interface.link_header, number, role.value)], _ROW)
        libbpf.map_update(self._program.maps["interfaces"].fd, np.uint32(row).tobytes(), value.tobytes())
        self._rows[row] = interface.ifindex
        return number

    def attach(self, name: str, role: Role = Role.WAN) -> None:
        """Begins to watch an interface, both ways. Raises EppingError if that cannot be."""
        self.add(interfaces.find(name), role)

    def add(self, interface: Interface, role: Role) -> int:
        """The same for an interface that was found already; its number. An interface that is watched goes on so."""
        number = self.register(interface, role)
        if self._watched.get(interface.name, (0, []))[0] == interface.ifindex:
            return number
        self.detach(interface.name)
        try:
            links = _link(self._program, interface.ifindex)
        except OSError as error:
            raise EppingError(f"cannot attach to {interface.name} ({error.strerror}): see otel-epping check") from error
        self._watched[interface.name] = interface.ifindex, links
        self.counts["attached"] += 1
        return number

    def detach(self, name: str) -> None:
        """Ends watching an interface. What was counted stays."""
        if name in self._watched:
            for link in self._watched.pop(name)[1]:
                os.close(link)
            self.counts["detached"] += 1

    def detach_all(self) -> None:
        """Ends watching every interface."""
        for name in self.watched:
            self.detach(name)

    def state(self) -> dict[str, bool]:
        """Interfaces that are watched, or were: whether they are, as the kernel says, which cuts the links of one that
        goes. May be asked by any thread.
        """
        watched = {name for name, (_, links) in list(self._watched.items()) if all(map(_holds, links))}
        return {name: name in watched for name in list(self.names.values()) if name}
