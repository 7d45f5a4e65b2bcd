# SPDX-License-Identifier: Apache-2.0
"""Attaches the program to an interface by TCX links (Linux 6.6 and later).

A link exists while its descriptor is open. So when the agent ends for any reason, the kernel detaches the program.

The programs of a hook run in the order of a list. If a program returns any value except TCX_NEXT, the later programs
in the list do not run (tcx_run() of net/core/dev.c). So the agent puts its link at the head of the list. Later, another
process may put its program before the agent's program.

A process that reads the list needs CAP_NET_ADMIN (bpf_prog_query()), which the agent does not have. But the list has a
revision number, which increases with each change. A request to attach a program can contain the expected revision. The
kernel first compares the revisions (error ESTALE), and then checks whether the program is already in the list (error
EEXIST). To find out whether the list has changed, the agent sends a request to attach its program a second time. The
second request fails because the program is already in the list, and the error shows whether the list has changed.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from contextlib import suppress

from otel_epping.kernel import libbpf

_ATTACH_TYPES = {"ingress": libbpf.BPF_TCX_INGRESS, "egress": libbpf.BPF_TCX_EGRESS}
_LOOPBACK = 1

# libbpf before 1.3 cannot pass a revision, so bpf(2) is called directly. BPF_LINK_CREATE is a value of enum bpf_cmd.
_SYSCALLS = {"x86_64": 321, "aarch64": 280}
_LINK_CREATE = 28
# The member link_create of union bpf_attr: program, ifindex, attach type, flags, relative, expected revision.
_ATTRIBUTES = struct.Struct("=IIIIIxxxxQ")
# To find the current revision, the agent tries all numbers below _MAX_REVISION. Each attempt takes 3 us.
_MAX_REVISION = 1 << 14

_syscall = ctypes.CDLL(None, use_errno=True).syscall


def is_known() -> bool:
    """Returns true if the kernel has TCX hooks, or if the process lacks CAP_NET_ADMIN."""
    try:
        libbpf.attached_count(_LOOPBACK, libbpf.BPF_TCX_INGRESS)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def attached(ifindex: int, direction: str) -> list[int]:
    """Returns the ids of the programs on a hook, in the order of execution. Raises OSError without CAP_NET_ADMIN."""
    return libbpf.attached_programs(ifindex, _ATTACH_TYPES[direction])


def describe(program: int, name: str) -> str:
    """Describes a program by its id and name, in the style of bpftool(8). `name` is '' if the name is unknown."""
    return f"TCX program {name or 'of unknown name'} (id {program})"


def load_fillers() -> list[int]:
    """Loads two programs for TcxLink.move_to_front(). Returns the descriptors of the two programs.

    The caller needs the same capabilities that are needed to load our program.
    """
    return [libbpf.load_noop() for _ in range(2)]


def _attach(program_fd: int, ifindex: int, attach_type: int, revision: int) -> int:
    """Attaches a program at the head of a hook's list, if `revision` is the current revision of the list.

    Returns the descriptor of the link. Raises OSError.
    """
    attributes = _ATTRIBUTES.pack(program_fd, ifindex, attach_type, libbpf.BPF_F_BEFORE, 0, revision)
    link = int(_syscall(_SYSCALLS[platform.machine()], _LINK_CREATE, attributes, len(attributes)))
    if link < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return link


def _detach_and_close(link: int) -> None:
    """Detaches a link and closes its descriptor. The link may already be detached."""
    with suppress(OSError):
        libbpf.link_detach(link)
    os.close(link)


class TcxLink:
    """Attaches a program to a hook of an interface. Raises OSError.

    `direction` is "ingress" or "egress". `fillers` has the descriptors that load_fillers() returned.
    """

    def __init__(self, program_fd: int, ifindex: int, direction: str, fillers: Sequence[int]) -> None:
        self._program_fd, self._hook = program_fd, (ifindex, _ATTACH_TYPES[direction])
        self._fillers, self._process = fillers, os.getpid()
        self._fd, self._revision = self._attach_first(program_fd)
        self._program, _ = libbpf.link_target(self._fd)

    def _attach_first(self, program_fd: int) -> tuple[int, int | None]:
        """Attaches a program at the head of the list. Returns the link and the new revision of the list.

        The revision is None if it is unknown.
        """
        for revision in range(1, _MAX_REVISION if platform.machine() in _SYSCALLS else 1):
            try:
                return _attach(program_fd, *self._hook, revision), revision + 1
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return libbpf.link_create(program_fd, *self._hook, libbpf.BPF_F_BEFORE), None

    def is_attached(self) -> bool:
        """Returns true if our program is on the hook.

        When an interface goes away, the kernel detaches the links of this interface. Other processes can detach a link,
        or replace the program of a link.
        """
        try:
            return libbpf.link_target(self._fd) == (self._program, self._hook[0])
        except OSError as error:
            return error.errno in (errno.EMFILE, errno.ENFILE)  # other errors: another thread closed the link

    def _has_revision(self, revision: int) -> bool:
        """Returns true if `revision` is the current revision of the list.

        Returns false if our program is not in the list.
        """
        try:
            os.close(_attach(self._program_fd, *self._hook, revision))  # success: our program was not in the list
        except OSError as error:
            return error.errno != errno.ESTALE
        return False

    def programs_before(self) -> str:
        """Describes the program that may run before our program.

        Returns '' if the list has not changed since our program was put first, or since the last accept_order().
        """
        if self._revision is None or self._has_revision(self._revision):
            return ""
        return "a program that was attached later"

    def accept_order(self) -> None:
        """Accepts the current list. From now on, programs_before() reports only later changes."""
        later = range(self._revision or _MAX_REVISION, _MAX_REVISION)
        self._revision = next(filter(self._has_revision, later), None)

    def can_move_to_front(self) -> bool:
        """Returns true if move_to_front() can put our program before the programs that programs_before() describes."""
        return True

    def move_to_front(self) -> None:
        """Moves our program to the head of the list.

        Raises OSError if a request to the kernel fails. After an error, our program may be detached.

        A list can contain each program only once, so our program must leave its old link before it is put into a new
        link. First, a new link is created at the head of the list, with a program that does nothing. Then another
        program that does nothing replaces our program in the old link. Finally, our program replaces the program in
        the new link.

        So our program is missing only for the time between two pointer updates. If our program were detached and
        attached again instead, the kernel would wait for an RCU grace period, so our program would be missing for about
        10 ms.
        """
        holder, filler = self._fillers
        first, revision = self._attach_first(holder)
        try:
            libbpf.link_update(self._fd, filler)
            libbpf.link_update(first, self._program_fd)
        except OSError:
            _detach_and_close(first)
            raise
        self._fd, old = first, self._fd
        _detach_and_close(old)
        # The revision increases by 3: by 1 for each of the two updates, and by 1 when the old link is detached.
        self._revision = revision and revision + 3

    def detach(self) -> None:
        """Detaches the program. In a forked child, only closes the descriptor, because the parent owns the link."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            if self._process == os.getpid():
                _detach_and_close(fd)
            else:
                os.close(fd)
