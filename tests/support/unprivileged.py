# SPDX-License-Identifier: Apache-2.0
"""Runs otel-epping as the documentation recommends: as the user `nobody`, with only the three needed capabilities.
Reads from /proc which capabilities a process still has.

setpriv(1) grants the capabilities as ambient capabilities, as systemd does. The checkout and the virtual environment
may be in a folder that only root can read, such as /root. Therefore both folders are mounted at a place that the user
`nobody` can read.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

NOBODY_UID = "65534"
NEEDED = ("bpf", "net_admin", "perfmon")
NET_ADMIN = 1 << 12
# A process can request a signal for the end of its parent (prctl(2), PR_SET_PDEATHSIG), but a change of the user ID
# cancels the request. So setpriv must change the user ID first and then request the signal.
_SETPRIV = ["setpriv", "--pdeathsig", "KILL", "--reuid", NOBODY_UID, "--clear-groups"]
_BIND = 'mount --bind "$0" /mnt && mount --bind "$1" /srv && shift && exec "$@"'


def nobody_with(*capabilities: str, ambient: bool = True) -> list[str]:
    """Return the first part of a command line. This part runs the rest of the command line as the user `nobody` with
    the given capabilities.

    If `ambient` is false, the command starts without capabilities, but the given capabilities stay in the bounding set
    of the process.
    """
    names = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    kinds = ("inh-caps", "ambient-caps", "bounding-set") if ambient else ("bounding-set",)
    return [*_SETPRIV, *(f"--{kind}={names}" for kind in kinds)]


def fields(status: Path) -> dict[str, str]:
    """Return the fields of a status file in /proc."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.read_text().splitlines())}


def held(status: dict[str, str]) -> dict[str, int]:
    """Return the capabilities that a thread has or can pass on, by set."""
    return {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}


def threads(pid: int) -> list[dict[str, str]]:
    """Return the status of each thread of a process, except threads that are ending."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(fields(task / "status"))
    return found


def assert_holds_nothing(pid: int, kept: int = 0) -> None:
    """Check that no thread holds a capability except `kept`, and that no thread can pass on or gain a capability."""
    statuses = threads(pid)
    assert statuses
    for status in statuses:
        assert not any(capabilities & ~kept for capabilities in held(status).values()), status
        assert held(status)["CapInh"] == held(status)["CapAmb"] == 0, status
        assert status["NoNewPrivs"] == "1", status
        # Only root could gain capabilities by execve(2), and only root can empty the bounding set to prevent this gain.
        assert status["Uid"].startswith(NOBODY_UID) or int(status["CapBnd"], 16) == 0, status


def innermost(pid: int) -> int:
    """Return the last process in the chain of child processes that starts at `pid`. A wrapper command may fork."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        (pid,) = map(int, children)
    return pid


def assert_unprivileged(process: subprocess.Popen[str], log: str) -> None:
    """Check that a running agent holds no capabilities except the ones that its log lists as kept.

    The agent keeps CAP_NET_ADMIN for clsact filters on kernels without TCX. kernel/attach/test_clsact.py tests the
    agent with this capability.
    """
    assert_holds_nothing(innermost(process.pid), NET_ADMIN if "CAP_NET_ADMIN: kept" in log else 0)


NOBODY = nobody_with()
CAPABLE_NOBODY = nobody_with(*NEEDED)


def as_nobody(setpriv: list[str], *arguments: str, python: str = "/srv/bin/python") -> list[str]:
    """Return a command that runs Python as the user `nobody` with the capabilities that `setpriv` grants. By default,
    Python runs otel-epping."""
    binds = ["unshare", "--mount", "sh", "-c", _BIND, str(REPOSITORY), sys.prefix]
    return [*binds, *setpriv, "env", "PYTHONPATH=/mnt", python, *(arguments or ("-m", "otel_epping"))]


AGENT = as_nobody(CAPABLE_NOBODY)
