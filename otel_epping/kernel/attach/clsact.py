# SPDX-License-Identifier: Apache-2.0
"""The program on an interface as a filter of its clsact qdisc: for kernels without TCX, before Linux 6.6.

A filter outlives who made it, and the qdisc is shared with everybody. So four things are told by the kernel alone:

which filters are ours    the name of the program, and the handles that we give
whose owner is dead       a living owner holds an abstract Unix socket named after the filter. The kernel frees it
                          however the owner ends, and it is seen in the interface's network namespace, as the filter is
who made the qdisc        our handle says so, and every filter of ours that comes later says the same
whether others use it     any filter on it, of either direction. None left, and made by us: the last of us removes it

A filter of ours comes before all filters of others, so that none of them can accept, drop or redirect a packet before
we have seen the packet. It takes the lowest free priority, 1 as a rule. If a BPF filter for all protocols has priority
1, our filter shares the priority: the kernel puts a new BPF filter before the others of its priority (cls_bpf_change()
of net/sched/cls_bpf.c). A filter of another kind or protocol shares its priority with no BPF filter
(tcf_chain_tp_find() of net/sched/cls_api.c), so behind one with priority 1 we come second. No filter is ever replaced.
The verdict TC_ACT_UNSPEC of a direct-action filter leaves the packet to the next filter. It does not matter which
filter of several agents is first.

TCX programs run before all filters of the clsact qdisc, from Linux 6.6 on.

An `ingress` qdisc has the place of the clsact qdisc, and takes what is meant for egress for ingress. Such an interface
is refused.

Between the look for others and the removal of the qdisc somebody may add a filter, which goes with it: no message to
the kernel does both at once. To add, to remove and to clean takes CAP_NET_ADMIN, at run time as well.
"""

import errno
import logging
import os
import socket

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.attach import tcx
from otel_epping.kernel.netlink import traffic_control
from otel_epping.kernel.netlink.traffic_control import Filter

_log = logging.getLogger("otel_epping")

_ALL_PROTOCOLS = 3  # ETH_P_ALL, linux/if_ether.h
_POINTS = {"ingress": libbpf.BPF_TC_INGRESS, "egress": libbpf.BPF_TC_EGRESS}
_TRIES = 3  # to take a priority that is free, for others take some, too
# "ep", a number that no other filter of the priority has, and whether the qdisc is ours too.
_MADE, _FOUND = 0x65700001, 0x65700002
_NUMBER, _NUMBERS = 0x100, 256


def _handle_kind(found: Filter) -> int:
    return found.handle & ~(_NUMBER * (_NUMBERS - 1))


def _is_ours(found: Filter) -> bool:
    return _handle_kind(found) in (_MADE, _FOUND) and found.name.startswith(libbpf.PROGRAM_PREFIX)


def in_order(ifindex: int, direction: str) -> list[Filter]:
    """The filters that packets of a direction meet, in that order: of chain 0, where packets begin."""
    return [each for each in traffic_control.filters(ifindex, direction) if each.handle and not each.chain]


def in_words(found: Filter) -> str:
    """Describes a filter, for use with tc(8)."""
    program = f" id {found.program}" if found.program else ""
    return f"{found.kind} {found.name}".strip() + f" (pref {found.priority}{program})"


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
    return [each for direction in _POINTS for each in traffic_control.filters(ifindex, direction)]


def _remove(ifindex: int, found: Filter) -> None:
    """Removes a filter of ours, and the qdisc if it is of no more use to anybody."""
    libbpf.tc_detach(ifindex, _POINTS[found.direction], found.handle, found.priority)
    if _handle_kind(found) == _MADE and not _filters(ifindex):
        libbpf.tc_remove_qdisc(ifindex)


def refuse_ingress_qdisc(ifindex: int) -> None:
    """Raises EppingError if the interface has an `ingress` qdisc, in the place of the clsact qdisc."""
    if traffic_control.ingress_qdisc(ifindex) == "ingress":
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


