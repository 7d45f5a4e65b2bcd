# SPDX-License-Identifier: Apache-2.0
"""Checks that the machine can load the program. Each error names the cause and the cure."""

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

# The program uses atomic compare-and-exchange, which BPF supports since Linux 5.12. Linux 5.15 is the first long-term
# release after Linux 5.12. TCX links exist since Linux 6.6. Before Linux 6.6, the agent attaches clsact filters.
MIN_KERNEL = (5, 15)

# `make vmtest` and `make test` have run on several Linux versions, with the releases of BCC in TESTED_BCC, and on the
# architectures in TESTED_MACHINES. TESTED_KERNELS contains the oldest and the newest tested Linux version. See
# docs/platforms.md.
TESTED_KERNELS = ((6, 1), (7, 3))
TESTED_BCC = ("0.26", "0.31", "0.37")
TESTED_MACHINES = ("x86_64",)

# Linux 5.11 and later charge the memory of maps to the cgroup. Before Linux 5.11, RLIMIT_MEMLOCK limits the memory of
# maps.
_CGROUP_KERNEL = (5, 11)

# A table with rows for each CPU must be smaller than 512 MB (bpf/direct_value.h). The table of interface counters takes
# 0.4 MB for each CPU.
MAX_CPUS = 1024

_BTF = Path("/sys/kernel/btf/vmlinux")

# Error number -> how to raise the limit of the resource that is exhausted.
SHORTAGES = {
    errno.EMFILE: "raise the limit of open files (LimitNOFILE=, ulimit -n)",
    errno.ENFILE: "raise fs.file-max, the machine's limit of open files",
    errno.EAGAIN: "raise the limit of processes and threads (TasksMax=, LimitNPROC=, ulimit -u, pids.max)",
    errno.ENOMEM: "allow more memory (MemoryMax=, LimitAS=, the container's limit)",
}

_OWN = Path("/proc/self")
# The target of the link /proc/self/ns/user in the initial user namespace (PROC_USER_INIT_INO, linux/proc_ns.h). The
# capabilities of a process are valid in the user namespace of the process, but BPF requires capabilities in the initial
# user namespace (bpf_capable(), linux/capability.h).
_INITIAL_USER_NAMESPACE = "user:[4026531837]"
# The agent has nine threads. gRPC has additional threads, whose number depends on the number of CPUs.
_THREADS = 9 + min(max(4, os.cpu_count() or 1), 16)
# Maps and programs need 20 descriptors, exporters and sockets need 10 descriptors, and each interface needs two
# descriptors.
_MIN_FILES = 40
_SECCOMP = re.compile(r"^Seccomp:\s*2$", re.MULTILINE)


def _kernel_version() -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def check_kernel() -> str:
    """Returns the version of the kernel. Raises EppingError if the kernel is too old."""
    release = platform.release()
    if _kernel_version() < MIN_KERNEL:
        raise EppingError(f"kernel {release} is too old: use Linux {'.'.join(map(str, MIN_KERNEL))} or newer")
    return release


def tested_kernel() -> str:
    """Returns a text that says whether otel-epping was tested on this kernel and this architecture."""
    oldest, newest = (".".join(map(str, version)) for version in TESTED_KERNELS)
    machine = platform.machine()
    if _kernel_version() < TESTED_KERNELS[0]:
        text = f"should work, but was not tested before Linux {oldest}"
    elif _kernel_version() > TESTED_KERNELS[1]:
        text = f"should work, but was not tested after Linux {newest}"
    else:
        text = f"tested on Linux {oldest} to {newest}"
    if machine not in TESTED_MACHINES:
        text += f"; not tested on {machine}, only on {', '.join(TESTED_MACHINES)}"
    return text


def tested_bcc(version: str) -> str:
    """Returns a text that says whether otel-epping was tested with a version of BCC, such as "0.31.0"."""
    tested = ", ".join(TESTED_BCC)
    if version.startswith(tuple(f"{release}." for release in TESTED_BCC)):
        return f"tested with BCC {tested}"
    return f"should work, but was tested only with BCC {tested}"


def check_cpus() -> int:
    """Returns the number of possible CPUs. Raises EppingError if there are too many CPUs for the program's tables."""
    possible = possible_cpus()
    if possible > MAX_CPUS:
        raise EppingError(f"{possible} possible CPUs are too many: boot the kernel with nr_cpus={MAX_CPUS}")
    return possible


