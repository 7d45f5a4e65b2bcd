# SPDX-License-Identifier: Apache-2.0
"""The program on an interface as a filter of its clsact qdisc: for kernels without TCX, before Linux 6.6.

A filter outlives who made it, and the qdisc is shared with everybody. So four things are told by the kernel alone:

which filters are ours    the name of the program, and one of two handles that we give
whose owner is dead       a living owner holds an abstract Unix socket named after the filter. The kernel frees it
                          however the owner ends, and it is seen in the interface's network namespace, as the filter is
who made the qdisc        our handle says so, and every filter of ours that comes later says the same
whether others use it     any filter on it, of either direction. None left, and made by us: the last of us removes it

A filter of ours takes the lowest free priority, which is 1 as a rule, so it runs before filters that accept, drop
or redirect packets. Each filter is alone under its priority, and no filter is ever replaced. The verdict TC_ACT_UNSPEC
of a direct-action filter leaves the packet to the next filter. Filters of others that run before ours are logged.

An `ingress` qdisc has the place of the clsact qdisc, and takes what is meant for egress for ingress. Such an interface
is refused.

Between the look for others and the removal of the qdisc somebody may add a filter, which goes with it: no message to
the kernel does both at once. To add, to remove and to clean takes CAP_NET_ADMIN, at run time as well.
"""

import errno
import logging
import socket

from otel_epping.kernel import libbpf, memory, rtnetlink
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.rtnetlink import Filter

_log = logging.getLogger("otel_epping")

_POINTS = {"ingress": libbpf.BPF_TC_INGRESS, "egress": libbpf.BPF_TC_EGRESS}
_NAME = "epping_"
_TRIES = 3  # to take a priority that is free, for others take some, too
# "ep" and whether the qdisc is ours too.
_MADE, _FOUND = 0x65700001, 0x65700002


def _is_ours(found: Filter) -> bool:
    return found.handle in (_MADE, _FOUND) and found.name.startswith(_NAME)


def _lock(ifindex: int, program: int) -> socket.socket | None:
    """What a living owner of a filter holds; None if somebody does."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0otel-epping/{ifindex}/{program}")
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return holder


def _filters(ifindex: int) -> list[Filter]:
    return [each for direction in _POINTS for each in rtnetlink.filters(ifindex, direction)]


def _remove(ifindex: int, found: Filter) -> None:
    """Removes a filter of ours, and the qdisc if it is of no more use to anybody."""
    libbpf.tc_detach(ifindex, _POINTS[found.direction], found.handle, found.priority)
    if found.handle == _MADE and not _filters(ifindex):
        libbpf.tc_remove_qdisc(ifindex)


def _refuse_ingress_qdisc(ifindex: int) -> None:
    """Raises EppingError if the interface has an `ingress` qdisc, in the place of the clsact qdisc."""
    if rtnetlink.ingress_qdisc(ifindex) == "ingress":
        name = socket.if_indextoname(ifindex)
        raise EppingError(
            f"interface {name} has an ingress qdisc, which shows no outgoing packets: replace it with a clsact qdisc "
            f"(tc qdisc del dev {name} ingress; tc qdisc add dev {name} clsact; then add its filters again), or use "
            "TCX (Linux 6.6 and later)"
        )


def clean() -> list[str]:
    """Removes filters of ours whose owner is dead, of all interfaces of our namespace; their interfaces' names."""
    cleaned = []
    for ifindex, name in socket.if_nameindex():
        for found in filter(_is_ours, _filters(ifindex)):
            owner = _lock(ifindex, found.program)
            if owner:
                with owner:
                    _remove(ifindex, found)
                cleaned.append(name)
    return list(dict.fromkeys(cleaned))


class ClsactFilter:
    """A program on one hook of an interface, `direction` being ingress or egress.

    Raises OSError, and EppingError if the interface has an `ingress` qdisc.
    """

    def __init__(self, program_fd: int, ifindex: int, direction: str) -> None:
        self._ifindex, self._direction = ifindex, direction
        self._program = memory.map_info(program_fd)["prog_id"]
        # Before the filter is there, so that nobody takes it for one whose owner is dead. A name that another user
        # took to annoy us looks the same to all others of us.
        self._owner = _lock(ifindex, self._program)
        try:
            made = libbpf.tc_make_qdisc(ifindex) or any(each.handle == _MADE for each in self._all_of_ours())
            _refuse_ingress_qdisc(ifindex)
            priority = self._attach(program_fd, _MADE if made else _FOUND)
        except (OSError, EppingError):
            self._let_go()
            raise
        self._warn_of_others(priority)

    def _attach(self, program_fd: int, handle: int) -> int:
        """Takes the least priority that is free, and returns it."""
        for tries_left in reversed(range(_TRIES)):
            taken = {each.priority for each in rtnetlink.filters(self._ifindex, self._direction)}
            priority = min(set(range(1, len(taken) + 2)) - taken)
            try:
                libbpf.tc_attach(program_fd, self._ifindex, _POINTS[self._direction], handle, priority)
                break
            except OSError as error:
                if not tries_left or error.errno not in (errno.EEXIST, errno.EINVAL):
                    raise
        return priority

    def _warn_of_others(self, priority: int) -> None:
        before = {
            (each.priority, f"{each.kind} {each.name}".strip())
            for each in rtnetlink.filters(self._ifindex, self._direction)
            if each.handle and each.priority < priority and not _is_ours(each)
        }
        if before:
            names = ", ".join(f"{name} (pref {priority})" for priority, name in sorted(before))
            interface = socket.if_indextoname(self._ifindex)
            _log.warning(
                "%s %s: filters of others are first: %s; what they accept, drop or redirect is not seen",
                interface,
                self._direction,
                names,
            )

    def _all_of_ours(self) -> list[Filter]:
        return list(filter(_is_ours, _filters(self._ifindex)))

    def _mine(self) -> list[Filter]:
        try:
            ours = self._all_of_ours()
        except OSError:  # the interface is gone
            return []
        return [each for each in ours if (each.direction, each.program) == (self._direction, self._program)]

    def _let_go(self) -> None:
        if self._owner:
            self._owner.close()

    def holds(self) -> bool:
        """Whether it is on the interface still."""
        return bool(self._mine())

    def detach(self) -> None:
        """Takes the program off. An interface that is gone took it along."""
        try:
            for mine in self._mine():
                _remove(self._ifindex, mine)
        except OSError as error:
            _log.warning("a filter is left on interface %d (%s): the next start removes it", self._ifindex, error)
        self._let_go()
