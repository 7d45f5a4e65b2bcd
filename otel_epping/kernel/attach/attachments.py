# SPDX-License-Identifier: Apache-2.0
"""Attaches the program to interfaces, and gives each interface a number for storing its counts.

The program is attached to one hook for each direction, by a TCX link (tcx.py). If the kernel has no TCX or the user
chose clsact, the program is attached as a clsact filter (clsact.py).

When an interface goes away, its counts are kept until they are delivered. If a new interface with the same name appears
before the delivery, the packets of the new interface are added to the same counts. Counts are stored by interface name,
because the kernel gives a new interface with the same name another index (interface_numbers.py).
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
from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.attach import clsact, interfaces, tcx
from otel_epping.kernel.attach.interface_numbers import INTERFACES, UNKNOWN_INTERFACE, InterfaceNumbers
from otel_epping.kernel.attach.interfaces import ETHERNET_HEADER_BYTES, Interface, Role
from otel_epping.kernel.attach.other_agents import OtherAgents
from otel_epping.kernel.load.requirements import SHORTAGES
from otel_epping.kernel.program import Program
from otel_epping.kernel.reading import Gone
from otel_epping.process import descriptors

_log = logging.getLogger(__name__)

__all__ = ["INTERFACES", "UNKNOWN_INTERFACE", "Attachments", "choose_hook"]

# Maximum number of rows of the table `interfaces` in which the program searches for an interface (bpf/epping.bpf.c).
_PROBES = 4

DIRECTIONS = ("ingress", "egress")

Hook = tcx.TcxLink | clsact.ClsactFilter


def choose_hook(wanted: str) -> str:
    """Returns the kind of hook to use, "tcx" or "clsact". `wanted` is a value in config.HOOKS. Needs CAP_NET_ADMIN."""
    return wanted if wanted != "auto" else "tcx" if tcx.is_known() else "clsact"


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Attachments:
    """The interfaces that a loaded program watches or has watched.

    hook            the kind of hook: "tcx" or "clsact"
    numbers         the identifiers and numbers of the interfaces
    roles           the role of each interface, by identifier
    counts          how many times an interface was attached, was detached, and was refused (interface_monitor.py), and
                    how many times the hook monitor attached the program again, moved the program, and found unseen
                    packets (hook_monitor.py)
    faults          descriptions of the current faults of hooks; set by the hook monitor
    kernel_packets  name of an interface -> the numbers of packets [received, transmitted] that the kernel counted while
                    the interface was watched; set by the hook monitor
    """

    def __init__(self, program: Program, wanted_hook: str, begin_epoch: Callable[[], None]) -> None:
        """`begin_epoch` begins a new epoch: the program looks up all cached slots again (bpf/maps.h)."""
        self.hook = choose_hook(wanted_hook)
        self.numbers = InterfaceNumbers()
        self.roles: dict[int, Role] = {}
        self.counts = dict.fromkeys(("attached", "detached", "refused", "reattached", "moved", "unseen"), 0)
        self.faults: tuple[str, ...] = ()
        self.kernel_packets: dict[str, list[int]] = {}
        self.other_agents = OtherAgents()
        fillers = tcx.load_fillers() if self.hook == "tcx" else []
        weakref.finalize(self, _close, fillers).atexit = False
        self._make_hook: Callable[[int, int, str], Hook] = (
            partial(tcx.TcxLink, fillers=fillers) if self.hook == "tcx" else clsact.ClsactFilter
        )
        self._program, self._begin_epoch = program, begin_epoch
        table = map_array.Array("interfaces", program.maps["interfaces"])
        # The last row of the table is for all interfaces that have no row of their own.
        self._row_dtype, self._rows = table.dtype, table.length - 1
        self._unnamed: dict[str, tuple[Interface, Role]] = {}  # Watched interfaces without a number.
        self._ifindexes: dict[int, int] = {}  # Row -> ifindex.
        self._watched: dict[str, tuple[int, list[Hook]]] = {}  # Name -> ifindex, hooks.
        self._removed_stale_filters = False
        self._lock = threading.RLock()  # the interface monitor and the readers run in different threads
        unknown = Interface("", 0, ETHERNET_HEADER_BYTES)
        self._write_row(self._rows, unknown, (UNKNOWN_INTERFACE, UNKNOWN_INTERFACE), Role.WAN)

    def _write_row(self, row: int, interface: Interface, counted_as: tuple[int, int], role: Role) -> None:
        value = np.zeros((), self._row_dtype)
        value["ifindex"], value["link_header"], value["side"] = interface.ifindex, interface.link_header, role.value
        value["id"], value["number"] = counted_as
        map_array.write(self._program.maps["interfaces"], row, value.tobytes())

    @property
    def watched(self) -> list[str]:
        """Names of the interfaces that are watched."""
        return list(self._watched)

    def _row_of(self, interface: Interface) -> int:
        """Chooses a row for an interface from the rows in which the program searches for this interface.

        Prefers the row that the interface already has, then a free row, and then the row of an interface that is not
        watched any more. Raises EppingError if watched interfaces use all rows in which the program searches.
        """
        probed = [(interface.ifindex + probe) % self._rows for probe in range(_PROBES)]
        rows = {row: self._ifindexes.get(row) for row in probed}
        watched = {ifindex for ifindex, _ in self._watched.values()}
        for candidates in (
            [row for row, ifindex in rows.items() if ifindex == interface.ifindex],
            [row for row, ifindex in rows.items() if ifindex is None],
            [row for row, ifindex in rows.items() if ifindex not in watched],
        ):
            if candidates:
                return candidates[0]
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise EppingError(f"no room for interface {interface.name}: watch fewer interfaces with one agent") from full

    @property
    def names(self) -> dict[int, str]:
        """Names of the interfaces that have counts, by identifier; '' stands for all interfaces without a number."""
        return self.numbers.names

    def register(self, interface: Interface, role: Role = Role.WAN) -> int:
        """Writes an interface to the program's table of interfaces. Returns the identifier of the interface.

        When the program is detached from the interface, the row is not deleted, because the program may still process
        the last packets of the interface. Raises EppingError if the table has no row for the interface.
        """
        with self._lock:
            row = self._row_of(interface)
            counted_as = self.numbers.assign(interface.name)
            before = self.roles.get(counted_as[0], role)
            self.roles[counted_as[0]] = role
            self._write_row(row, interface, counted_as, role)
            if role != before:  # the program may have cached slots with the sides of the previous role
                self._begin_epoch()
            self._ifindexes[row] = interface.ifindex
        return counted_as[0]

    def attach(self, name: str, role: Role = Role.WAN) -> None:
        """Attaches the program to both directions of an interface.

        Raises EppingError if the program cannot be attached, for example because the interface does not exist, is down,
        or has a link type that does not carry IP.
        """
        self.attach_interface(interfaces.find(name), role)

    def attach_interface(self, interface: Interface, role: Role) -> int:
        """Sets the role of an interface. Attaches the program to the interface if it is not attached yet.

        Returns the identifier of the interface. Raises EppingError if the program cannot be attached.
        """
        with self._lock:
            if self._watched.get(interface.name, (0, []))[0] != interface.ifindex:
                self.detach(interface.name)
            identifier = self.register(interface, role)
            if interface.name not in self._watched:
                try:
                    self._watched[interface.name] = interface.ifindex, self._attach(interface.ifindex)
                except (OSError, EppingError) as error:
                    self.numbers.mark_gone(interface.name)
                    if isinstance(error, EppingError):
                        raise
                    cure = SHORTAGES.get(error.errno or 0, "see otel-epping check")
                    raise EppingError(f"cannot attach to {interface.name} ({error.strerror}): {cure}") from error
                self.counts["attached"] += 1
            self._unnamed.pop(interface.name, None)
            if identifier == UNKNOWN_INTERFACE:
                self._unnamed[interface.name] = interface, role
        return identifier

    def _attach_hook(self, ifindex: int, direction: str) -> Hook:
        """Attaches the program to one hook of an interface. Raises OSError or EppingError."""
        return self._make_hook(self._program.entry_points[f"epping_{direction}"], ifindex, direction)

    def _attach(self, ifindex: int) -> list[Hook]:
        """Attaches the program to both hooks of an interface.

        If the attachment to one hook fails, detaches the program from the other hook, and raises OSError or
        EppingError.
        """
        self._remove_stale_filters()
        hooks: list[Hook] = []
        descriptors.require(len(DIRECTIONS), self._program.maps["control"].fd)
        try:
            for direction in DIRECTIONS:
                hooks.append(self._attach_hook(ifindex, direction))
        except (OSError, EppingError):
            for hook in hooks:
                hook.detach()
            raise
        self.other_agents.announce(ifindex)
        return hooks

    def reattach(self, name: str, direction: str) -> None:
        """Attaches the program to a hook again, after another process detached it. Raises OSError or EppingError."""
        ifindex, hooks = self._watched[name]
        index = DIRECTIONS.index(direction)
        hooks[index].detach()
        hooks[index] = self._attach_hook(ifindex, direction)
        self.other_agents.announce(ifindex)

    def count_kernel_packets(self, name: str, direction: int, packets: int) -> None:
        """Adds packets to `kernel_packets` if the interface has a number. `direction` is an index of DIRECTIONS."""
        if self.numbers.get(name, UNKNOWN_INTERFACE) != UNKNOWN_INTERFACE:
            self.kernel_packets.setdefault(name, [0, 0])[direction] += packets

    def hooks(self) -> Iterator[tuple[str, int, int, str, Hook]]:
        """Yields (name, ifindex, number, direction, hook) for each hook of each watched interface."""
        for name, (ifindex, hooks) in list(self._watched.items()):
            for direction, hook in zip(DIRECTIONS, hooks, strict=True):
                yield name, ifindex, self.numbers.get(name, UNKNOWN_INTERFACE), direction, hook

    def _remove_stale_filters(self) -> None:
        """Before the first attachment, removes the filters of killed agents from all interfaces."""
        if self.hook == "clsact" and not self._removed_stale_filters:
            self._removed_stale_filters = True
            if names := clsact.remove_stale_filters():
                _log.info("removed filters of a killed agent from %s", ", ".join(names))

    def detach(self, name: str) -> None:
        """Detaches the program from an interface. The counts of the interface are kept until they are delivered."""
        with self._lock:
            if name in self._watched:
                ifindex, hooks = self._watched.pop(name)
                for hook in hooks:
                    hook.detach()
                self.other_agents.announce(ifindex)
                self.numbers.mark_gone(name)
                self._unnamed.pop(name, None)
                self.counts["detached"] += 1

    def end(self, gone: Collection[tuple[Gone, Counts]]) -> list[int]:
        """Frees the numbers of interfaces that are gone, and gives these numbers to interfaces that have no number.

        Each pair in `gone` contains an interface, and all counts of the interface's row, including the counts of
        earlier interfaces that had the row. Returns the identifiers of the interfaces whose numbers were freed. If an
        interface has come back, its number is not freed.
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
        """Detaches the program from every interface."""
        for name in self.watched:
            self.detach(name)

    def state(self) -> dict[str, bool]:
        """Returns the state of each interface that has counts, by name: true if the program is on both hooks.

        Reads the state from the kernel, because the kernel detaches links when an interface goes away. Any thread may
        call this method.
        """
        with self._lock:  # an interface gets its number before it is attached
            attached = {name for name, (_, hooks) in self._watched.items() if all(each.is_attached() for each in hooks)}
            return {name: name in attached for name in self.numbers.names.values() if name}
