# SPDX-License-Identifier: Apache-2.0
"""Sandboxes, containers and limits: the agent works, or ends in one line with the cause, and `check` gives the same."""

import errno
import platform
import sys
from collections.abc import Callable

import pytest
from command import COMMAND, Agent, epping, said

from otel_epping.lab.namespaces import Namespace

# Has system call NUMBER fail with ERROR for what it executes (seccomp(2)): ERROR NUMBER COMMAND...
SECCOMP = """
import ctypes, os, struct, sys
error, number = map(int, sys.argv[1:3])
load, jump = (0x20, 0, 0, 0), (0x15, 0, 1, number)
refuse, allow = (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in (load, jump, refuse, allow)))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
assert ctypes.CDLL(None).prctl(22, 2, program, 0, 0) == 0
os.execvp(sys.argv[3], sys.argv[3:])
"""
BPF_CALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]


def in_mounts(script: str) -> list[str]:
    """A command that runs another in a mount namespace of its own, prepared by a script."""
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$0" "$@"']


def seccomp(error: int) -> list[str]:
    return [sys.executable, "-c", SECCOMP, str(error), str(BPF_CALL)]


NOT_ROOT = ["setpriv", "--reuid", "54321", "--clear-groups", *(
    f"--{kind}=-all,+bpf,+net_admin,+perfmon" for kind in ("inh-caps", "ambient-caps", "bounding-set")
)]  # fmt: skip

REFUSED = {
    "no /proc": (in_mounts("umount -l /proc"), "cannot read /proc/self (No such file or directory): mount /proc"),
    "no /sys": (
        in_mounts("mount -t tmpfs none /sys"),
        "cannot read /sys/devices/system/cpu/possible (No such file or directory): mount /sys",
    ),
    "no /dev": (
        in_mounts("mount -t tmpfs none /dev"),
        "cannot start the loader (/dev/null: No such file or directory)",
    ),
    "user namespace": (["unshare", "--user", "--map-root-user"], "this is a user namespace, whose capabilities do not"),
    "unmapped user": (["unshare", "--user"], "this is a user namespace, whose capabilities do not count for BPF"),
    "seccomp": (
        seccomp(errno.EPERM),
        "the kernel refuses the system call bpf() (Operation not permitted): allow it in the seccomp filter",
    ),
    "seccomp as if there was no such call": (
        seccomp(errno.ENOSYS),
        "the kernel refuses the system call bpf() (Function not implemented): allow it in the seccomp filter",
    ),
    "descriptors": (["prlimit", "--nofile=20:20"], "only 20 open files are allowed, of at least 40: raise the limit"),
    "processes": (["prlimit", "--nproc=1:1", *NOT_ROOT], "only 0 of "),
    "threads": (["prlimit", "--nproc=5:5", *NOT_ROOT], "threads can be started: raise the limit of processes and"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_one_line_with_the_cause(ns: Namespace, case: str) -> None:
    before, words = REFUSED[case]
    refusal = said(epping(ns, "run", "-i", "lo", command=[*before, *COMMAND]))
    assert words in refusal
    checked = epping(ns, "check", command=[*before, *COMMAND])
    assert checked.returncode == 1
    assert checked.stdout.splitlines()[-1][23:] == refusal


WORKS = {
    "/proc with processes only": in_mounts("mount -t proc -o subset=pid proc /proc"),
    "/proc without others": in_mounts("mount -t proc -o hidepid=invisible proc /proc"),
    "read-only": in_mounts("mount -o remount,bind,ro / && mount -o remount,bind,ro /sys"),
    "no BTF, no bpffs": in_mounts("mount -t tmpfs none /sys/kernel/btf && mount -t tmpfs none /sys/fs/bpf"),
    "no environment": ["env", "-i", "OTEL_METRICS_EXPORTER=console"],
    "no files": ["prlimit", "--fsize=0"],
    "no locked memory": ["prlimit", "--memlock=0:0"],
    "little address space": ["prlimit", "--as=800000000"],
    "the folder is gone": ["sh", "-c", 'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$0" "$@"'],
}


@pytest.mark.parametrize("case", WORKS)
def test_what_works(ns: Namespace, start: Callable[..., Agent], case: str) -> None:
    checked = epping(ns, "check", command=[*WORKS[case], *COMMAND])
    assert (checked.returncode, checked.stderr) == (0, "")
    if case != "no files":  # without which there is no log to wait for
        assert start("-i", "lo", command=[*WORKS[case], *COMMAND], OTEL_METRICS_EXPORTER="console").stop() == 0
