# SPDX-License-Identifier: Apache-2.0
"""Fresh installations. An installation is an overlay of a minimal Debian (see trees.py), with a copy of this checkout
in /checkout. An installation is removed after use.

The installation gets the settings with which the host accesses Debian, PyPI and the Go modules: resolv.conf, apt's
settings for proxies and date checks, the variables in HANDED_VARIABLES, and the files and folders that these variables
name. Settings that the host does not have are omitted. Downloaded packages are kept in the cache folder. For apt
packages, each release has its own folder next to the tree of the release. For pip packages, there is one folder for all
releases. Programs that the Makefile builds with Go are shared with the host.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.distro.trees import NAMESPACE, DistroError, cache_folder, tree

CHECKOUT = Path(__file__).resolve().parents[2]
HANDED_VARIABLES = re.compile(r"PIP_\w+|GOPROXY|GOSUMDB|SSL_CERT_FILE|(?i:https?|no)_proxy")
HANDED_APT_SETTINGS = re.compile(r"Acquire::(Check-|https?::Proxy)")


@dataclass(frozen=True)
class Installation:
    """A fresh installation of a release; `work` holds its overlay."""

    release: str
    work: Path

    def run(self, command: str, output: IO[str]) -> int:
        """Run a shell command in /checkout as root, write its output to `output`, and return its exit status.

        When this method returns, all processes and mounts of the command have ended. Files that the command has written
        stay until the installation is removed.
        """
        variables = {"HOME": "/root", "LANG": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        mounts = [
            ("rw", self.work / "checkout", "/checkout"),
            ("rw", self.work / "archives", "/var/cache/apt/archives"),
            ("rw", _pip_cache(), "/root/.cache/pip"),
            ("rw", cache_folder().parent, "/root/.cache/otel-epping"),
            ("ro", Path("/etc/resolv.conf").resolve(), "/etc/resolv.conf"),
            ("ro", self.work / "apt.conf", "/etc/apt/apt.conf.d/99host"),
        ]
        for name, value in os.environ.items():
            if HANDED_VARIABLES.fullmatch(name) and name != "PIP_CACHE_DIR":
                variables[name] = value
                if value.startswith("/") and Path(value).exists():
                    variables[name] = f"/host{value}"
                    mounts.append(("ro", Path(value), f"/host{value}"))
        done = subprocess.run(
            [
                *NAMESPACE,
                str(Path(__file__).with_name("enter.sh")),
                str(tree(self.release)),
                str(self.work),
                *(str(part) for mount in mounts for part in mount),
                "--",
                *("env", "--ignore-environment", "--chdir=/checkout"),
                *(f"{name}={value}" for name, value in variables.items()),
                *("bash", "-c", command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        self._keep_packages()
        return done.returncode

    def _keep_packages(self) -> None:
        """Copy downloaded packages from apt's folder in the installation to the cache."""
        cache = _apt_cache(self.release)
        for package in (self.work / "archives").glob("*.deb"):
            if not (cache / package.name).exists():
                with tempfile.NamedTemporaryFile(dir=cache) as copy:
                    shutil.copy(package, copy.name)
                    with contextlib.suppress(FileExistsError):  # another run has copied the package already
                        os.link(copy.name, cache / package.name)


@contextlib.contextmanager
def fresh(release: str) -> Iterator[Installation]:
    """Create a fresh installation of a release with a copy of this checkout, and remove the installation afterwards.

    The installation is removed even if this process is killed. Raises DistroError.
    """
    tree(release)
    work = Path(tempfile.mkdtemp(prefix="otel-epping-distro-", dir="/var/tmp"))
    # The shell waits until its input is closed, and then removes the installation. The kernel closes the input when
    # this process ends, even if this process is killed. Processes of the installation may still run for a moment after
    # this process has ended, so the shell tries the removal several times.
    remove = 'cat; for i in 1 2 3 4 5; do rm -rf "$0" 2>/dev/null && exit; sleep 1; done; rm -rf "$0"'
    remover = subprocess.Popen(["sh", "-c", remove, str(work)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        for name in ("upper", "work", "root", "archives"):
            (work / name).mkdir()
        for package in _apt_cache(release).glob("*.deb"):
            shutil.copy(package, work / "archives")
        (work / "apt.conf").write_text(_apt_settings())
        _copy_checkout(work / "checkout")
        yield Installation(release, work)
    finally:
        remover.communicate()  # closes the shell's input and waits until the shell has ended


def _copy_checkout(target: Path) -> None:
    """Copy the current files of this checkout: the tracked files, and the new files that git does not ignore."""
    git = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT)]  # the checkout may belong to another user
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
    )
    if listed.returncode:
        raise DistroError(f"git cannot list the files of {CHECKOUT}: {listed.stderr.strip()}")
    for name in listed.stdout.rstrip("\0").split("\0"):
        source = CHECKOUT / name
        if source.is_symlink() or source.exists():  # a tracked file may have been deleted
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


def _apt_settings() -> str:
    """Return the host's settings for proxies and for date checks, in the format of apt.conf."""
    if not shutil.which("apt-config"):
        return ""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return "".join(f"{line}\n" for line in dump.splitlines() if HANDED_APT_SETTINGS.match(line))


def _apt_cache(release: str) -> Path:
    """Return the folder for the downloaded packages of a release. The folder is deleted when the tree is created
    again."""
    folder = cache_folder() / release / "archives"
    folder.mkdir(exist_ok=True)
    return folder


def _pip_cache() -> Path:
    """Return the folder of pip's cache."""
    folder = cache_folder() / "pip"
    folder.mkdir(exist_ok=True)
    return folder
