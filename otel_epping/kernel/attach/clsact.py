# SPDX-License-Identifier: Apache-2.0
"""Attaches the program to an interface as a filter of its clsact qdisc, for kernels without TCX (before Linux 6.6).

When the process that added a filter ends, the filter remains. All programs on the machine share the clsact qdisc of an
interface. The agent stores no information about filters and qdiscs. The agent reads four facts from the kernel:

which filters are ours           our filters have our program name and one of our handles
whether a filter's owner runs    a running owner holds an abstract Unix socket, whose name contains the interface and
                                 the program. When the owner ends for any reason, the kernel frees the socket. Each
                                 network namespace has its own abstract sockets and its own filters
whether we created the qdisc     the handles of our filters on the qdisc contain this information
whether others use the qdisc     others use the qdisc if it has other filters, in either direction. If we created the
                                 qdisc and others do not use it, the qdisc is removed together with our last filter

Our filter is put before the filters of other programs, so that none of these filters can accept, drop or redirect a
packet before our program sees it. Our filter gets the lowest free priority, usually 1. If a BPF filter for all
protocols already has priority 1, our filter gets priority 1, too. The kernel puts a new BPF filter before the other
filters of the same priority (cls_bpf_change() of net/sched/cls_bpf.c). Filters of another kind or protocol cannot share
a priority with a BPF filter (tcf_chain_tp_find() of net/sched/cls_api.c). If a filter of another kind or protocol has
priority 1, our filter runs after that filter. The agent never replaces a filter of another program. The verdict
TC_ACT_UNSPEC of a direct-action filter passes the packet to the next filter, so the order of the filters of several
agents does not matter.

From Linux 6.6 on, TCX programs run before all filters of the clsact qdisc.

An interface can have an `ingress` qdisc instead of a clsact qdisc. If the interface has an `ingress` qdisc, the kernel
would attach an egress filter to the ingress hook. So the agent refuses an interface with an `ingress` qdisc.

Benign race: before the agent removes the qdisc, it checks that the qdisc has no other filters. If another process adds
a filter between the check and the removal, the new filter is removed together with the qdisc. The kernel has no single
request that both checks for filters and removes the qdisc.

The agent needs CAP_NET_ADMIN to add and remove filters, also at run time.
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

_log = logging.getLogger(__name__)

_ALL_PROTOCOLS = 3  # ETH_P_ALL, linux/if_ether.h
_POINTS = {"ingress": libbpf.BPF_TC_INGRESS, "egress": libbpf.BPF_TC_EGRESS}
_TRIES = 3  # Number of attempts to add a filter. Another process may take the chosen priority first.
# The handle of our filter has three parts. Bits 16 to 31 are "ep". Bits 8 to 15 are a number that makes the handle
# unique in its priority. Bits 0 to 7 are 1 if we created the qdisc, or 2 if the qdisc already existed.
_QDISC_CREATED, _QDISC_FOUND = 0x65700001, 0x65700002
_NUMBER_UNIT, _NUMBERS = 0x100, 256


def _handle_kind(found: Filter) -> int:
    return found.handle & ~(_NUMBER_UNIT * (_NUMBERS - 1))


def _is_ours(found: Filter) -> bool:
    return _handle_kind(found) in (_QDISC_CREATED, _QDISC_FOUND) and found.name.startswith(libbpf.PROGRAM_PREFIX)


def in_order(ifindex: int, direction: str) -> list[Filter]:
    """Returns the filters of chain 0 for one direction, in the order of execution. Raises OSError.

    All packets of the direction start in chain 0.
    """
    return [each for each in traffic_control.filters(ifindex, direction) if each.handle and not each.chain]


def describe(found: Filter) -> str:
    """Describes a filter in the style of tc(8)."""
    program = f" id {found.program}" if found.program else ""
    return f"{found.kind} {found.name}".strip() + f" (pref {found.priority}{program})"


def _claim(ifindex: int, program: int) -> socket.socket | None:
    """Opens the socket whose existence shows that the owner of a filter is running.

    Returns None if another process holds the socket.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0otel-epping/{ifindex}/{program}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return claim


def _filters(ifindex: int) -> list[Filter]:
    return [each for direction in _POINTS for each in traffic_control.filters(ifindex, direction)]


def _remove(ifindex: int, found: Filter) -> None:
    """Removes one of our filters. Removes the qdisc, too, if we created the qdisc and no other filter is left."""
    libbpf.tc_detach(ifindex, _POINTS[found.direction], found.handle, found.priority)
    if _handle_kind(found) == _QDISC_CREATED and not _filters(ifindex):
        libbpf.tc_remove_qdisc(ifindex)


def refuse_ingress_qdisc(ifindex: int) -> None:
    """Raises EppingError if the interface has an `ingress` qdisc instead of a clsact qdisc."""
    if traffic_control.ingress_qdisc(ifindex) == "ingress":
        name = socket.if_indextoname(ifindex)
        raise EppingError(
            f"interface {name} has an ingress qdisc, which has no hook for outgoing packets: replace it with clsact "
            f"(tc qdisc del dev {name} ingress; tc qdisc add dev {name} clsact; then add its filters again), or use "
            "TCX (Linux 6.6 and later)"
        )


def remove_stale_filters() -> list[str]:
    """Removes all filters of ended agents in this network namespace.

    Returns the names of the interfaces from which filters were removed. Raises OSError.
    """
    cleaned = []
    for ifindex, name in socket.if_nameindex():
        for found in filter(_is_ours, _filters(ifindex)):
            owner = _claim(ifindex, found.program)
            if owner:
                with owner:
                    _remove(ifindex, found)
                cleaned.append(name)
    return list(dict.fromkeys(cleaned))


