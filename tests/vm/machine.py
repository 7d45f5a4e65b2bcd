# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel with a userland in QEMU, without KVM, and collects the results of its tests."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.vm.cache import VmError, folder
from tests.vm.images import ROOT, VENV, Userland
from tests.vm.kernels import Kernel

Result = dict[str, Any]

_MEMORY_MB = 2048
_CPUS = 2
_BOOT_S = 180  # The time limit for the first result.
_BOOTS = 3  # The maximum number of boots of a machine that does not start its tests.
_LIMIT_S = 3600
_APPEND = "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on"
# There are two cards of each kind. Each pair is connected by a wire of its own.
_CARDS = ("e1000e", "virtio-net-pci")
_INIT = f"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm /dev/net /run/netns
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname vm
ip link set lo up
site=$(echo {VENV}/lib/python3*/site-packages)
rm -rf $site/otel_epping $site/otel_epping-*
cp -r /share/product/. $site
cp -r /share/tests /opt/tests
cd /tmp
PYTHONPATH=/opt {VENV}/bin/python -m tests.vm.guest
dmesg > /share/dmesg
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


class Machine:
    """A virtual machine with a kernel and a userland. The machine keeps no data, so each run starts with the same
    disks."""

    def __init__(self, kernel: Kernel, userland: Userland) -> None:
        self.kernel = kernel
        self.userland = userland

    def run(self, share: Path, tests: list[str], tell: Callable[[Result], None]) -> None:
        """Boot with a folder from `share()`, run the tests, and pass each result to `tell` as soon as it arrives.

        If the machine does not reach the end of its tests, a red result is passed to `tell`. If the machine does not
        even start its tests, the machine is booted again, because QEMU's emulator has a fault: QEMU sometimes executes
        an instruction while another CPU of the guest changes the instruction. Then the guest's kernel panics.
        """
        (share / "plan.json").write_text(json.dumps(tests))
        (share / "results.jsonl").touch()
        seen: list[Result] = []
        for _ in range(_BOOTS):
            for result in self._results(share):
                seen.append(result)
                tell(result)
            if seen:
                break
        if not seen or (seen[-1]["test"], seen[-1]["name"]) != ("machine", "end"):
            last = (share / "console").read_text(errors="replace").strip().splitlines()[-1:]
            text = f"the machine did not reach the end of its tests; its console ends with: {''.join(last)}"
            tell({"test": "machine", "name": "end", "ok": False, "text": text})

    def _results(self, share: Path) -> Iterator[Result]:
        """Boots, and yields the results until the machine ends, or until it has written no result for too long."""
        lines = share / "results.jsonl"
        with (share / "console").open("w") as console:
            command = self._command(share)
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        began = time.monotonic()
        try:
            with lines.open() as file:
                pending, running = "", True
                while running:
                    running = process.poll() is None
                    pending += file.read()
                    *whole, pending = pending.split("\n")
                    yield from map(json.loads, whole)
                    silent = not lines.stat().st_size and time.monotonic() - began > _BOOT_S
                    if silent or time.monotonic() - began > _LIMIT_S:
                        break
                    time.sleep(0.5)
        finally:
            process.kill()
            process.wait()

    def _command(self, share: Path) -> list[str]:
        disks = [self.userland.image, self.kernel.modules]
        command = ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "10", "qemu-system-x86_64"]
        command += ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", str(_CPUS), "-m", str(_MEMORY_MB)]
        command += ["-nographic", "-no-reboot", "-kernel", str(self.kernel.image)]
        command += ["-initrd", str(self.kernel.initramfs), "-append", _APPEND]
        for disk in disks:
            command += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on"]
        command += ["-virtfs", f"local,path={share},mount_tag=share,security_model=none", "-nic", "none"]
        for hub, card in enumerate(_CARDS):
            for side in ("near", "far"):
                command += ["-netdev", f"hubport,id={side}{hub},hubid={hub}"]
                command += ["-device", f"{card},netdev={side}{hub},mac=52:54:00:00:0{hub}:0{1 + (side == 'far')}"]
        return command


@contextmanager
def share(product: Path, captures: Path, name: str) -> Iterator[Path]:
    """Create the folder that is shared with a machine. Files that the machine writes into this folder are kept until
    the next run of the machine."""
    path = folder() / "runs" / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "init").write_text(_INIT)
    shutil.copytree(product, path / "product")
    shutil.copytree(captures, path / "captures")
    shutil.copytree(ROOT / "tests/vm", path / "tests/vm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "support/__init__.py", "support/unprivileged.py"):
        (path / "tests" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, path / "tests" / name)
    try:
        yield path
    finally:
        for given in ("product", "captures", "tests"):
            shutil.rmtree(path / given)


def require_qemu() -> None:
    """Raises VmError if QEMU is not installed."""
    if not shutil.which("qemu-system-x86_64"):
        raise VmError("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
