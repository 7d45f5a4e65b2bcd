# SPDX-License-Identifier: Apache-2.0
"""The program on interfaces, one hook per direction, and the number under which it counts for an interface.

Hooks are TCX links (tcx.py), or clsact filters (clsact.py) where the kernel knows no TCX, or who runs us wants none.

A number belongs to a name for good. An interface that went away keeps its counts, and one that comes back under the
same name goes on counting there, though the kernel gives it another index.
"""

import logging

import numpy as np

from otel_epping.kernel import clsact, interfaces, memory, tcx
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.interfaces import ETHERNET_HEADER_BYTES, Interface, Role
from otel_epping.kernel.loader import Program

_log = logging.getLogger("otel_epping")

# bpf/maps.h, bpf/epping.bpf.c
INTERFACES = 1024
UNKNOWN_INTERFACE = 0
_ROWS = 4096  # and one behind them, for all interfaces that have none
_PROBES = 4

_ROW = np.dtype([("ifindex", "u4"), ("link_header", "u2"), ("number", "u2"), ("side", "u4", (2,))])
_DIRECTIONS = ("ingress", "egress")

Hook = tcx.Link | clsact.ClsactFilter


def choose_hook(wanted: str) -> str:
    """The hook that is used for one of config.HOOKS: tcx or clsact."""
    return wanted if wanted != "auto" else "tcx" if tcx.is_known() else "clsact"


class Attachments:
    """The interfaces that a loaded program watches, or has watched.

    names   number of an interface -> its name; '' for all without a number
    roles   number of an interface -> what it faces
    hook    what holds the program on an interface: tcx or clsact
    counts  how often one was attached, detached, and refused by whoever follows interfaces (follower.py)
    """

    def __init__(self, program: Program, wanted_hook: str = "auto") -> None:
        self.hook = choose_hook(wanted_hook)
        self.names = {UNKNOWN_INTERFACE: ""}
        self.roles: dict[int, Role] = {}
        self.counts = {"attached": 0, "detached": 0, "refused": 0}
        self._program = program
        self._numbers: dict[str, int] = {}
        self._rows: dict[int, int] = {}  # row of the table -> ifindex
        self._watched: dict[str, tuple[int, list[Hook]]] = {}  # name -> ifindex, hooks
        self._cleaned = False
        self._put(_ROWS, Interface("", 0, ETHERNET_HEADER_BYTES), UNKNOWN_INTERFACE, Role.WAN)

    def _put(self, row: int, interface: Interface, number: int, role: Role) -> None:
        value = np.array([(interface.ifindex, interface.link_header, number, role.value)], _ROW)
        memory.write(self._program.maps["interfaces"], row, value.tobytes())

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
        self.roles[number] = role
        self._put(row, interface, number, role)
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
            hooks = self._attach(interface.ifindex)
        except OSError as error:
            raise EppingError(f"cannot attach to {interface.name} ({error.strerror}): see otel-epping check") from error
        self._watched[interface.name] = interface.ifindex, hooks
        self.counts["attached"] += 1
        return number

    def _attach(self, ifindex: int) -> list[Hook]:
        """Puts the program on both hooks of an interface. Raises OSError or EppingError."""
        attach: type[Hook] = tcx.Link
        if self.hook == "clsact":
            attach = clsact.ClsactFilter
            self._clean()
        hooks: list[Hook] = []
        try:
            for direction in _DIRECTIONS:
                hooks.append(attach(self._program.entry_points[f"epping_{direction}"], ifindex, direction))
        except (OSError, EppingError):
            for hook in hooks:
                hook.detach()
            raise
        return hooks

    def _clean(self) -> None:
        """Removes what one of us left on any interface who was killed: once, before we attach for the first time."""
        if not self._cleaned:
            self._cleaned = True
            if cleaned := clsact.clean():
                _log.info("removed filters that an agent which was killed left on %s", ", ".join(cleaned))

    def detach(self, name: str) -> None:
        """Ends watching an interface. What was counted stays."""
        if name in self._watched:
            for hook in self._watched.pop(name)[1]:
                hook.detach()
            self.counts["detached"] += 1

    def detach_all(self) -> None:
        """Ends watching every interface."""
        for name in self.watched:
            self.detach(name)

    def state(self) -> dict[str, bool]:
        """Interfaces that are watched, or were: whether they are, as the kernel says, which cuts the links of one that
        goes. May be asked by any thread.
        """
        watched = {name for name, (_, hooks) in list(self._watched.items()) if all(each.holds() for each in hooks)}
        return {name: name in watched for name in list(self.names.values()) if name}
