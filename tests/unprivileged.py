# SPDX-License-Identifier: Apache-2.0
"""Otel-epping as it should run: by a user who is nobody, with the three capabilities it needs and none besides.

Capabilities are given and taken by setpriv(1), as ambient ones, as systemd gives them. Checkout and virtual environment
may be where nobody else can look, in /root for one, so nobody sees them elsewhere: mounted by who starts it.
"""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

NOBODY_UID = "65534"
NEEDED = ("bpf", "net_admin", "perfmon")
# The signal that a parent's end sends is forgotten when the user changes (prctl(2), PR_SET_PDEATHSIG).
_SETPRIV = ["setpriv", "--pdeathsig", "KILL", "--reuid", NOBODY_UID, "--clear-groups"]
_BIND = 'mount --bind "$0" /mnt && mount --bind "$1" /srv && shift && exec "$@"'


def nobody_with(*capabilities: str, ambient: bool = True) -> list[str]:
    """A command that runs another as nobody with these capabilities; or, if not `ambient`, at most with these."""
    names = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    kinds = ("inh-caps", "ambient-caps", "bounding-set") if ambient else ("bounding-set",)
    return [*_SETPRIV, *(f"--{kind}={names}" for kind in kinds)]


NOBODY = nobody_with()
CAPABLE_NOBODY = nobody_with(*NEEDED)


def as_nobody(setpriv: list[str], *arguments: str, python: str = "/srv/bin/python") -> list[str]:
    """Python with these arguments, otel-epping by default, run by nobody with the privileges that `setpriv` leaves."""
    binds = ["unshare", "--mount", "sh", "-c", _BIND, str(REPOSITORY), sys.prefix]
    return [*binds, *setpriv, "env", "PYTHONPATH=/mnt", python, *(arguments or ("-m", "otel_epping"))]
