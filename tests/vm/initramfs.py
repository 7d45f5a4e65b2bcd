# SPDX-License-Identifier: Apache-2.0
"""The initramfs of a machine: busybox, the modules for its disks, and a script that mounts the disks."""

import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path

_MODULES = ("virtio_pci", "virtio_blk", "ext4", "overlay", "9p", "9pnet_virtio")
_BUSYBOX = Path("/bin/busybox")
# The disks are not changed, because the guest writes to memory instead. The checkout is in the share, which is a 9p
# file system. The script copies the checkout to another file system, because the agent restricts itself with Landlock,
# and Landlock does not support 9p.
_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules); do insmod $module; done
mount -t ext4 -o ro,noload /dev/vda /disk
mount -t tmpfs -o size=60% tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/disk,upperdir=/memory/upper,workdir=/memory/work overlay /root
mkdir -p /root/usr/lib/modules /root/share
mount -t ext4 -o ro,noload /dev/vdb /root/usr/lib/modules
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /root/share
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
exec switch_root /root /bin/sh /share/init
"""


def recipe() -> list[str]:
    """Return all inputs that determine an initramfs, except the kernel."""
    return [_INIT, *_MODULES]


def make(usr: Path, release: str, target: Path) -> None:
    """Write the initramfs of a kernel. The modules of the kernel are in `usr`/lib/modules/`release`. depmod must have
    been run on these modules."""
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("bin", "dev", "disk", "memory", "proc", "root", "sys", "lib"):
            (root / folder).mkdir()
        shutil.copy(_BUSYBOX, root / "bin")
        files = list(dict.fromkeys(path for module in _MODULES for path in _with_dependencies(usr, release, module)))
        names = [f"/lib/{number:02d}-{path.name.partition('.')[0]}.ko" for number, path in enumerate(files)]
        for path, inside in zip(files, names, strict=True):
            (root / inside[1:]).write_bytes(_content(path))
        (root / "modules").write_text("\n".join(names))
        (root / "init").write_text(_INIT)
        (root / "init").chmod(0o755)
        listed = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with target.open("wb") as output:
            command = ["cpio", "--create", "--format=newc", "--quiet"]
            subprocess.run(command, cwd=root, input=listed.encode(), stdout=output, check=True)


def _with_dependencies(usr: Path, release: str, module: str) -> list[Path]:
    """Return the files of a module and of its dependencies. Dependencies come first. A built-in module has no file."""
    command = ["modprobe", "--dirname", str(usr), "--set-version", release, "--show-depends", module]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(line.split()[1]) for line in lines if line.startswith("insmod ")]


def _content(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
