# SPDX-License-Identifier: Apache-2.0
"""The program on interfaces, one hook per direction, and the number under which it counts for an interface.

Hooks are TCX links (tcx.py), or clsact filters (clsact.py) where the kernel knows no TCX, or who runs us wants none.

Counts belong to a name. An interface that went away keeps its counts until they are delivered, and one that comes back
under the same name until then goes on counting there, though the kernel gives it another index (interface_numbers.py).
"""

import errno
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from functools import partial

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.kernel import map_array
from otel_epping.kernel.attach import clsact, interfaces, tcx
from otel_epping.kernel.attach.interface_numbers import INTERFACES, UNKNOWN_INTERFACE, Counts, InterfaceNumbers
from otel_epping.kernel.attach.interfaces import ETHERNET_HEADER_BYTES, Interface, Role
from otel_epping.kernel.attach.other_agents import Peers
from otel_epping.kernel.load.requirements import SHORTAGES
from otel_epping.kernel.program import Program
from otel_epping.kernel.reading import Gone
from otel_epping.process import descriptors

_log = logging.getLogger("otel_epping")

__all__ = ["INTERFACES", "UNKNOWN_INTERFACE", "Attachments", "choose_hook"]

# bpf/maps.h, bpf/epping.bpf.c
_ROWS = 4096  # and one behind them, for all interfaces that have none
_PROBES = 4

DIRECTIONS = ("ingress", "egress")

Hook = tcx.Link | clsact.ClsactFilter


