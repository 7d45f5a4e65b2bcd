# SPDX-License-Identifier: Apache-2.0
"""Packets as they come out of a capture: some thousand at a time, as arrays.

A Python object for each packet would cost as much as all that is done with it. So readers only walk from record to
record, one by one, and everything else is done by numpy for the whole batch.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

# As many as keep numpy busy, and what is made of them in the processor's cache.
MAX_PACKETS = 4096
# libpcap's MAXIMUM_SNAPLEN: a record that claims more is none.
MAX_CAPTURED = 262_144
UNTIMED_NS = 0


@dataclass(frozen=True)
class Batch:
    """Consecutive packets of a capture; good until the next batch is asked for, which takes the buffer again.

    Arrays have one row per packet:

    buffer       the bytes of the packets, and of more
    offset       where in the capture the buffer's first byte stands
    starts       where in the buffer each packet begins
    captured     bytes of it that are there
    original     bytes that it had on the wire
    times_ns     Unix time; UNTIMED_NS if the capture has no time, or one that cannot be right: the beginning of
                 1970 or before, later than 64 bits hold (2262), or a fraction of more than a second
    links        LINKTYPE_ values (https://www.tcpdump.org/linktypes.html)
    """

    buffer: Bytes
    offset: int
    starts: Numbers
    captured: Numbers
    original: Numbers
    times_ns: Numbers
    links: Numbers

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: slice | npt.NDArray[np.bool_]) -> "Batch":
        """Some of the packets."""
        names = ("starts", "captured", "original", "times_ns", "links")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


def without_trailers(captured: Numbers, original: Numbers, sizes: Numbers | int) -> tuple[Numbers, Numbers]:
    """Both lengths of packets without `sizes` bytes at their ends, which the snap length may have cut off already."""
    original = np.maximum(original - sizes, 0)
    return np.where(np.greater(sizes, 0), np.minimum(captured, original), captured), original


def words(buffer: Bytes, at: Numbers, count: int, order: str) -> Numbers:
    """(len(at), count) unsigned 32-bit words that stand at each of these places; `order` is < or >."""
    found: Numbers = buffer[at[:, None] + np.arange(4 * count)].view(f"{order}u4").astype(np.int64)
    return found
