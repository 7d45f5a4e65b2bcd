# SPDX-License-Identifier: Apache-2.0
"""The capabilities that are needed to load the program, and functions that drop capabilities.

Capabilities belong to a thread, not to a process, and a new thread inherits the capabilities of the thread that starts
it. Only the thread that loads the program has capabilities. Other threads have no capabilities, because the thread that
starts them has dropped its capabilities. The kernel requires privileges to create a map and to load a program, but not
to use an existing map or program. So after the program is loaded, the agent needs only the open descriptors. See
docs/security.md for measurements.
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
    """The number of a capability (linux/capability.h), and why the agent needs it."""

    number: int
    reason: str


NEEDED = {
    "CAP_NET_ADMIN": Capability(12, "to load a program that receives packets"),
    "CAP_PERFMON": Capability(38, "to load a program that compares pointers into a packet"),
    "CAP_BPF": Capability(39, "to create the program's maps, for any value of kernel.unprivileged_bpf_disabled"),
}
# Linux 5.8 introduced CAP_PERFMON and CAP_BPF. Before Linux 5.8, CAP_SYS_ADMIN was required instead. A thread with
# CAP_SYS_ADMIN still needs neither CAP_PERFMON nor CAP_BPF.
_IN_SYS_ADMIN = ("CAP_PERFMON", "CAP_BPF")


def _sets(thread: str) -> dict[str, int]:
    """Returns the capability sets Inh, Prm, Eff, Bnd and Amb of a thread, by name (proc_pid_status(5))."""
    lines = Path(f"/proc/{thread}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {line[3:6]: int(line.split()[1], 16) for line in lines if line.startswith("Cap")}


def _mask(names: Iterable[str]) -> int:
    return sum(1 << NEEDED[name].number for name in names)


def missing() -> list[str]:
    """Returns the names of the capabilities in NEEDED that the calling thread lacks."""
    effective = _sets("thread-self")["Eff"]
    if effective >> _SYS_ADMIN & 1:
        effective |= _mask(_IN_SYS_ADMIN)
    return [name for name in NEEDED if not effective & _mask([name])]


def may_raise_limits() -> bool:
    """Returns true if the calling thread may raise its resource limits.

    If the thread may raise its limits, BCC raises the limit of locked memory.
    """
    return bool(_sets("thread-self")["Eff"] >> _SYS_RESOURCE & 1)


def threads_with_capabilities() -> list[str]:
    """Returns the names of the threads of this process that have a capability. The bounding set is ignored."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            sets = _sets(f"self/task/{task.name}")
            name = (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
        if any(sets[kind] for kind in ("Inh", "Prm", "Eff", "Amb")):
            names.append(name)
    return names


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct (linux/capability.h)."""

    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Words(ctypes.Structure):
    """struct __user_cap_data_struct (linux/capability.h): 32 bits of each set."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _prctl(option: int, *arguments: int) -> int:
    return _check(_libc.prctl(option, *(ctypes.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4])))


def _limit_bounding_set(keep: int) -> None:
    """Drops all capabilities except `keep` from the bounding set.

    A later exec cannot give the dropped capabilities to the thread.

    Does nothing if the thread lacks CAP_SETPCAP, which usually only root has. Without CAP_SETPCAP, no_new_privs has the
    same effect.
    """
    if _sets("thread-self")["Eff"] >> _SETPCAP & 1:
        number = 0
        # prctl() fails at the first number that the kernel does not know. The highest number is not read from
        # /proc/sys/kernel/cap_last_cap, because that file may be hidden.
        while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
            if not keep >> number & 1:
                _prctl(_PR_CAPBSET_DROP, number)
            number += 1


def _drop_all_but(keep: int, inheritable: int) -> None:
    """Permanently drops all capabilities of the calling thread except `keep`.

    A program that the thread executes gets the kept capabilities that are also in `inheritable`. Both parameters are
    masks.
    """
    keep &= _sets("thread-self")["Prm"]
    inheritable &= keep
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _limit_bounding_set(inheritable)
    words = [_Words(*(each >> shift & 0xFFFFFFFF for each in (keep, keep, inheritable))) for shift in (0, 32)]
    _check(_libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), (_Words * 2)(*words)))
    for number in range(inheritable.bit_length()):
        if inheritable >> number & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def confine() -> None:
    """Drops all capabilities of the calling thread except the capabilities that loading needs.

    Programs that the thread executes get the kept capabilities as ambient capabilities. So the executed programs get
    the same capabilities, no matter whether the agent got them as root, from systemd, or from its executable file.
    """
    wanted = _mask(NEEDED)
    if wanted & ~_sets("thread-self")["Prm"]:
        wanted |= 1 << _SYS_ADMIN
    _drop_all_but(wanted, wanted)
    # The sizes of the maps are read from the files in /proc/self/fdinfo. A process that got its capabilities from its
    # executable file can read its files in /proc/self/fdinfo only if PR_SET_DUMPABLE is set. PR_SET_DUMPABLE does not
    # open our files in /proc to all processes. Another process can read our files in /proc only if the process has all
    # of our capabilities (ptrace(2), "access mode checking").
    _prctl(_PR_SET_DUMPABLE, 1)


def drop(keep: Collection[str] = ()) -> None:
    """Drops all capabilities of the calling thread except `keep`.

    Programs that the thread executes get no capabilities.
    """
    _drop_all_but(_mask(keep), 0)


def _works_without_capabilities(operation: Callable[[], None]) -> bool:
    """Starts a thread without capabilities, and returns true if an operation succeeds in this thread."""
    with ThreadPoolExecutor(1) as unprivileged:
        unprivileged.submit(drop).result()
        try:
            unprivileged.submit(operation).result()
        except OSError:
            return False
    return True


def needed_at_run_time() -> frozenset[str]:
    """Returns the capabilities that this kernel requires to use a loaded program. Usually no capabilities are required.

    Since Linux 5.19, a process needs only the descriptor of a map to use the map. Since Linux 6.6, a process needs only
    the descriptor of a program to attach the program. But a security module may require capabilities. So this function
    tries to use a map and a program without capabilities. The test updates a map of one cell, attaches a no-op
    program to the loopback interface, and detaches the program at once. Raises OSError if the calling thread cannot
    create the map or load the program.
    """
    cell, program = libbpf.create_cell(), libbpf.load_noop()
    operations: dict[str, Callable[[], None]] = {
        "CAP_BPF": lambda: libbpf.map_update(cell, bytes(4), bytes(4)),
        "CAP_NET_ADMIN": lambda: os.close(libbpf.link_create(program, _LOOPBACK, libbpf.BPF_TCX_INGRESS)),
    }
    try:
        return frozenset(name for name, use in operations.items() if not _works_without_capabilities(use))
    finally:
        os.close(cell)
        os.close(program)


def describe(kept: Collection[str]) -> str:
    """Describes the capabilities that drop_capabilities() has kept, for the log and for users."""
    return f"{', '.join(sorted(kept))}: kept, because this kernel requires it to use the loaded program"


def drop_capabilities(keep: Collection[str] = ()) -> frozenset[str]:
    """Drops the capabilities of the calling thread, except the capabilities in `keep` and needed_at_run_time().

    Returns the capabilities that the thread has kept.
    """
    try:
        kept = needed_at_run_time() | frozenset(keep)
    except OSError:  # the kernel program cannot be loaded either, and the loader will report the cause
        kept = frozenset()
    drop(kept)
    return kept
