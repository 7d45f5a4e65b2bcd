# SPDX-License-Identifier: Apache-2.0
"""What a machine must have before the program can be loaded, and what to do where it has not."""

import platform
import re
from pathlib import Path

from otel_epping.kernel.errors import EppingError

# TCX links: linux/bpf.h has BPF_TCX_INGRESS from 6.6.
LEAST_KERNEL = (6, 6)

# linux/capability.h
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
_CAP_SYS_ADMIN = 21

_BTF = Path("/sys/kernel/btf/vmlinux")


def kernel() -> str:
    """The kernel's release. Raises EppingError if it is too old."""
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if not numbers or (int(numbers[1]), int(numbers[2])) < LEAST_KERNEL:
        raise EppingError(
            f"kernel {release} has no TCX links: otel-epping needs Linux {'.'.join(map(str, LEAST_KERNEL))} or newer"
        )
    return release


def privileges() -> str:
    """How the process may load and attach programs. Raises EppingError naming the capabilities it lacks."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    if effective >> _CAP_SYS_ADMIN & 1 and effective >> _CAPABILITIES["CAP_NET_ADMIN"] & 1:
        return "CAP_SYS_ADMIN, CAP_NET_ADMIN"
    missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise EppingError(f"missing {', '.join(missing)}: run as root, or give the process these capabilities")
    return ", ".join(_CAPABILITIES)


def btf() -> str:
    """Whether the kernel describes its own types. Not needed here: the program reads packets, no kernel structures."""
    return f"{_BTF} is there" if _BTF.exists() else "none (not needed)"
