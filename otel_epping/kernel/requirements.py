# SPDX-License-Identifier: Apache-2.0
"""What a machine must have before the program can be loaded, and what to do where it has not."""

import platform
import re
import resource
from pathlib import Path

from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.privileges import NEEDED, may_raise_limits, missing

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

# Tables with rows for each CPU must be smaller than 512 MB (bpf/direct.h): counters of interfaces take 0.4 MB a CPU.
MOST_CPUS = 1024

_BTF = Path("/sys/kernel/btf/vmlinux")


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


def capability(name: str) -> str:
    """What the process needs this one of privileges.NEEDED for. Raises EppingError if it hasn't it."""
    reason = NEEDED[name].reason
    if name in missing():
        raise EppingError(f"needed {reason}: run as root, or give the process this capability")
    return reason


def privileges() -> None:
    """Raises EppingError naming the capabilities that the process lacks to load the program."""
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
