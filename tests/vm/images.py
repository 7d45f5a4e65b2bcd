# SPDX-License-Identifier: Apache-2.0
"""Disk images of Debian releases with the packages for the tests, and with the agent's dependencies in a virtual
environment."""

import os
import shlex
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.distro.trees import tree
from tests.vm.apt import sources, suite
from tests.vm.cache import VmError, digest, folder, kept

ROOT = Path(__file__).parents[2]
RELEASES = ("bookworm", "trixie", "sid")
VENV = "/opt/otel-epping"
# The packages that docs/ tells users to install, followed by the packages that only the tests need.
_PRODUCT = ("bpftool", "iproute2", "libbpf1", "linux-libc-dev", "python3-bpfcc", "python3-venv")
_TESTS = ("ethtool", "iputils-ping", "kmod", "ppp", "pppoe", "procps", "wireguard-tools")
_SHOWN = ("libbpfcc", "libbpf1", "python3")

# /bin/sh -e runs this script in its own mount and process namespaces. When the script ends, its mounts disappear, even
# if the script was killed.
_BUILD = """
mkdir {new}/upper {new}/work
mount -t overlay -o lowerdir={tree},upperdir={new}/upper,workdir={new}/work overlay {new}/merged
cd {new}/merged
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs run
cp --dereference /etc/resolv.conf run/resolv.conf
test -e etc/resolv.conf || touch etc/resolv.conf
mount --bind run/resolv.conf etc/resolv.conf
cp --dereference {certificates} run/certificates.crt
mkdir run/wheels
cp {wheel} {constraints} run/wheels
cp {sources} etc/apt/sources.list
rm -f etc/apt/sources.list.d/*
printf '#!/bin/sh\\nexit 101\\n' > usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
chroot . /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
    PIP_CERT=/run/certificates.crt {proxies} sh -ec '
        apt-get -q -o Acquire::Check-Valid-Until=false update
        apt-get -q install --yes --no-install-recommends {packages}
        python3 -m venv {venv}
        {venv}/bin/pip install --no-cache-dir --constraint /run/wheels/constraints.txt /run/wheels/*.whl
        apt-get clean
        rm -rf /var/lib/apt/lists/*
    '
umount -R dev proc tmp run etc/resolv.conf
cd ..
mke2fs -q -t ext4 -O ^has_journal,^metadata_csum,^orphan_file -m 0 -i 8192 -d merged image.ext4 \
    $(($(du -sm --apparent-size merged | cut -f1) * 13 / 10 + 300))M
umount merged
"""


@dataclass(frozen=True)
class Userland:
    """A Debian release that can be booted."""

    release: str
    versions: dict[str, str]
    key: str
    image: Path


def wheel(target: Path) -> Path:
    """Build a wheel from the checkout, and write the wheel into the folder `target`."""
    hatchling = ROOT / ".venv/bin/hatchling"
    subprocess.run([hatchling, "build", "-t", "wheel", "-d", target], cwd=ROOT, check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    return path


def product(target: Path) -> str:
    """Unpack the wheel into the folder `target`. Return a key that depends on the names and the contents of the wheel's
    files."""
    with zipfile.ZipFile(wheel(target)) as archive:
        archive.extractall(target)
        names = sorted(archive.namelist())
        key = digest(*(part for name in names for part in (name, archive.read(name))))
    next(target.glob("*.whl")).unlink()
    return key


def userland(release: str) -> Userland:
    """Return the image of a release. The image is created if the packages, the dependencies or the recipe have
    changed."""
    versions = suite(release).versions([*_PRODUCT, *_TESTS, *_SHOWN])
    pins = [(ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    key = digest(_BUILD, *(f"{name}={version}" for name, version in versions.items()), *pins)
    home = kept(f"images/{release}", key, lambda new: _make(release, new))
    return Userland(release, versions, key, home / "image.ext4")


def _make(release: str, new: Path) -> None:
    (new / "sources.list").write_text(sources(release))
    (new / "merged").mkdir()
    (new / "wheel").mkdir()
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    script = _BUILD.format(
        new=new,
        tree=tree(release),
        certificates=os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
        wheel=wheel(new / "wheel"),
        constraints=ROOT / "constraints.txt",
        sources=new / "sources.list",
        proxies=shlex.join(f"{name}={value}" for name, value in proxies.items()),
        packages=" ".join([*_PRODUCT, *_TESTS]),
        venv=VENV,
    )
    log = folder() / f"{release}.image.log"
    command = ["setpriv", "--pdeathsig", "KILL"]
    command += ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    with log.open("w") as output:
        done = subprocess.run(
            [*command, "sh", "-exc", script], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        last = "".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        raise VmError(f"the image of {release} could not be created: {last} (all output is in {log})")
    for name in ("upper", "work", "wheel"):
        shutil.rmtree(new / name)
    (new / "merged").rmdir()
    (new / "sources.list").unlink()
