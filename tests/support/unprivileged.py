# SPDX-License-Identifier: Apache-2.0
"""Runs otel-epping as recommended: as nobody, with the three needed capabilities only. Reads in /proc which are left.

setpriv(1) grants the capabilities as ambient ones, as systemd does. Checkout and virtual environment may be in a folder
that only root can read, such as /root, so they are mounted at another place for nobody.
"""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

NOBODY_UID = "65534"
NEEDED = ("bpf", "net_admin", "perfmon")
NET_ADMIN = 1 << 12
# The signal that a parent's end sends is forgotten when the user changes (prctl(2), PR_SET_PDEATHSIG).
_SETPRIV = ["setpriv", "--pdeathsig", "KILL", "--reuid", NOBODY_UID, "--clear-groups"]
_BIND = 'mount --bind "$0" /mnt && mount --bind "$1" /srv && shift && exec "$@"'


def nobody_with(*capabilities: str, ambient: bool = True) -> list[str]:
    """A command that runs another as nobody with these capabilities; or, if not `ambient`, at most with these."""
    names = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    kinds = ("inh-caps", "ambient-caps", "bounding-set") if ambient else ("bounding-set",)
    return [*_SETPRIV, *(f"--{kind}={names}" for kind in kinds)]


def fields(status: Path) -> dict[str, str]:
    """Those of a status file of /proc."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.read_text().splitlines())}


def held(status: dict[str, str]) -> dict[str, int]:
    """What a thread has, and what it can hand on."""
    return {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}


def threads(pid: int) -> list[dict[str, str]]:
    """The status of each thread of a process, but for those that are ending."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(fields(task / "status"))
    return found


def assert_holds_nothing(pid: int, kept: int = 0) -> None:
    """Of all its threads: nothing is held but `kept`, nothing can be handed on, nothing can be gained."""
    statuses = threads(pid)
    assert statuses
    for status in statuses:
        assert not any(capabilities & ~kept for capabilities in held(status).values()), status
        assert held(status)["CapInh"] == held(status)["CapAmb"] == 0, status
        assert status["NoNewPrivs"] == "1", status
        # Only root could be given anything by an exec, and only root may limit that.
        assert status["Uid"].startswith(NOBODY_UID) or int(status["CapBnd"], 16) == 0, status


def innermost(pid: int) -> int:
    """The process that does the work: the last of a chain of children, as a command in front may fork."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        (pid,) = map(int, children)
    return pid


def assert_unprivileged(process: subprocess.Popen[str], log: str) -> None:
    """Whether an agent that watches holds nothing, but for what its log says that it keeps.

    CAP_NET_ADMIN is kept for clsact filters on kernels without TCX; kernel/attach/test_clsact.py tests that case.
    """
    assert_holds_nothing(innermost(process.pid), NET_ADMIN if "CAP_NET_ADMIN: kept" in log else 0)


NOBODY = nobody_with()
CAPABLE_NOBODY = nobody_with(*NEEDED)


def as_nobody(setpriv: list[str], *arguments: str, python: str = "/srv/bin/python") -> list[str]:
    """Python with these arguments, otel-epping by default, run by nobody with the privileges that `setpriv` leaves."""
    binds = ["unshare", "--mount", "sh", "-c", _BIND, str(REPOSITORY), sys.prefix]
    return [*binds, *setpriv, "env", "PYTHONPATH=/mnt", python, *(arguments or ("-m", "otel_epping"))]


AGENT = as_nobody(CAPABLE_NOBODY)