def choose_priority(ifindex: int, direction: str) -> tuple[int, int]:
    """Returns the priority and the number for a new filter of ours.

    The priority makes the new filter run before as many filters of other programs as possible. The number makes the
    handle of the new filter unique in this priority. Raises OSError if the interface is gone.
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
    numbers = (
        n for n in range(_NUMBERS) if not {_QDISC_CREATED + n * _NUMBER_UNIT, _QDISC_FOUND + n * _NUMBER_UNIT} & taken
    )
    return priority, next(numbers, 0)


class ClsactFilter:
    """Attaches a program to a hook of an interface. `direction` is "ingress" or "egress".

    Raises EppingError if the interface has an `ingress` qdisc, and OSError for other failures.
    """

    def __init__(self, program_fd: int, ifindex: int, direction: str) -> None:
        self._program_fd, self._ifindex, self._direction = program_fd, ifindex, direction
        self._program = map_array.map_info(program_fd)["prog_id"]
        self._process = os.getpid()
        # The socket is opened before the filter is added, so that no other agent removes the filter as a stale filter.
        # If a malicious user holds the address of the socket, our agent cannot open the socket. But other agents keep
        # the filter, because an open socket shows that the owner is running.
        self._owner = _claim(ifindex, self._program)
        try:
            created = libbpf.tc_create_qdisc(ifindex) or any(
                _handle_kind(each) == _QDISC_CREATED for each in self._all_of_ours()
            )
            refuse_ingress_qdisc(ifindex)
            self._attach(_QDISC_CREATED if created else _QDISC_FOUND)
        except (OSError, EppingError):
            self._release_owner()
            raise

    def _attach(self, kind: int) -> None:
        """Adds our filter with the priority of choose_priority(). `kind` is _QDISC_CREATED or _QDISC_FOUND."""
        for tries_left in reversed(range(_TRIES)):
            try:
                self._add(kind, *choose_priority(self._ifindex, self._direction))
            except OSError as error:
                if not tries_left or error.errno not in (errno.EEXIST, errno.EINVAL):
                    raise
            else:
                return

    def _add(self, kind: int, priority: int, number: int) -> None:
        handle = kind + number * _NUMBER_UNIT
        libbpf.tc_attach(self._program_fd, self._ifindex, _POINTS[self._direction], handle, priority)

    def _before_us(self) -> list[Filter]:
        """Returns the filters of other programs that run before our filter. Raises OSError if the interface is gone."""
        found = in_order(self._ifindex, self._direction)
        mine = [index for index, each in enumerate(found) if each.program == self._program]
        return [each for each in found[: mine[0] if mine else None] if not _is_ours(each)]

    def programs_before(self) -> str:
        """Describes the filters and TCX programs that run before our filter. Returns '' if our filter runs first.

        Filters and programs of otel-epping are left out. TCX programs are also left out if the agent is not permitted
        to list TCX programs. Raises OSError if the interface is gone.
        """
        try:
            programs = tcx.attached(self._ifindex, self._direction)
        except OSError:  # no such hook, or no CAP_NET_ADMIN
            programs = []
        named = {program: libbpf.program_name(program) for program in programs}
        of_others = [
            tcx.describe(program, name) for program, name in named.items() if not name.startswith(libbpf.PROGRAM_PREFIX)
        ]
        return ", ".join([*of_others, *map(describe, self._before_us())])

    def can_move_to_front(self) -> bool:
        """Returns true if move_to_front() would put our filter before the first filter of another program.

        Raises OSError if the interface is gone.
        """
        before = self._before_us()
        return bool(before) and choose_priority(self._ifindex, self._direction)[0] <= before[0].priority

    def move_to_front(self) -> None:
        """Moves our filter before the filters of other programs.

        Raises OSError if a request to the kernel fails. After an error, our filter may be missing. The old filter is
        removed before the new filter is added, because a packet that passes both filters would be counted twice.
        Between the removal of the old filter and the addition of the new filter, our program sees no packets for 0.1
        ms.
        """
        for mine in self._mine():
            new_place = choose_priority(self._ifindex, self._direction)
            libbpf.tc_detach(self._ifindex, _POINTS[self._direction], mine.handle, mine.priority)
            self._add(_handle_kind(mine), *new_place)

    def accept_order(self) -> None:
        """Does nothing, because programs_before() lists the current filters at each call."""

    def _all_of_ours(self) -> list[Filter]:
        return list(filter(_is_ours, _filters(self._ifindex)))

    def _mine(self) -> list[Filter]:
        try:
            ours = self._all_of_ours()
        except OSError:  # the interface is gone
            return []
        return [each for each in ours if (each.direction, each.program) == (self._direction, self._program)]

    def _release_owner(self) -> None:
        if self._owner:
            self._owner.close()

    def is_attached(self) -> bool:
        """Returns true if our filter is on the interface."""
        return bool(self._mine())

    def detach(self) -> None:
        """Removes our filter. If the interface is gone, its filters are already gone, too.

        In a forked child, this method only closes the socket, because the filter belongs to the parent process.
        """
        if os.getpid() != self._process:
            self._release_owner()
            return
        try:
            for mine in self._mine():
                _remove(self._ifindex, mine)
        except OSError as error:
            _log.warning(
                "cannot remove the filter from interface %d (%s): it is removed at the next start of the agent",
                self._ifindex,
                error,
            )
        self._release_owner()
