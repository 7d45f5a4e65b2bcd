# SPDX-License-Identifier: Apache-2.0
"""Connects two hosts by a link, which delays each packet by half of the RTT of the packet's server subnet.

The kernel module for delays, netem, is often missing. So the link consists of a process and of two TAP devices, one in
each namespace. The process reads frames from one device, keeps them until they are due, and writes them to the other
device. A TAP device without a virtio header has no offloads: the kernel segments and checksums packets before it passes
them on, so no frame is larger than the MTU.

The server's address selects the delay. A packet from the near side has the server's address as its destination address.
A packet to the near side has the server's address as its source address. Packets without an address of a server subnet
(ARP, neighbour discovery, other networks) are not delayed. The delay starts when the process reads the packet, and no
packet leaves early. So no RTT measured at the near end is shorter than the configured delay. All packets of one subnet
have the same delay, so the link does not reorder packets of the same subnet.

The rate of a subnet can be limited. Then the packets of the subnet wait in a queue before they are delayed. Each
direction has its own queue. A packet that would wait for more than 0.15 s is dropped.

`DelayedLink` creates the devices and starts the process (`python -m otel_epping.lab.delayed_link`). The process holds
the only descriptors of the devices, so the kernel removes the devices when the process ends. Before the process ends,
it prints its `LinkStatistics`.
"""

import fcntl
import gc
import heapq
import ipaddress
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path

from otel_epping.lab.namespaces import LabError, Namespace

__all__ = ["DelayedLink", "DelayedNetwork", "IPNetwork", "LinkStatistics"]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_QUEUE_LIMIT = 20_000  # packets: 30 MB if each packet has 1500 bytes; the process forwards 20,000 packets in 4 s
_BOTTLENECK_NS = 150_000_000  # maximum time of a packet in the queue of a subnet with a limited rate
_READS_PER_TURN = 32  # maximum number of frames that are read from a device before due packets are written
_FRAME_SIZE = 65536
_RECENT = 10_000  # number of packets whose lateness LinkStatistics reports


@dataclass(frozen=True)
class DelayedNetwork:
    """A server subnet, and how the link treats the packets of this subnet.

    delay_ns    the RTT that the link adds, ns
    bits_per_s  the maximum rate in each direction; None means that the rate is not limited
    """

    subnet: IPNetwork
    delay_ns: int
    bits_per_s: int | None = None


@dataclass(frozen=True)
class LinkStatistics:
    """The numbers of packets, the lateness of the last 10,000 packets, and the CPU time; all times in ns.

    `dropped_at_rate` counts the packets that did not fit into the queue of a subnet with a limited rate. The lateness
    of a packet is the time from the packet's due time until the packet is forwarded.
    """

    forwarded: int
    dropped_queue_full: int
    dropped_at_rate: int
    dropped_write_failed: int
    late_median_ns: int
    late_p99_ns: int
    cpu_ns: int


