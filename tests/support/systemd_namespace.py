# SPDX-License-Identifier: Apache-2.0
"""Runs systemd as process 1 in its own namespaces, with only the units of a test.

This systemd has its own processes, mounts and cgroup. This systemd does not run the units of the machine. When the
parent process of this systemd ends, this systemd and all its processes end, too. An empty cgroup may remain.
"""

import os
import subprocess
import time
from pathlib import Path

_SYSTEMD = "/lib/systemd/systemd"

# A shell function that prints the capabilities of all threads of a unit's main process, as name=value.
HELD = r"""
held() {
    sed -nE 's/^(Uid|Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):\s*([0-9a-f]+).*/\1=\3/p' \
        /proc/$(systemctl show -p MainPID --value $1)/task/*/status | sort -u
}
"""
NOTHING_HELD = {f"Cap{name}=0000000000000000" for name in ("Inh", "Prm", "Eff", "Amb")} | {"NoNewPrivs=1"}

# Creates a cgroup for systemd, so that systemd creates its cgroups inside this cgroup and not next to the host's
# cgroups.
_CGROUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/cgroup /run/systemd/system
mount -t cgroup2 none /run/cgroup
group=/run/cgroup/{name}
"""
_BOOT = """
mkdir $group
echo $$ > $group/cgroup.procs
exec unshare --cgroup --pid --fork --kill-child --mount-proc --ipc --uts sh -ec '
    umount -R /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup
    cp {folder}/*.service /run/systemd/system/
    container=test exec {systemd} --system --unit=test.service --log-target=null --show-status=0'
"""
_CLEAN = """
for turn in $(seq 100); do
    find $group -depth -type d -exec rmdir {{}} + 2>/dev/null || true
    test -d $group || exit 0
    sleep 0.05
done
exit 1
"""
# Runs the whole script, even if one of its commands fails.
_TEST_SERVICE = """
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/sh {folder}/script
ExecStopPost=/bin/touch {folder}/done
StandardOutput=file:{folder}/said
StandardError=file:{folder}/said
"""


def under_systemd(folder: Path, unit: str, script: str, timeout_s: float) -> str:
    """Run a shell script under a systemd that has `unit` as epping.service, and return the output of the script.

    `folder` contains the files of this function and of the caller.
    """
    assert Path(_SYSTEMD).exists(), "systemd is not installed: apt-get install systemd"
    where = {"name": f"otel-epping-test-{os.getpid()}", "folder": folder, "systemd": _SYSTEMD}
    (folder / "epping.service").write_text(unit)
    (folder / "test.service").write_text(_TEST_SERVICE.format(**where))
    (folder / "script").write_text(script)
    own_mounts = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c"]
    with (folder / "boot").open("w") as log:
        system = subprocess.Popen([*own_mounts, (_CGROUP + _BOOT).format(**where)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + timeout_s
        while not (folder / "done").exists():
            assert system.poll() is None, (folder / "boot").read_text()
            assert time.monotonic() < deadline, (folder / "said").read_text()
            time.sleep(0.05)
    finally:
        system.kill()
        system.wait()
        subprocess.run([*own_mounts, (_CGROUP + _CLEAN).format(**where)], check=True)
    return (folder / "said").read_text()