def place(ifindex: int, direction: str) -> tuple[int, int]:
    """Where a new filter of ours is before as many filters of others as can be: a priority, and a number that makes our
    handle there another than all others. Raises OSError if the interface is gone.
    """
    listed = [each for each in traffic_control.filters(ifindex, direction) if not each.chain]
    free = min(set(range(1, len(listed) + 2)) - {each.priority for each in listed})
    shareable = [
        each.priority
        for each in listed
        if each.handle and not _is_ours(each) and (each.kind, each.protocol) == ("bpf", _ALL_PROTOCOLS)
    ]
    priority = min([free, *shareable])
    taken = {each.handle for each in listed if each.priority == priority}
    numbers = (n for n in range(_NUMBERS) if not {_MADE + n * _NUMBER, _FOUND + n * _NUMBER} & taken)
    return priority, next(numbers, 0)


class ClsactFilter:
    """A program on one hook of an interface, `direction` being ingress or egress.

    Raises OSError, and EppingError if the interface has an `ingress` qdisc.
    """

    def __init__(self, program_fd: int, ifindex: int, direction: str) -> None:
        self._program_fd, self._ifindex, self._direction = program_fd, ifindex, direction
        self._program = map_array.map_info(program_fd)["prog_id"]
        self._process = os.getpid()
        # Before the filter is there, so that nobody takes it for one whose owner is dead. A name that another user
        # took to annoy us looks the same to all others of us.
        self._owner = _lock(ifindex, self._program)
        try:
            made = libbpf.tc_create_qdisc(ifindex) or any(_handle_kind(each) == _MADE for each in self._all_of_ours())
            refuse_ingress_qdisc(ifindex)
            self._attach(_MADE if made else _FOUND)
        except (OSError, EppingError):
            self._let_go()
            raise

    def _attach(self, kind: int) -> None:
        """Becomes the first filter but for those of other agents, where that is possible; else takes the lowest
        priority that is free. `kind` is _MADE or _FOUND.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                self._add(kind, *place(self._ifindex, self._direction))
            except OSError as error:
                if not tries_left or error.errno not in (errno.EEXIST, errno.EINVAL):
                    raise
            else:
                return

    def _add(self, kind: int, priority: int, number: int) -> None:
        handle = kind + number * _NUMBER
        libbpf.tc_attach(self._program_fd, self._ifindex, _POINTS[self._direction], handle, priority)

    def _before_us(self) -> list[Filter]:
        """Filters of others that run before us. Raises OSError if the interface is gone."""
        found = in_order(self._ifindex, self._direction)
        mine = [place for place, each in enumerate(found) if each.program == self._program]
        return [each for each in found[: mine[0] if mine else None] if not _is_ours(each)]

    def others_first(self) -> str:
        """What runs before us: filters of others, and TCX programs, as far as we may see these; '' if there is nothing.

        Raises OSError if the interface is gone.
        """
        try:
            programs = tcx.attached(self._ifindex, self._direction)
        except OSError:  # no such hook, or no CAP_NET_ADMIN
            programs = []
        named = {program: libbpf.program_name(program) for program in programs}
        of_others = [
            tcx.in_words(program, name) for program, name in named.items() if not name.startswith(libbpf.PROGRAM_PREFIX)
        ]
        return ", ".join([*of_others, *map(in_words, self._before_us())])

    def may_come_first(self) -> bool:
        """Whether come_first() puts us before the filters of others. Raises OSError if the interface is gone."""
        before = self._before_us()
        return bool(before) and place(self._ifindex, self._direction)[0] <= before[0].priority

    def come_first(self) -> None:
        """Moves in front of filters of others that came before us. Raises OSError; then our filter may be off the
        interface.

        The old filter goes first: with both there, a packet would be counted twice. Between the two messages to the
        kernel are some 0.1 ms without our filter.
        """
        for mine in self._mine():
            new_place = place(self._ifindex, self._direction)
            libbpf.tc_detach(self._ifindex, _POINTS[self._direction], mine.handle, mine.priority)
            self._add(_handle_kind(mine), *new_place)

    def accept_others(self) -> None:
        """Nothing to do: the kernel lists all filters whenever it is asked."""

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
        """Takes the program off. An interface that is gone took it along.

        A forked child only closes its descriptors, as with TCX links: the filter is its parent's.
        """
        if os.getpid() != self._process:
            self._let_go()
            return
        try:
            for mine in self._mine():
                _remove(self._ifindex, mine)
        except OSError as error:
            _log.warning("a filter is left on interface %d (%s): the next start removes it", self._ifindex, error)
        self._let_go()