class DelayedLink:
    """Connects the interface `near_name` in `near` to the interface `far_name` in `far`, the namespace of the servers.

    The constructor creates the interfaces, which are down and have no addresses. Set the interfaces up, then call
    `start()`. Packets that the interfaces send before `start()` are queued in the kernel. Raises LabError if
    /dev/net/tun is missing.
    """

    def __init__(
        self, near: Namespace, near_name: str, far: Namespace, far_name: str, networks: Sequence[DelayedNetwork]
    ) -> None:
        self._namespace = near
        self._networks = networks
        self._near = _open_tap(near, near_name)
        self._far = _open_tap(far, far_name)

    def start(self) -> None:
        """Starts the process, and waits until the process can forward packets. Raises LabError if the process fails."""
        table = json.dumps([[str(each.subnet), each.delay_ns, each.bits_per_s] for each in self._networks])
        with self._near, self._far:  # the child process inherits the descriptors, which keep the TAP devices alive
            taps = [self._near.fileno(), self._far.fileno()]
            argv = [sys.executable, "-m", "otel_epping.lab.delayed_link", *map(str, taps), table]
            self._process = self._namespace.popen(argv, pass_fds=taps, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise LabError(f"the delay link did not start (exit status {self._process.wait()})")

    def stop(self) -> LinkStatistics:
        """Stops the process, and returns its statistics. Raises LabError if the process has failed."""
        self._process.terminate()
        stdout, _ = self._process.communicate()
        if self._process.returncode:
            raise LabError(f"the delay link ended early, with status {self._process.returncode}")
        return LinkStatistics(**json.loads(stdout))


def _open_tap(namespace: Namespace, name: str) -> FileIO:
    """Creates a TAP device in `namespace`, and returns its file.

    The kernel removes the device after the file and all duplicates of its descriptor are closed.
    """
    try:
        with namespace.entered():
            tap = FileIO("/dev/net/tun", "r+")
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
    except OSError as error:
        raise LabError(f"cannot create the TAP device {name}: {error.strerror} (try `modprobe tun`)") from error
    os.set_blocking(tap.fileno(), False)
    return tap


class _DelayQueue:
    """Reads frames from both devices, keeps them in a heap ordered by due time, and writes frames that are due."""

    def __init__(self, near: int, far: int, networks: Sequence[DelayedNetwork]) -> None:
        self._near, self._far = near, far
        self._networks = networks
        self._network_of = lru_cache(maxsize=4096)(self._look_up)
        # For each target descriptor and subnet with a limited rate: the time in ns when the queue will be empty.
        self._empty_ns: dict[tuple[int, DelayedNetwork], int] = {}
        # (due time in ns, sequence number, target descriptor, frame). The sequence number orders frames with equal due
        # times.
        self._waiting: list[tuple[int, int, int, bytes]] = []
        self._accepted = 0
        self._forwarded = self._queue_full = self._dropped_at_rate = self._write_failed = 0
        self._late_ns: deque[int] = deque(maxlen=_RECENT)

    def run(self) -> None:
        """Forwards frames until a signal handler raises SystemExit."""
        taps = [self._near, self._far]
        while True:
            timeout = max(0, self._waiting[0][0] - time.monotonic_ns()) / 1e9 if self._waiting else None
            # Uses select(), because the timeouts of poll() and epoll() are whole milliseconds.
            for tap in select.select(taps, [], [], timeout)[0]:
                self._read(tap)
            self._write_due()

    def _read(self, tap: int) -> None:
        target = self._far if tap == self._near else self._near
        for _ in range(_READS_PER_TURN):
            try:
                frame = os.read(tap, _FRAME_SIZE)
            except BlockingIOError:
                return
            now_ns = time.monotonic_ns()
            if len(self._waiting) >= _QUEUE_LIMIT:
                self._queue_full += 1
                if self._queue_full == 1:
                    print(f"delay link: queue of {_QUEUE_LIMIT} packets is full, dropping", file=sys.stderr, flush=True)
                continue
            network = self._network_of(_server_address(frame, to_server=tap == self._near))
            due_ns = now_ns
            if network is not None:
                if network.bits_per_s is not None:
                    empty_ns = max(now_ns, self._empty_ns.get((target, network), 0))
                    if empty_ns > now_ns + _BOTTLENECK_NS:
                        self._dropped_at_rate += 1
                        continue
                    due_ns = empty_ns + len(frame) * 8 * 10**9 // network.bits_per_s
                    self._empty_ns[target, network] = due_ns
                due_ns += (network.delay_ns + 1) // 2
            self._accepted += 1
            heapq.heappush(self._waiting, (due_ns, self._accepted, target, frame))

    def _write_due(self) -> None:
        while self._waiting and self._waiting[0][0] <= (now_ns := time.monotonic_ns()):
            due_ns, _, target, frame = heapq.heappop(self._waiting)
            try:
                os.write(target, frame)
            except OSError:  # the interface is down
                self._write_failed += 1
                continue
            self._forwarded += 1
            self._late_ns.append(now_ns - due_ns)

    def _look_up(self, packed: bytes) -> DelayedNetwork | None:
        """Returns the most specific server subnet that contains an address, or None if there is no such subnet."""
        if not packed:
            return None
        address = ipaddress.ip_address(packed)
        matches = [network for network in self._networks if address in network.subnet]
        return max(matches, key=lambda network: network.subnet.prefixlen, default=None)

    def statistics(self) -> LinkStatistics:
        """Returns the statistics so far."""
        late_ns = sorted(self._late_ns) or [0]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return LinkStatistics(
            forwarded=self._forwarded,
            dropped_queue_full=self._queue_full,
            dropped_at_rate=self._dropped_at_rate,
            dropped_write_failed=self._write_failed,
            late_median_ns=late_ns[len(late_ns) // 2],
            late_p99_ns=late_ns[len(late_ns) * 99 // 100],
            cpu_ns=round((usage.ru_utime + usage.ru_stime) * 1e9),
        )


def _server_address(frame: bytes, to_server: bool) -> bytes:
    """Returns the packed IP address of the server to or from which an Ethernet frame is sent.

    Returns no bytes if the frame contains no IPv4 or IPv6 packet.
    """
    ethertype = frame[12:14]
    if ethertype == b"\x08\x00":
        return frame[30:34] if to_server else frame[26:30]
    if ethertype == b"\x86\xdd":
        return frame[38:54] if to_server else frame[22:38]
    return b""


def _main() -> None:
    near, far, table = sys.argv[1:]
    networks = [DelayedNetwork(ipaddress.ip_network(subnet), *numbers) for subnet, *numbers in json.loads(table)]
    forwarder = _DelayQueue(int(near), int(far), networks)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    Path("/proc/self/timerslack_ns").write_text(
        "1", encoding="utf-8"
    )  # the default timer slack, 50 us, would lengthen each delay
    gc.disable()  # garbage collection would pause the process, and there are no reference cycles to collect
    print("forwarding", flush=True)
    try:
        forwarder.run()
    finally:
        print(json.dumps(asdict(forwarder.statistics())))


if __name__ == "__main__":
    _main()
