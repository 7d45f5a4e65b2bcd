# SPDX-License-Identifier: Apache-2.0
"""Bytes at the same place of many packets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otel_epping.replay.capture.batch import Bytes, Numbers

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """Packets in a buffer: each has the bytes from `starts` up to `ends`. Arrays have one row per packet.

    A place is counted from the start of the packet. What is read beyond the end of a packet is 0.
    """

    buffer: Bytes
    starts: Numbers
    ends: Numbers

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: Mask) -> "View":
        """Some of the packets."""
        return View(self.buffer, self.starts[which], self.ends[which])

    def behind(self, size: int | Numbers) -> "View":
        """The packets without their first bytes."""
        return View(self.buffer, self.starts + size, self.ends)

    def zeros(self) -> Numbers:
        """A zero for each packet."""
        return np.zeros_like(self.starts)

    def byte(self, place: int | Numbers) -> Numbers:
        """The byte at this place."""
        at = self.starts + place
        inside = (at >= 0) & (at < self.ends)
        found: Numbers = np.where(inside, self.buffer[np.where(inside, at, 0)], 0).astype(np.int64)
        return found

    def big(self, place: int | Numbers, size: int = 2) -> Numbers:
        """An unsigned number of `size` bytes in network byte order."""
        number = self.zeros()
        for offset in range(size):
            number = number << 8 | self.byte(place + offset)
        return number

    def little(self, place: int | Numbers, size: int) -> Numbers:
        """An unsigned number of `size` bytes, the least first."""
        number = self.zeros()
        for offset in reversed(range(size)):
            number = number << 8 | self.byte(place + offset)
        return number


@dataclass(frozen=True)
class Meaning:
    """What link headers say, per packet.

    sizes       bytes of the link header
    ethertypes  EtherType of what follows the link header, or UNKNOWN
    trailers    bytes at the end of the frame that do not belong to the packet
    """

    sizes: Numbers
    ethertypes: Numbers
    trailers: Numbers | int = 0

    def behind(self, size: int | Numbers) -> "Meaning":
        """The same for packets that have `size` more bytes in front."""
        return Meaning(self.sizes + size, self.ethertypes, self.trailers)


Reader = Callable[[View], Meaning]

UNKNOWN = 0
IPV4, IPV6, MPLS, MPLS_MULTICAST, PPPOE_SESSION = 0x0800, 0x86DD, 0x8847, 0x8848, 0x8864
ETHERNET_HEADER = 14


def table(size: int, meanings: dict[int, int]) -> Numbers:
    """What numbers below `size` mean."""
    found = np.full(size, UNKNOWN)
    for value, meaning in meanings.items():
        found[value] = meaning
    return found


def fixed(size: int, ethertypes: Numbers) -> Meaning:
    """Headers of one size."""
    return Meaning(np.full_like(ethertypes, size), ethertypes)


def choose(condition: Mask, yes: Meaning, no: Meaning) -> Meaning:
    """`yes` where the condition is true, `no` elsewhere."""
    return Meaning(
        np.where(condition, yes.sizes, no.sizes),
        np.where(condition, yes.ethertypes, no.ethertypes),
        np.where(condition, yes.trailers, no.trailers),
    )


def known(condition: Mask, meaning: Meaning) -> Meaning:
    """The same meaning, but with the EtherType UNKNOWN where the condition is false."""
    return Meaning(meaning.sizes, np.where(condition, meaning.ethertypes, UNKNOWN), meaning.trailers)
