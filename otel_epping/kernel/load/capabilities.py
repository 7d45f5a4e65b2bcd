# SPDX-License-Identifier: Apache-2.0
"""Capabilities: which the program needs to get into the kernel, and how a thread lays them down.

They belong to a thread, not to a process, and whatever a thread starts inherits them. So the thread that loads is the
only one that ever has any: all others are started by one that has laid its own down. Once loaded, descriptors are all
that is needed: the kernel asks for privileges to make a map or to load a program, and not to use one that is there.
docs/security.md has what was measured.
"""

import ctypes
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from otel_epping.kernel import libbpf

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
# linux/capability.h
_VERSION_3 = 0x20080522
_SETPCAP = 8
_SYS_ADMIN = 21
_SYS_RESOURCE = 24

_LOOPBACK = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Capability:
    """A capability's number, and what we need it for."""

    number: int
    reason: str


NEEDED = {
    "CAP_NET_ADMIN": Capability(12, "to load a program that is given packets"),
    "CAP_PERFMON": Capability(38, "to load a program that compares pointers into a packet"),
    "CAP_BPF": Capability(39, "to make its maps, whatever kernel.unprivileged_bpf_disabled says"),
}
# Before Linux 5.8 there was CAP_SYS_ADMIN instead of these, and it is as good as them ever since.
_IN_SYS_ADMIN = ("CAP_PERFMON", "CAP_BPF")
NOTHING: frozenset[str] = frozenset()


def _sets(thread: str) -> dict[str, int]:
    """The capability sets of a thread, by their names in proc_pid_status(5) without 'Cap': Inh, Prm, Eff, Bnd, Amb."""
    lines = Path(f"/proc/{thread}/status").read_text().splitlines()
    return {line[3:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def _bits(names: Iterable[str]) -> int:
    return sum(1 << NEEDED[name].number for name in names)


def missing() -> list[str]:
    """Capabilities that the calling thread needs to load the program, and hasn't."""
    effective = _sets("thread-self")["Eff"]
    if effective >> _SYS_ADMIN & 1:
        effective |= _bits(_IN_SYS_ADMIN)
    return [name for name in NEEDED if not effective & _bits([name])]


def may_raise_limits() -> bool:
    """Whether the calling thread may raise its resource limits, as BCC does if it must."""
    return bool(_sets("thread-self")["Eff"] >> _SYS_RESOURCE & 1)


def holders() -> list[str]:
    """Names of this process' threads that hold any capability, or could make use of one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            sets = _sets(f"self/task/{task.name}")
            name = (task / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if any(sets[kind] for kind in ("Inh", "Prm", "Eff", "Amb")):
            found.append(name)
    return found


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]  # as ctypes wants it


class _Words(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, *arguments: int) -> int:
    return _check(_libc.prctl(option, *(ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4])))


def _bound(keep: int) -> None:
    """Limits what an exec could give this thread, where it may, which takes CAP_SETPCAP: root's, as a rule. Without it,
    `no_new_privs` alone sees to that.
    """
    if _sets("thread-self")["Eff"] >> _SETPCAP & 1:
        number = 0
        # Fails at the first number that the kernel does not know. /proc/sys, which has the last one, may be hidden.
        while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
            if not keep >> number & 1:
                _prctl(_PR_CAPBSET_DROP, number)
            number += 1


def _limit(keep: int, hand_on: int) -> None:
    """Leaves the calling thread no more than `keep`, for ever, and what it executes no more than `hand_on` of it."""
    keep &= _sets("thread-self")["Prm"]
    hand_on &= keep
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _bound(hand_on)
    words = [_Words(*(each >> shift & 0xFFFFFFFF for each in (keep, keep, hand_on))) for shift in (0, 32)]
    _check(_libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), (_Words * 2)(*words)))
    for number in range(hand_on.bit_length()):
        if hand_on >> number & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def confine() -> None:
    """Leaves the calling thread, and what it executes, the capabilities that loading needs, and none besides.

    As ambient ones, so it makes no difference how we came by ours: root, systemd, or the capabilities of a file.
    """
    wanted = _bits(NEEDED)
    if wanted & ~_sets("thread-self")["Prm"]:
        wanted |= 1 << _SYS_ADMIN
    _limit(wanted, wanted)
    # From a process with the capabilities of its file, the kernel hides even its own /proc/self/fdinfo, which says what
    # our maps weigh. This opens it to none but who holds our capabilities, too (ptrace(2), "access mode checking").
    _prctl(_PR_SET_DUMPABLE, 1)


def drop(keep: Collection[str] = NOTHING) -> None:
    """Takes every capability but `keep` off the calling thread, and off all that it will ever start."""
    _limit(_bits(keep), 0)


def _is_allowed(use: Callable[[], None]) -> bool:
    """Whether a thread that holds nothing may do this: one that ends, so that no other thread lacks what it dropped."""
    with ThreadPoolExecutor(1) as unprivileged:
        unprivileged.submit(drop).result()
        try:
            unprivileged.submit(use).result()
        except OSError:
            return False
    return True


def needed_at_run_time() -> frozenset[str]:
    """What this kernel wants of those who use what is loaded already: nothing, as a rule.

    Linux asks for no more than a descriptor, to use a map from 5.19 on, to attach a program from 6.6 on; a security
    module may ask for more. It is found out with a map of one cell, and by a program that does nothing, which is on
    loopback for a moment. Raises OSError if we may not even load these.
    """
    cell, program = libbpf.make_cell(), libbpf.load_nothing()
    uses: dict[str, Callable[[], None]] = {
        "CAP_BPF": lambda: libbpf.map_update(cell, bytes(4), bytes(4)),
        "CAP_NET_ADMIN": lambda: os.close(libbpf.link_create(program, _LOOPBACK, libbpf.BPF_TCX_INGRESS)),
    }
    try:
        return frozenset(name for name, use in uses.items() if not _is_allowed(use))
    finally:
        os.close(cell)
        os.close(program)


def in_words(kept: Collection[str]) -> str:
    """What drop_capabilities() kept, for who is to know of it."""
    return f"{', '.join(sorted(kept))}: kept, for this kernel asks for it to use what is loaded"


def drop_capabilities(keep: Collection[str] = NOTHING) -> frozenset[str]:
    """Drops all but `keep` that this kernel doesn't ask for at run time; what is kept."""
    try:
        kept = needed_at_run_time() | frozenset(keep)
    except OSError:  # nor may we load the program, as the loader will say
        kept = NOTHING
    drop(kept)
    return kept
