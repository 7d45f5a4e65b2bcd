# SPDX-License-Identifier: Apache-2.0
"""Kernels of Debian, each from the packages of its suite."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.vm import initramfs
from tests.vm.apt import suite
from tests.vm.cache import digest, kept

SUITES = ("bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid")


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted: its image, its initramfs, and a disk with its modules."""

    suite: str
    release: str
    package_version: str
    home: Path

    @property
    def image(self) -> Path:
        return self.home / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        return self.home / "initramfs"

    @property
    def modules(self) -> Path:
        return self.home / "modules.ext4"


def release_of(packages: Iterable[str]) -> str:
    """Return the output of `uname -r` for a kernel, from the names of its packages."""
    (release,) = {name.removeprefix("linux-image-") for name in packages if name.startswith("linux-image-")}
    return release


def order(release: str) -> tuple[int, ...]:
    """Return a key that sorts kernels by their version: 6.1.0-50-amd64 is older than 6.12.95+deb12-amd64."""
    version = re.match(r"[\d.]+", release)
    assert version, release
    return tuple(int(number) for number in version[0].strip(".").split("."))


def newest() -> str:
    """Return the suite with the newest kernel."""
    return max(SUITES, key=lambda name: order(release_of(suite(name).kernel_packages())))


def kernel(name: str) -> Kernel:
    """Return the kernel of a suite. If the cache does not have this version of the kernel, download and unpack the
    kernel first."""
    packages = suite(name).kernel_packages()
    release = release_of(packages)
    key = digest(*(f"{package}={version}" for package, version in packages.items()), *initramfs.recipe())
    home = kept(f"kernels/{name}", key, lambda new: _make(name, release, list(packages), new))
    return Kernel(name, release, packages[f"linux-image-{release}"], home)


def _make(name: str, release: str, packages: list[str], new: Path) -> None:
    unpacked = new / "unpacked"
    unpacked.mkdir()
    suite(name).download(packages, unpacked)
    usr = unpacked / "usr"
    modules = usr / "lib/modules" / release
    if not modules.exists():  # before Debian 13, packages had the modules in /lib
        modules.parent.mkdir(parents=True, exist_ok=True)
        (unpacked / "lib/modules" / release).rename(modules)
    (image,) = [*unpacked.glob("boot/vmlinuz-*"), *modules.glob("vmlinuz")]
    shutil.move(image, new / "vmlinuz")
    subprocess.run(["depmod", "--basedir", usr, release], check=True)
    initramfs.make(usr, release, new / "initramfs")
    used = sum(path.stat().st_size + 4096 for path in modules.rglob("*"))
    disk(modules.parent, new / "modules.ext4", used)
    shutil.rmtree(unpacked)


def disk(content: Path, target: Path, used_bytes: int) -> None:
    """Create a read-only ext4 image with the contents of a folder."""
    plain = "^has_journal,^metadata_csum,^orphan_file"  # checksums are slow on an emulated CPU
    size = f"{used_bytes * 13 // 10 // 2**20 + 64}M"
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", plain, "-m", "0", "-i", "8192", "-d", content, target, size], check=True
    )
