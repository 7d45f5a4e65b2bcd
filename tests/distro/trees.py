# SPDX-License-Identifier: Apache-2.0
"""Minimal Debian installations ("trees"), created by debootstrap and kept in the cache folder.

A tree contains only the packages that debootstrap installs and the packages in INCLUDE. A tree must not be changed, so
commands run in an overlay of the tree. The cache folder is ${XDG_CACHE_HOME:-~/.cache}/otel-epping/distro:

    RELEASE/root    the tree
    RELEASE/recipe  the arguments of debootstrap; the modification time of this file is the age of the tree
    RELEASE.lock    a process that uses the tree holds a shared lock; a process that creates it holds an exclusive lock
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

RELEASES = ("bookworm", "trixie", "sid")
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INCLUDE = ("ca-certificates", "make")  # the packages that a user needs before the first `make`
SID_MAX_AGE_S = 7 * 24 * 3600

# Runs a command in its own mount and PID namespaces. When this process ends, all processes and mounts in the namespaces
# end, too, even if this process is killed. If this process ends, the kernel sends SIGKILL to unshare(1). If unshare(1)
# ends, the kernel sends SIGKILL to the first process of the PID namespace.
NAMESPACE = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
NAMESPACE += ["--propagation", "private"]

# The locks of the trees that this process uses. The kernel releases the locks when this process ends, even after a
# kill.
_locks: dict[str, IO[str]] = {}


class DistroError(Exception):
    """A tree could not be created or used. The message names the cause and the cure."""


def cache_folder() -> Path:
    """Return the folder that keeps trees and package caches between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "otel-epping", "distro")


def tree(release: str) -> Path:
    """Return the root folder of a release's tree.

    The tree is created if the cache has no tree. The tree is created again if an earlier version of the recipe created
    it. A tree of sid is also created again if it is too old.

    No other process replaces the tree until this process ends. Needs root. Raises DistroError.
    """
    if release not in RELEASES:
        raise DistroError(f"unknown release {release!r}: use one of {', '.join(RELEASES)}")
    home = cache_folder() / release
    if release not in _locks:
        home.parent.mkdir(parents=True, exist_ok=True)
        _locks[release] = home.with_name(f"{release}.lock").open("w")
    lock = _locks[release]
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not _usable(home, release):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"{release}: waiting for other users of the tree")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not _usable(home, release):
            _make(home, release)
        fcntl.flock(lock, fcntl.LOCK_SH)
    return home / "root"


def _recipe(release: str) -> list[str]:
    """Return the arguments of debootstrap for a release, without the target folder."""
    options = ["--variant=minbase", f"--include={','.join(INCLUDE)}", "--force-check-gpg", f"--keyring={KEYRING}"]
    return [*options, release, MIRROR]


def _usable(home: Path, release: str) -> bool:
    """Return true if the tree is complete, was created with the current recipe, and is young enough."""
    recipe = home / "recipe"
    if not recipe.exists() or recipe.read_text() != " ".join(_recipe(release)):
        return False
    return release != "sid" or time.time() - recipe.stat().st_mtime < SID_MAX_AGE_S


def _make(home: Path, release: str) -> None:
    """Create a tree next to its final place, and move it to that place after it is complete."""
    if os.geteuid() != 0:
        raise DistroError("debootstrap needs root")
    _install_debootstrap()
    new = home.with_name(f"{release}.new")
    shutil.rmtree(new, ignore_errors=True)  # a run that was killed may have left this folder
    new.mkdir()
    log = home.with_name(f"{release}.debootstrap.log")
    _say(f"{release}: debootstrap from {MIRROR}, output in {log}")
    began = time.monotonic()
    *options, suite, mirror = _recipe(release)
    with log.open("w") as output:
        done = subprocess.run(
            [*NAMESPACE, "--mount-proc", "debootstrap", *options, suite, str(new / "root"), mirror],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise DistroError(f"{release}: debootstrap failed: {' '.join(last)} (all output is in {log})")
    for package in (new / "root/var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    (new / "recipe").write_text(" ".join(_recipe(release)))
    shutil.rmtree(home, ignore_errors=True)
    new.rename(home)
    _say(f"{release}: debootstrap took {time.monotonic() - began:.0f} s")


def _install_debootstrap() -> None:
    """Install debootstrap and Debian's keys on this machine if they are missing."""
    if shutil.which("debootstrap") and KEYRING.exists():
        return
    if not shutil.which("apt-get"):
        raise DistroError("debootstrap or Debian's keys are missing: install debootstrap and debian-archive-keyring")
    packages = ["debootstrap", "debian-archive-keyring"]
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        if subprocess.run(["apt-get", "--quiet", *command], stdout=sys.stderr).returncode:
            raise DistroError(f"apt-get {' '.join(command)} failed")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
