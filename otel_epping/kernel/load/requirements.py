# SPDX-License-Identifier: Apache-2.0
"""What a machine must have before the program can be loaded, and what to do where it has not."""

import errno
import os
import platform
import re
import resource
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.load.capabilities import NEEDED, may_raise_limits, missing

# The program exchanges and compares atomically, which BPF does from 5.12 on; 5.15 is the first after it to be kept for
# years. Without TCX links, which are from 6.6, there are clsact filters.
LEAST_KERNEL = (5, 15)

# The oldest and the newest Linux, the versions of BCC, and the machines that `make vmtest` and `make test` have tried:
# docs/platforms.md.
TRIED_KERNELS = ((6, 1), (7, 3))
TRIED_BCC = ("0.26", "0.31", "0.37")
TRIED_MACHINES = ("x86_64",)

# From here on the maps count as memory of the cgroup, and no more against RLIMIT_MEMLOCK.
_CGROUP_KERNEL = (5, 11)

# Tables with rows for each CPU must be smaller than 512 MB (bpf/direct_value.h). The interface counters take 0.4 MB for
# each CPU.
MOST_CPUS = 1024

_BTF = Path("/sys/kernel/btf/vmlinux")

# Resources that a process or the machine can run out of, and what gives it more of them.
SHORTAGES = {
    errno.EMFILE: "raise the limit of open files (LimitNOFILE=, ulimit -n)",
    errno.ENFILE: "raise fs.file-max, the machine's limit of open files",
    errno.EAGAIN: "raise the limit of processes and threads (TasksMax=, LimitNPROC=, ulimit -u, pids.max)",
    errno.ENOMEM: "give it more memory (MemoryMax=, LimitAS=, the container's limit)",
}

_OWN = Path("/proc/self")
# The inode of the first user namespace (PROC_USER_INIT_INO, linux/proc_ns.h). A process in any other one has its
# capabilities there, and the kernel asks for those of the first one, to use BPF (bpf_capable(), linux/capability.h).
_FIRST_USER_NAMESPACE = "user:[4026531837]"
# Ours, and those of gRPC, whose pool of threads depends on the CPUs.
_THREADS = 8 + min(max(4, os.cpu_count() or 1), 16)
# Maps and programs take 20, exporters and sockets 10, and an interface two.
_LEAST_FILES = 40
_SECCOMP = re.compile(r"^Seccomp:\s*2$", re.MULTILINE)


def _version() -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def kernel() -> str:
    """The kernel's release. Raises EppingError if it is too old."""
    release = platform.release()
    if _version() < LEAST_KERNEL:
        raise EppingError(f"kernel {release} is too old: use Linux {'.'.join(map(str, LEAST_KERNEL))} or newer")
    return release


def tried_kernel() -> str:
    """Whether this kernel, and this kind of machine, is among those that were tried."""
    oldest, newest = (".".join(map(str, version)) for version in TRIED_KERNELS)
    machine = platform.machine()
    if _version() < TRIED_KERNELS[0]:
        words = f"should work, but nothing older than Linux {oldest} was tried"
    elif _version() > TRIED_KERNELS[1]:
        words = f"should work, but nothing newer than Linux {newest} was tried"
    else:
        words = f"Linux {oldest} to {newest} were tried"
    if machine not in TRIED_MACHINES:
        words += f", and nothing on {machine}, but only on {', '.join(TRIED_MACHINES)}"
    return words


def tried_bcc(version: str) -> str:
    """Whether this version of BCC, as "0.31.0", is among those that were tried."""
    known = ", ".join(TRIED_BCC)
    if version.startswith(tuple(f"{tried}." for tried in TRIED_BCC)):
        return f"BCC {known} were tried"
    return f"should work, but only BCC {known} were tried"


def cpus() -> int:
    """How many CPUs there may be. Raises EppingError if the program's tables have no room for so many."""
    possible = possible_cpus()
    if possible > MOST_CPUS:
        raise EppingError(f"{possible} possible CPUs are too many: boot the kernel with nr_cpus={MOST_CPUS}")
    return possible


