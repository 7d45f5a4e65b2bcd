# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces that are connected by a veth pair, and bursts of packets between them.

The measured programs are attached to the interface `b0`, which is the near end.
"""

import ctypes
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.packets import Bytes
from otel_epping.lab.namespaces import LabError, Namespace

INTERFACE, FAR_INTERFACE = "b0", "b1"
NEAR, FAR = "10.8.0.1", "10.8.0.2"
# The server subnets: 198.18.0.0/24 and the subnets after it (RFC 2544). The near end has a route to these subnets
# through the far end.
SUBNETS = [f"198.18.{number}" for number in range(128)]

_libc = ctypes.CDLL(None, use_errno=True)


class Counted(NamedTuple):
    """Counters of an interface: the packets in both directions together, and the bytes in both directions together."""

    packets: int
    bytes: int


class VethPair:
    """A context manager for two network namespaces and the veth pair between them.

    No packet is larger than the MTU, so programs see no aggregates of segments. If `serving` is true, the far end has
    the address .10 in each subnet of SUBNETS. Otherwise the far end drops packets to SUBNETS.
    """

    def __init__(self, *, serving: bool = False) -> None:
        with ExitStack() as undo:
            self.far = undo.enter_context(Namespace("far"))
            self.near = undo.enter_context(Namespace("near"))
            segments = "gso_max_segs 1"  # without this limit, TCP sends aggregates of up to 64 kB
            self.near.ip(
                f"link add {INTERFACE} {segments} type veth peer name {FAR_INTERFACE} {segments} netns {self.far.path}",
                f"address add {NEAR}/24 dev {INTERFACE}",
                f"link set {INTERFACE} up",
            )
            self.far.ip(
                f"address add {FAR}/24 dev {FAR_INTERFACE}",
                f"link set {FAR_INTERFACE} up",
                *(f"address add {subnet}.10 dev lo" for subnet in SUBNETS if serving),
            )
            self.near.ip(f"route add 198.18.0.0/15 via {FAR}")
            with self.near.entered():
                self.ifindex = socket.if_nametoindex(INTERFACE)
            self._undo = undo.pop_all()

    def __enter__(self) -> "VethPair":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def counted(self) -> Counted:
        """Returns the packets and bytes that the kernel has counted on b0 so far."""
        with self.near.entered():
            table = Path("/proc/thread-self/net/dev").read_text()
        numbers = [int(word) for word in table.partition(f"{INTERFACE}:")[2].split("\n")[0].split()]
        return Counted(numbers[1] + numbers[9], numbers[0] + numbers[8])

    def raw(self, *, near: bool) -> socket.socket:
        """Returns a socket that sends frames.

        If `near` is true, the frames leave b0. Otherwise the far end sends the frames to b0.
        """
        with (self.near if near else self.far).entered():
            sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind((INTERFACE if near else FAR_INTERFACE, 0))
        return sender


class Burst:
    """Packets to send. One system call (sendmmsg) sends up to 1,024 packets.

    If `names` is empty, the packets are frames. Otherwise the packets are datagrams to the addresses in `names` (struct
    sockaddr).
    """

    _AT_ONCE = 1024  # UIO_MAXIOV
    # struct mmsghdr and struct iovec
    _MESSAGE = np.dtype(
        {
            "names": ["name", "name_length", "vector", "vectors"],
            "formats": [np.uint64, np.uint32, np.uint64, np.uint64],
            "offsets": [0, 8, 16, 24],
            "itemsize": 64,
        }
    )
    _VECTOR = np.dtype([("base", np.uint64), ("length", np.uint64)])

    def __init__(
        self, sender: socket.socket, rows: Bytes, sizes: npt.NDArray[np.uint32] | int, names: bytes = b""
    ) -> None:
        self._sender, self._rows, self._names = sender, rows, np.frombuffer(names, np.uint8)
        count = len(rows)
        self._vectors = np.zeros(count, self._VECTOR)
        self._vectors["base"] = rows.ctypes.data + rows.strides[0] * np.arange(count)
        self._vectors["length"] = sizes
        self._messages = np.zeros(count, self._MESSAGE)
        self._messages["vector"] = self._vectors.ctypes.data + self._VECTOR.itemsize * np.arange(count)
        self._messages["vectors"] = 1
        if names:
            length = len(names) // count
            self._messages["name"] = self._names.ctypes.data + length * np.arange(count)
            self._messages["name_length"] = length

    def send(self) -> None:
        """Sends all packets. Raises LabError if the kernel does not accept a packet."""
        sent = 0
        while sent < len(self._messages):
            at_once = min(self._AT_ONCE, len(self._messages) - sent)
            messages = self._messages.ctypes.data + self._MESSAGE.itemsize * sent
            more = _libc.sendmmsg(self._sender.fileno(), ctypes.c_void_p(messages), at_once, 0)
            if more <= 0:
                raise LabError(f"cannot send packets: sendmmsg failed with errno {ctypes.get_errno()}")
            sent += more


def datagrams(sender: socket.socket, flows: int, payload: int) -> Burst:
    """Returns one datagram for each of `flows` flows. The flows go to servers in all subnets of SUBNETS."""
    names = b"".join(
        struct.pack("=H", socket.AF_INET)
        + struct.pack("!H", 6000 + number // len(SUBNETS))
        + socket.inet_aton(f"{SUBNETS[number % len(SUBNETS)]}.20")
        + bytes(8)
        for number in range(flows)
    )
    return Burst(sender, np.zeros((flows, payload), np.uint8), payload, names)