def choose_hook(wanted: str) -> str:
    """The hook that is used for one of config.HOOKS: tcx or clsact."""
    return wanted if wanted != "auto" else "tcx" if tcx.is_known() else "clsact"


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Attachments:
    """The interfaces that a loaded program watches, or has watched.

    numbers the identifiers and numbers of interfaces
    roles   identifier of an interface -> what it faces
    hook    what holds the program on an interface: tcx or clsact
    counts  how often an interface was attached, detached, and refused (interface_monitor.py); and what the monitor of
            the hooks did and found (hook_monitor.py)
    faults  what keeps packets from us, in words; written by the monitor
    kernel_packets  packets that the kernel counted while an interface was watched, received and transmitted, by name;
            of the monitor too
    """

    def __init__(self, program: Program, wanted_hook: str = "auto") -> None:
        self.hook = choose_hook(wanted_hook)
        self.numbers = InterfaceNumbers()
        self.roles: dict[int, Role] = {}
        self.counts = dict.fromkeys(("attached", "detached", "refused", "reattached", "moved", "unseen"), 0)
        self.faults: tuple[str, ...] = ()
        self.kernel_packets: dict[str, list[int]] = {}
        self.peers = Peers()
        fillers = tcx.load_fillers() if self.hook == "tcx" else []
        weakref.finalize(self, _close, fillers).atexit = False
        self._make_hook: Callable[[int, int, str], Hook] = (
            partial(tcx.Link, fillers=fillers) if self.hook == "tcx" else clsact.ClsactFilter
        )
        self._program = program
        self._unnamed: dict[str, tuple[Interface, Role]] = {}  # watched, and without a number
        self._rows: dict[int, int] = {}  # row of the table -> ifindex
        self._watched: dict[str, tuple[int, list[Hook]]] = {}  # name -> ifindex, hooks
        self._cleaned = False
        self._lock = threading.RLock()  # of what follows interfaces and of what frees numbers
        self._put(_ROWS, Interface("", 0, ETHERNET_HEADER_BYTES), (UNKNOWN_INTERFACE, UNKNOWN_INTERFACE), Role.WAN)

    def _put(self, row: int, interface: Interface, counted_as: tuple[int, int], role: Role) -> None:
        table = self._program.maps["interfaces"]
        assert table.layout
        value = np.zeros(1, map_array.dtype_of(table.layout))
        value["ifindex"], value["link_header"], value["side"] = interface.ifindex, interface.link_header, role.value
        value["id"], value["number"] = counted_as
        map_array.write(table, row, value.tobytes())

    @property
    def watched(self) -> list[str]:
        """Names of the interfaces that are watched."""
        return list(self._watched)

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
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise EppingError(f"no room for interface {interface.name}: watch fewer interfaces with one agent") from full

    @property
    def names(self) -> dict[int, str]:
        """Identifiers of the interfaces that have counts, and their names; '' for all that have no number."""
        return self.numbers.names

    def register(self, interface: Interface, role: Role = Role.WAN) -> int:
        """Puts an interface where the program finds it by ifindex; the identifier under which it counts from now on.

        A row stays as it is when its interface is detached: the program may run for its last packets still.
        Raises EppingError if there is no room.
        """
        with self._lock:
            row = self._row_of(interface)
            counted_as = self.numbers.take(interface.name)
            self.roles[counted_as[0]] = role
            self._put(row, interface, counted_as, role)
            self._rows[row] = interface.ifindex
        return counted_as[0]

    def attach(self, name: str, role: Role = Role.WAN) -> None:
        """Begins to watch an interface, both ways. Raises EppingError if that cannot be."""
        self.add(interfaces.find(name), role)

    def add(self, interface: Interface, role: Role) -> int:
        """The same for an interface that was found already; its identifier. An interface that is watched goes on so."""
        with self._lock:
            if self._watched.get(interface.name, (0, []))[0] != interface.ifindex:
                self.detach(interface.name)
            identifier = self.register(interface, role)
            if interface.name not in self._watched:
                try:
                    self._watched[interface.name] = interface.ifindex, self._attach(interface.ifindex)
                except (OSError, EppingError) as error:
                    self.numbers.leave(interface.name)
                    if isinstance(error, EppingError):
                        raise
                    cure = SHORTAGES.get(error.errno or 0, "see otel-epping check")
                    raise EppingError(f"cannot attach to {interface.name} ({error.strerror}): {cure}") from error
                self.counts["attached"] += 1
            self._unnamed.pop(interface.name, None)
            if identifier == UNKNOWN_INTERFACE:
                self._unnamed[interface.name] = interface, role
        return identifier

    def _hook(self, ifindex: int, direction: str) -> Hook:
        """Puts the program on one hook of an interface. Raises OSError or EppingError."""
        return self._make_hook(self._program.entry_points[f"epping_{direction}"], ifindex, direction)

    def _attach(self, ifindex: int) -> list[Hook]:
        """Puts the program on both hooks of an interface. Raises OSError or EppingError."""
        self._clean()
        hooks: list[Hook] = []
        descriptors.require(len(DIRECTIONS), self._program.maps["control"].fd)
        try:
            for direction in DIRECTIONS:
                hooks.append(self._hook(ifindex, direction))
        except (OSError, EppingError):
            for hook in hooks:
                hook.detach()
            raise
        self.peers.announce(ifindex)
        return hooks

    def attach_again(self, name: str, direction: str) -> None:
        """Puts the program on a hook from which somebody took it. Raises OSError or EppingError."""
        ifindex, hooks = self._watched[name]
        place = DIRECTIONS.index(direction)
        hooks[place].detach()
        hooks[place] = self._hook(ifindex, direction)
        self.peers.announce(ifindex)

    def count_kernel_packets(self, name: str, direction: int, packets: int) -> None:
        """Adds to kernel_packets, of an interface that is counted under its name."""
        if self.numbers.get(name, UNKNOWN_INTERFACE) != UNKNOWN_INTERFACE:
            self.kernel_packets.setdefault(name, [0, 0])[direction] += packets

    def hooks(self) -> Iterator[tuple[str, int, int, str, Hook]]:
        """Each hook that is to hold the program: interface, its index, its number, direction, and the hook."""
        for name, (ifindex, hooks) in list(self._watched.items()):
            for direction, hook in zip(DIRECTIONS, hooks, strict=True):
                yield name, ifindex, self.numbers.get(name, UNKNOWN_INTERFACE), direction, hook

    def _clean(self) -> None:
        """Removes the filters that a killed agent left on any interface: once, before we attach for the first time."""
        if self.hook == "clsact" and not self._cleaned:
            self._cleaned = True
            if cleaned := clsact.clean():
                _log.info("removed filters that an agent which was killed left on %s", ", ".join(cleaned))

    def detach(self, name: str) -> None:
        """Ends watching an interface. What was counted stays until it is delivered."""
        with self._lock:
            if name in self._watched:
                ifindex, hooks = self._watched.pop(name)
                for hook in hooks:
                    hook.detach()
                self.peers.announce(ifindex)
                self.numbers.leave(name)
                self._unnamed.pop(name, None)
                self.counts["detached"] += 1

    def end(self, gone: Collection[tuple[Gone, Counts]]) -> list[int]:
        """Frees the numbers of interfaces that are gone, each with all that its row ever counted, and gives them to
        interfaces that have none. Returns the identifiers of those that did not come back meanwhile.
        """
        with self._lock:
            ended = [interface.identifier for interface, raw in gone if self.numbers.end(interface, raw)]
            for identifier in ended:
                del self.roles[identifier]
            named = set(self.numbers.names.values())
            for name in self.kernel_packets.keys() - named:
                del self.kernel_packets[name]
            while self._unnamed and self.numbers.has_free:
                name, (found, role) = self._unnamed.popitem()
                self.register(found, role)
                _log.info("%s is counted under its name from now on", name, extra={"interface": name})
        return ended

    def detach_all(self) -> None:
        """Ends watching every interface."""
        for name in self.watched:
            self.detach(name)

    def state(self) -> dict[str, bool]:
        """Interfaces that are watched, or were: whether they are, as the kernel says, which cuts the links of one that
        goes. May be asked by any thread.
        """
        with self._lock:  # an interface has its number before the program is on its hooks
            watched = {name for name, (_, hooks) in self._watched.items() if all(each.holds() for each in hooks)}
            return {name: name in watched for name in self.numbers.names.values() if name}
