# SPDX-License-Identifier: Apache-2.0
"""Reads the same header field of many packets in one numpy operation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otel_epping.replay.capture.packet_batch import Bytes, Int64Array

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PacketView:
    """Packets in a buffer: the bytes of packet i are `buffer[starts[i]:ends[i]]`.

    In the methods, the parameter `place` is an offset from the start of each packet: one number for all packets, or an
    array of shape (packets,). Each result has the shape (packets,). A byte at a place outside of the packet is read as
    0.
    """

    buffer: Bytes
    starts: Int64Array
    ends: Int64Array

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: Mask) -> "PacketView":
        """Returns a view of the selected packets."""
        return PacketView(self.buffer, self.starts[which], self.ends[which])

    def skip(self, size: int | Int64Array) -> "PacketView":
        """Returns a view of the packets without their first `size` bytes."""
        return PacketView(self.buffer, self.starts + size, self.ends)

    def zeros(self) -> Int64Array:
        """Returns an array with a zero for each packet."""
        return np.zeros_like(self.starts)

    def byte(self, place: int | Int64Array) -> Int64Array:
        """Returns the byte at `place`."""
        at = self.starts + place
        inside = (at >= 0) & (at < self.ends)
        found: Int64Array = np.where(inside, self.buffer[np.where(inside, at, 0)], 0).astype(np.int64)
        return found

    def big(self, place: int | Int64Array, size: int = 2) -> Int64Array:
        """Returns the unsigned number that is stored in `size` bytes at `place`, in big-endian byte order."""
        number = self.zeros()
        for offset in range(size):
            number = number << 8 | self.byte(place + offset)
        return number

    def little(self, place: int | Int64Array, size: int) -> Int64Array:
        """Returns the unsigned number that is stored in `size` bytes at `place`, in little-endian byte order."""
        number = self.zeros()
        for offset in reversed(range(size)):
            number = number << 8 | self.byte(place + offset)
        return number


@dataclass(frozen=True)
class LinkHeaders:
    """The link headers of many packets. Each array has the shape (packets,).

    sizes       number of bytes of the link header
    ethertypes  EtherType of the payload after the link header, or UNKNOWN
    trailers    number of bytes at the end of the frame that do not belong to the payload
    """

    sizes: Int64Array
    ethertypes: Int64Array
    trailers: Int64Array | int = 0

    def preceded_by(self, size: int | Int64Array) -> "LinkHeaders":
        """Returns these link headers with `size` additional bytes at the start."""
        return LinkHeaders(self.sizes + size, self.ethertypes, self.trailers)


HeaderReader = Callable[[PacketView], LinkHeaders]
"""Reads the link headers of packets that all have the same link type."""

UNKNOWN = 0
IPV4, IPV6, MPLS, MPLS_MULTICAST, PPPOE_SESSION = 0x0800, 0x86DD, 0x8847, 0x8848, 0x8864
ETHERNET_HEADER = 14


def lookup_table(size: int, ethertypes: dict[int, int]) -> Int64Array:
    """Returns an array of shape (size,) that maps protocol numbers to EtherTypes.

    A protocol number that `ethertypes` does not contain is mapped to UNKNOWN.
    """
    found = np.full(size, UNKNOWN)
    for number, ethertype in ethertypes.items():
        found[number] = ethertype
    return found


def fixed_size(size: int, ethertypes: Int64Array) -> LinkHeaders:
    """Returns link headers that are all `size` bytes long, for packets without trailers."""
    return LinkHeaders(np.full_like(ethertypes, size), ethertypes)


def choose(condition: Mask, yes: LinkHeaders, no: LinkHeaders) -> LinkHeaders:
    """Returns the headers in `yes` for packets whose condition is true, and the headers in `no` for other packets."""
    return LinkHeaders(
        np.where(condition, yes.sizes, no.sizes),
        np.where(condition, yes.ethertypes, no.ethertypes),
        np.where(condition, yes.trailers, no.trailers),
    )


def only_if(condition: Mask, headers: LinkHeaders) -> LinkHeaders:
    """Returns the headers, but sets the EtherType of packets whose condition is false to UNKNOWN."""
    return LinkHeaders(headers.sizes, np.where(condition, headers.ethertypes, UNKNOWN), headers.trailers)
