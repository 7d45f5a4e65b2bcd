# SPDX-License-Identifier: Apache-2.0
"""Reads packages of a Debian release with apt. Uses a separate configuration of apt, and neither reads nor changes the
configuration of this machine."""

import fcntl
import os
import re
import subprocess
from functools import cache
from pathlib import Path

from tests.distro.trees import KEYRING, MIRROR
from tests.vm.cache import VmError, folder

SECURITY_MIRROR = os.environ.get("DEBIAN_SECURITY_MIRROR", "http://deb.debian.org/debian-security")
_CONFIG = """
Dir::Etc::sourcelist "{home}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{home}/state";
Dir::State::status "{home}/status";
Dir::Cache "{home}/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Check-Valid-Until "{valid}";
APT::Sandbox::User "root";
"""
# The packages of a kernel. Newer kernels have the image and the modules in separate packages.
_KERNEL = re.compile(r"linux-(image|base|binary|modules)-\d\S*")


def sources(suite: str) -> str:
    """Return the lines of sources.list for a suite, and for its security updates if the suite has any."""
    line = f"deb [signed-by={KEYRING}]"
    lines = [f"{line} {MIRROR} {suite} main"]
    if suite in ("bookworm", "trixie"):
        lines += [f"{line} {MIRROR} {suite}-updates main", f"{line} {SECURITY_MIRROR} {suite}-security main"]
    return "\n".join(lines) + "\n"


class Suite:
    """A release or its backports, in the current state of the mirror. Raises VmError if apt cannot read the suite."""

    def __init__(self, name: str) -> None:
        self.name = name
        home = folder() / "apt" / name
        for part in ("state", "cache"):
            (home / part).mkdir(parents=True, exist_ok=True)
        (home / "status").touch()
        (home / "sources.list").write_text(sources(name))
        # A mirror's copy of the index of sid may have expired, so apt must not check the date.
        (home / "apt.conf").write_text(_CONFIG.format(home=home, valid=str(name != "sid").lower()))
        self._environment = os.environ | {"APT_CONFIG": str(home / "apt.conf"), "LC_ALL": "C"}
        with (home / "lock").open("w") as lock:  # if apt's own lock is taken, apt fails at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run("apt-get", "--quiet", "--error-on=any", "update")

    def _run(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(command, env=self._environment, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise VmError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def versions(self, packages: list[str]) -> dict[str, str]:
        """Return the version of each package. Raises VmError if the suite lacks one of the packages."""
        shown = self._run("apt-cache", "show", "--no-all-versions", *packages)
        names = re.findall(r"^Package: (.*)$", shown, re.MULTILINE)
        return dict(zip(names, re.findall(r"^Version: (.*)$", shown, re.MULTILINE), strict=True))

    def kernel_packages(self) -> dict[str, str]:
        """Return the packages of the suite's kernel with their versions."""
        omit = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
        flags = ["--recurse", *(f"--no-{kind}" for kind in omit)]
        listed = self._run("apt-cache", *flags, "depends", "linux-image-amd64").split()
        return self.versions(sorted({name for name in listed if _KERNEL.fullmatch(name)}))

    def download(self, packages: list[str], target: Path) -> None:
        """Download packages and unpack them into the folder `target`."""
        self._run("apt-get", "--quiet", "download", *packages, folder=target)
        for package in target.glob("*.deb"):
            self._run("dpkg-deb", "--extract", str(package), str(target))
            package.unlink()


@cache
def suite(name: str) -> Suite:
    """Return a suite. The package lists of the suite are downloaded once per run."""
    return Suite(name)