def check_file_systems() -> None:
    """Raises EppingError if /proc or /sys is not mounted."""
    try:
        (_OWN / "status").read_bytes()
        (_OWN / "fdinfo").stat()
    except OSError as error:
        raise EppingError(f"cannot read {_OWN} ({error.strerror}): mount /proc; subset=pid is enough") from error
    possible_cpus()


def check_user_namespace() -> None:
    """Raises EppingError if this process is not in the initial user namespace."""
    try:
        namespace = str((_OWN / "ns/user").readlink())
    except FileNotFoundError:  # a kernel without CONFIG_USER_NS
        namespace = _INITIAL_USER_NAMESPACE
    if namespace != _INITIAL_USER_NAMESPACE:
        raise EppingError(
            "this process is in a user namespace, whose capabilities do not allow BPF: run otel-epping outside of it, "
            "as root of the machine (in a container: do not use rootless mode, userns-remap or hostUsers: false)"
        )


def check_bpf() -> None:
    """Creates a map of 4 bytes as a test. Raises EppingError if the kernel refuses to create the map."""
    try:
        os.close(libbpf.create_cell())
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            cure = SHORTAGES.get(error.errno or 0, "see dmesg")
        elif _SECCOMP.search((_OWN / "status").read_text(encoding="utf-8", errors="replace")):
            cure = "allow it in the seccomp filter (SystemCallFilter=bpf, or the container's seccomp profile)"
        elif error.errno == errno.ENOSYS:
            cure = "use a kernel with CONFIG_BPF_SYSCALL=y"
        else:
            cure = "allow it in the security module (SELinux, AppArmor, lockdown): see dmesg or the audit log"
        raise EppingError(f"the kernel refuses the system call bpf() ({error.strerror}): {cure}") from error


def check_open_files() -> None:
    """Raises EppingError if RLIMIT_NOFILE is so low that no descriptors are left for an interface."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < _MIN_FILES:
        raise EppingError(
            f"the limit of open files is {limit}, at least {_MIN_FILES} are needed: {SHORTAGES[errno.EMFILE]}"
        )


def _start_threads() -> NoReturn:
    """Starts up to _THREADS threads, and ends the process. The exit status is the number of started threads."""
    threading.stack_size(1 << 16)  # the check is about the number of threads, not about memory
    end, started = threading.Event(), 0
    with suppress(RuntimeError):
        while started < _THREADS:
            threading.Thread(target=end.wait, daemon=True).start()
            started += 1
    os._exit(started)


def check_threads() -> None:
    """Tests whether an agent can start all of its threads. Raises EppingError if a thread cannot be started.

    Without check_threads(), the agent would start, and gRPC would try forever to start a thread. The test starts the
    threads in a child process, because the memory of an ended thread stays reserved. The calling process must have no
    other threads.
    """
    started = 0
    with suppress(BlockingIOError):
        child = os.fork() or _start_threads()
        started = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if started < _THREADS:
        raise EppingError(f"only {max(started, 0)} of {_THREADS} threads can be started: {SHORTAGES[errno.EAGAIN]}")


def check_capability(name: str) -> str:
    """Returns the reason why the agent needs the capability `name`, which is a key of capabilities.NEEDED.

    Raises EppingError if this process lacks the capability.
    """
    reason = NEEDED[name].reason
    if name in missing():
        raise EppingError(f"needed {reason}: run as root, or give the process this capability")
    return reason


def check_privileges() -> None:
    """Raises EppingError if capabilities are missing, or if this process is not in the initial user namespace."""
    check_user_namespace()
    if names := missing():
        raise EppingError(f"missing {', '.join(names)}: run as root, or give the process these capabilities")


def check_locked_memory() -> str:
    """Returns a text that says which limit applies to the memory of maps.

    Raises EppingError if RLIMIT_MEMLOCK may be too small.
    """
    if _kernel_version() >= _CGROUP_KERNEL:
        return "RLIMIT_MEMLOCK does not apply: this kernel charges map memory to the cgroup"
    _, limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not may_raise_limits():
        raise EppingError(
            f"RLIMIT_MEMLOCK is {limit // 1024} KiB, which is too small for maps: use ulimit -l unlimited, or "
            "LimitMEMLOCK=infinity"
        )
    return "unlimited"


def describe_btf() -> str:
    """Returns a text that says whether the kernel has BTF.

    The program does not need BTF, because it reads only packets, not the kernel's data structures.
    """
    return f"{_BTF} exists" if _BTF.exists() else "none (not needed)"