def file_systems() -> None:
    """Raises EppingError if a file system of the kernel's, which is read, is not mounted."""
    try:
        (_OWN / "status").read_bytes()
        (_OWN / "fdinfo").stat()
    except OSError as error:
        raise EppingError(f"cannot read {_OWN} ({error.strerror}): mount /proc; subset=pid is enough") from error
    possible_cpus()


def user_namespace() -> None:
    """Raises EppingError if this is not the machine's first user namespace."""
    try:
        namespace = str((_OWN / "ns/user").readlink())
    except FileNotFoundError:  # a kernel without CONFIG_USER_NS
        namespace = _FIRST_USER_NAMESPACE
    if namespace != _FIRST_USER_NAMESPACE:
        raise EppingError(
            "this is a user namespace, whose capabilities do not count for BPF: run outside of it, as root of the "
            "machine (a container: not rootless, without userns-remap or hostUsers: false)"
        )


def bpf() -> None:
    """Makes a map of 4 bytes. Raises EppingError if the kernel refuses."""
    try:
        os.close(libbpf.make_cell())
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            cure = SHORTAGES.get(error.errno or 0, "see dmesg")
        elif _SECCOMP.search((_OWN / "status").read_text(errors="replace")):
            cure = "allow it in the seccomp filter (SystemCallFilter=bpf, or the container's seccomp profile)"
        elif error.errno == errno.ENOSYS:
            cure = "use a kernel with CONFIG_BPF_SYSCALL=y"
        else:
            cure = "allow it in the security module (SELinux, AppArmor, lockdown): see dmesg or the audit log"
        raise EppingError(f"the kernel refuses the system call bpf() ({error.strerror}): {cure}") from error


def open_files() -> None:
    """Raises EppingError if the limit leaves no descriptor for an interface."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _LEAST_FILES:
        raise EppingError(f"only {limit} open files are allowed, of at least {_LEAST_FILES}: {SHORTAGES[errno.EMFILE]}")


def _start_threads() -> NoReturn:
    """Ends the process with the number of threads that it could start as its status."""
    threading.stack_size(1 << 16)  # what is asked for is their number, and not memory
    end, started = threading.Event(), 0
    with suppress(RuntimeError):
        while started < _THREADS:
            threading.Thread(target=end.wait, daemon=True).start()
            started += 1
    os._exit(started)


def threads() -> None:
    """Starts as many threads as an agent has. Raises EppingError if that fails, as gRPC would then try for ever.

    In a child, as each thread leaves memory reserved. The calling process must have no other threads.
    """
    started = 0
    with suppress(BlockingIOError):
        child = os.fork() or _start_threads()
        started = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if started < _THREADS:
        raise EppingError(f"only {max(started, 0)} of {_THREADS} threads can be started: {SHORTAGES[errno.EAGAIN]}")


def capability(name: str) -> str:
    """What the process needs this one of privileges.NEEDED for. Raises EppingError if it hasn't it."""
    reason = NEEDED[name].reason
    if name in missing():
        raise EppingError(f"needed {reason}: run as root, or give the process this capability")
    return reason


def privileges() -> None:
    """Raises EppingError naming the capabilities that the process lacks to load the program, or a user namespace."""
    user_namespace()
    if lacking := missing():
        raise EppingError(f"missing {', '.join(lacking)}: run as root, or give the process these capabilities")


def locked_memory() -> str:
    """Whether RLIMIT_MEMLOCK leaves room for the maps. Raises EppingError if it may not."""
    if _version() >= _CGROUP_KERNEL:
        return "no limit of ours: the kernel's memory counts as our cgroup's"
    _, limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not may_raise_limits():
        raise EppingError(f"{limit // 1024} kiB are too little for maps: ulimit -l unlimited, or LimitMEMLOCK=infinity")
    return "unlimited"


def btf() -> str:
    """Whether the kernel describes its own types. Not needed here: the program reads packets, no kernel structures."""
    return f"{_BTF} is there" if _BTF.exists() else "none (not needed)"
