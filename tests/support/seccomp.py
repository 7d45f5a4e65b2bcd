# SPDX-License-Identifier: Apache-2.0
"""Simulates older kernels and sandboxes: makes bpf(2), or some of its commands, fail for a process and its children.

The script installs a seccomp filter (linux/filter.h). The script's arguments are an errno, the numbers of the commands,
and the command line to execute.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

MAP_UPDATE, PROG_QUERY, LINK_CREATE = "2", "16", "28"  # enum bpf_cmd, linux/bpf.h

_BPF = {"x86_64": 321, "aarch64": 280}
_SECCOMP, _MODE_FILTER = 22, 2  # PR_SET_SECCOMP, linux/prctl.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x50000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06


def refusing(number: int, *commands: str) -> list[str]:
    """Return the first part of a command line. In a process that this command line starts, the given commands of bpf(2)
    fail with errno `number`. If no commands are given, every call of bpf(2) fails."""
    return [sys.executable, __file__, str(number), ",".join(commands)]


# Simulates a kernel without TCX hooks: BPF_PROG_QUERY and BPF_LINK_CREATE fail with EINVAL.
BEFORE_TCX = refusing(errno.EINVAL, PROG_QUERY, LINK_CREATE)


def _main(number: str, commands: str, *command: str) -> None:
    refused = [(_IF_EQUAL, int(each)) for each in commands.split(",") if each] or [(_IF_AT_LEAST, 0)]
    code = [
        (_LOAD, 0, 0, 0),  # the number of the system call
        (_IF_EQUAL, 0, len(refused) + 1, _BPF[platform.machine()]),
        (_LOAD, 0, 0, 16),  # the first argument of the system call
        *((condition, len(refused) - place, 0, each) for place, (condition, each) in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | int(number)),
    ]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(text)))
    assert ctypes.CDLL(None).prctl(_SECCOMP, _MODE_FILTER, program) == 0
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(*sys.argv[1:])
