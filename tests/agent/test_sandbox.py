# SPDX-License-Identifier: Apache-2.0
"""Runs the agent in sandboxes and under limits.

Either the agent works, or one line names the cause. `check` prints the same line.
"""

import errno
from collections.abc import Callable

import pytest

from otel_epping.lab.namespaces import Namespace
from tests.support.command import COMMAND, Agent, epping, said
from tests.support.seccomp import refusing

pytestmark = pytest.mark.parallel


def in_mounts(script: str) -> list[str]:
    """Return a prefix that runs a command in its own mount namespace, after a script has prepared the namespace."""
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$0" "$@"']


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
    "user namespace": (["unshare", "--user", "--map-root-user"], "this process is in a user namespace, whose capab"),
    "unmapped user": (["unshare", "--user"], "in a user namespace, whose capabilities do not allow BPF"),
    "seccomp": (
        refusing(errno.EPERM),
        "the kernel refuses the system call bpf() (Operation not permitted): allow it in the seccomp filter",
    ),
    "seccomp: unknown call": (
        refusing(errno.ENOSYS),
        "the kernel refuses the system call bpf() (Function not implemented): allow it in the seccomp filter",
    ),
    "descriptors": (
        ["prlimit", "--nofile=20:20"],
        "limit of open files is 20, at least 40 are needed: raise",
    ),
    "processes": (["prlimit", "--nproc=1:1", *NOT_ROOT], "only 0 of "),
    "threads": (["prlimit", "--nproc=5:5", *NOT_ROOT], "threads can be started: raise the limit of processes and"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sandbox_that_is_too_strict_is_reported_in_one_line(ns: Namespace, case: str) -> None:
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
def test_the_agent_works_in_these_sandboxes(ns: Namespace, start: Callable[..., Agent], case: str) -> None:
    checked = epping(ns, "check", command=[*WORKS[case], *COMMAND])
    assert (checked.returncode, checked.stderr) == (0, "")
    if case != "no files":  # in the case "no files", the agent cannot write the log for which start() waits
        assert start("-i", "lo", command=[*WORKS[case], *COMMAND], OTEL_METRICS_EXPORTER="console").stop() == 0
