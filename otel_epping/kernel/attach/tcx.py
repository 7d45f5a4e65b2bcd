# SPDX-License-Identifier: Apache-2.0
"""The program on an interface by TCX links, which Linux has from 6.6 on.

A link lives as long as its descriptor: the kernel detaches the program when this process ends, however it ends.

The programs of a hook run in the order of a list. The first program that returns anything but TCX_NEXT ends the list
(tcx_run() of net/core/dev.c), so the link is put at the head of the list. Another program may later be put before it.
To see the list takes CAP_NET_ADMIN (bpf_prog_query()), which the agent does not hold. But the list has a revision,
which each change raises, and an attempt to attach names the revision that it expects: the kernel compares the revision
first (ESTALE), and then looks whether the program is in the list already (EEXIST). So an attempt to attach the program
once more, which cannot succeed, shows whether the list has changed.
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

# bpf(2), for libbpf before 1.3 cannot name a revision: the number of the system call, and of enum bpf_cmd.
_SYSCALLS = {"x86_64": 321, "aarch64": 280}
_LINK_CREATE = 28
# The link_create member of union bpf_attr: program, ifindex, attach type, flags, relative, expected revision.
_ATTRIBUTES = struct.Struct("=IIIIIxxxxQ")
# How many revisions are tried, 3 us each.
_MAX_REVISION = 1 << 14

_syscall = ctypes.CDLL(None, use_errno=True).syscall


def is_known() -> bool:
    """Whether the kernel has TCX hooks. Ask with CAP_NET_ADMIN: without it, the answer is yes."""
    try:
        libbpf.attached_count(_LOOPBACK, libbpf.BPF_TCX_INGRESS)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


def attached(ifindex: int, direction: str) -> list[int]:
    """Ids of the programs on a hook, in the order in which they run. Raises OSError, without CAP_NET_ADMIN too."""
    return libbpf.attached_programs(ifindex, _ATTACH_TYPES[direction])


def in_words(program: int, name: str) -> str:
    """Describes a program of the hook, for use with bpftool(8); '' is a name that the kernel does not show us."""
    return f"TCX program {name or 'of unknown name'} (id {program})"


def load_fillers() -> list[int]:
    """The descriptors of two programs for Link.come_first(). Takes the capabilities that loading takes."""
    return [libbpf.load_noop() for _ in range(2)]


def _attach(program_fd: int, ifindex: int, attach_type: int, revision: int) -> int:
    """Attaches as the first program if the list has this revision; the link. Raises OSError."""
    attributes = _ATTRIBUTES.pack(program_fd, ifindex, attach_type, libbpf.BPF_F_BEFORE, 0, revision)
    link = int(_syscall(_SYSCALLS[platform.machine()], _LINK_CREATE, attributes, len(attributes)))
    if link < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return link


def _end(link: int) -> None:
    """Detaches a link, which may be detached already, and closes its descriptor."""
    with suppress(OSError):
        libbpf.link_detach(link)
    os.close(link)


class Link:
    """A program on one hook of an interface, `direction` being ingress or egress. Raises OSError.

    `fillers` are two programs of load_fillers(), for come_first().
    """

    def __init__(self, program_fd: int, ifindex: int, direction: str, fillers: Sequence[int]) -> None:
        self._program_fd, self._hook = program_fd, (ifindex, _ATTACH_TYPES[direction])
        self._fillers, self._process = fillers, os.getpid()
        self._fd, self._revision = self._attach_first(program_fd)
        self._program, _ = libbpf.link_target(self._fd)

    def _attach_first(self, program_fd: int) -> tuple[int, int | None]:
        """Attaches a program as the first one: the link, and the revision of the list if that can be found out."""
        for revision in range(1, _MAX_REVISION if platform.machine() in _SYSCALLS else 1):
            try:
                return _attach(program_fd, *self._hook, revision), revision + 1
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return libbpf.link_create(program_fd, *self._hook, libbpf.BPF_F_BEFORE), None

    def holds(self) -> bool:
        """Whether our program is on the interface still: the kernel detaches the links of an interface that goes away,
        and other processes can detach a link or give it another program.
        """
        try:
            return libbpf.link_target(self._fd) == (self._program, self._hook[0])
        except OSError as error:
            return error.errno in (errno.EMFILE, errno.ENFILE)  # else closed meanwhile, by another thread

    def _has_revision(self, revision: int) -> bool:
        """Whether the list has this revision, while our program is in the list."""
        try:
            os.close(_attach(self._program_fd, *self._hook, revision))  # our program was not in the list
        except OSError as error:
            return error.errno != errno.ESTALE
        return False

    def others_first(self) -> str:
        """Who may run before us: another program if the list was changed since we came first; else ''."""
        if self._revision is None or self._has_revision(self._revision):
            return ""
        return "a program that came to the hook later"

    def accept_others(self) -> None:
        """Takes the list as it is: only later changes count as changes."""
        later = range(self._revision or _MAX_REVISION, _MAX_REVISION)
        self._revision = next(filter(self._has_revision, later), None)

    def may_come_first(self) -> bool:
        """Whether come_first() puts us before those of others_first()."""
        return True

    def come_first(self) -> None:
        """Moves to the head of the list. Raises OSError; then the program may be off the interface.

        The list has each program once, so the program leaves its old place before it takes the new one. Two programs
        that do nothing hold both places, so the program is missing between two changes of a pointer only. To detach
        and to attach again would take a grace period of RCU: some 10 ms without the program.
        """
        holder, filler = self._fillers
        first, revision = self._attach_first(holder)
        try:
            libbpf.link_update(self._fd, filler)
            libbpf.link_update(first, self._program_fd)
        except OSError:
            _end(first)
            raise
        self._fd, old = first, self._fd
        _end(old)
        # Both updates and the old link's end are changes.
        self._revision = revision and revision + 3

    def detach(self) -> None:
        """Takes the program off. A child of the process that put it there only lets go of it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            if self._process == os.getpid():
                _end(fd)
            else:
                os.close(fd)
