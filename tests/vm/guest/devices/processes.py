# SPDX-License-Identifier: Apache-2.0
"""Interfaces whose packets are transported by a process: tun, tap and PPPoE."""

import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from otel_epping.lab.namespaces import Namespace
from tests.vm.guest.devices.site import Site, Watched
from tests.vm.guest.results import SHARE

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TUN, _TAP, _NO_INFORMATION = 1, 2, 0x1000
_PPP_S = 60.0
_PPP_OPTIONS = "noauth\nlcp-echo-interval 0\nnodefaultroute\nmtu 1492\nmru 1492\nnoccp\n"


def tun(site: Site) -> list[Watched]:
    return _carried(site, _TUN)


def tap(site: Site) -> list[Watched]:
    return _carried(site, _TAP)


def _carried(site: Site, mode: int) -> list[Watched]:
    """Create a device on each side. A thread transports the packets of each device in UDP over the underlying link."""
    site.under()
    device = f"{site.kind}7"
    subprocess.run(["modprobe", "tun"], check=True)
    for namespace, _, host, other in site.each():
        with namespace.entered():
            # The kernel creates the device in the namespace in which /dev/net/tun was opened.
            handle = os.open("/dev/net/tun", os.O_RDWR)
            carrier = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", device.encode(), mode | _NO_INFORMATION))
        carrier.bind((f"10.{site.number}.0.{host}", 9000))
        carrier.connect((f"10.{site.number}.0.{other}", 9000))
        threading.Thread(target=_carry, args=(handle, carrier), daemon=True).start()
        namespace.ip(f"link set {device} mtu 1400")
    site.up(device, device)
    return [site.watched(device, inner=False, inner_tunnels=False)]


def _carry(handle: int, carrier: socket.socket) -> None:
    while True:
        for ready in select.select([handle, carrier.fileno()], [], [])[0]:
            try:
                os.write(carrier.fileno() if ready == handle else handle, os.read(ready, 65536))
            except OSError:  # one of the sides is not up yet
                time.sleep(0.1)


def pppoe(site: Site) -> list[Watched]:
    """Run pppd and pppoe-server. The near side uses the PPPoE implementation of the kernel."""
    site.under(addresses=False)
    subprocess.run(["modprobe", "pppoe"], check=True)
    Path("/etc/ppp").mkdir(exist_ok=True)
    options = Path("/tmp/pppoe-server-options")
    options.write_text(_PPP_OPTIONS)
    ends = {host: f"10.{100 + site.number}.0.{host}" for host in (1, 2)}
    server = ["pppoe-server", "-F", "-I", site.far, "-L", ends[2], "-R", ends[1], "-O", str(options), "-N", "2"]
    _start(site.pair.far, server, "pppoe-server.log")
    time.sleep(2)
    client = ["pppd", "plugin", "pppoe.so", f"nic-{site.near}", "ifname", "ppp7", "nodetach", *_PPP_OPTIONS.split()]
    process = _start(site.pair.near, client, "pppd.log")
    deadline = time.monotonic() + _PPP_S
    while ends[1] not in site.pair.near.ip("address show"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no PPPoE session: {(SHARE / 'pppd.log').read_text()[-500:]}")
        time.sleep(0.5)
    return [site.watched("ppp7")]


def _start(namespace: Namespace, command: list[str], log: str) -> "subprocess.Popen[str]":
    with (SHARE / log).open("w") as output:
        return namespace.popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
