# SPDX-License-Identifier: Apache-2.0
"""Packets of a capture as numpy arrays, some thousand at a time.

A Python object per packet would cost as much as all other processing. So a format's reader only walks from record to
record in Python, and numpy does everything else for the whole batch.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

# Enough packets per numpy call, and few enough that intermediate arrays stay in the processor's cache.
MAX_PACKETS = 4096
# libpcap's MAXIMUM_SNAPLEN. A record with a greater length is treated as damage.
MAX_CAPTURED = 262_144
UNTIMED_NS = 0


@dataclass(frozen=True)
class PacketBatch:
    """Consecutive packets of a capture. Valid until the next batch is requested, which reuses the buffer.

    Each array has the shape (packets,):

    buffer       bytes of the packets, and other bytes between them; shape (bytes,)
    offset       position of the buffer's first byte in the (decompressed) capture
    starts       index in `buffer` of each packet's first byte
    captured     bytes of each packet that were captured
    original     bytes of each packet on the wire
    times_ns     Unix time in ns; UNTIMED_NS if the capture has no timestamp, or an invalid one: 1970-01-01 00:00 or
                 before, more than 63 bits of ns (after the year 2262), or a fraction of a second or more
    link_types   LINKTYPE_ values (https://www.tcpdump.org/linktypes.html)
    """

    buffer: Bytes
    offset: int
    starts: Int64Array
    captured: Int64Array
    original: Int64Array
    times_ns: Int64Array
    link_types: Int64Array

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: slice | npt.NDArray[np.bool_]) -> "PacketBatch":
        """Returns a batch of the selected packets, over the same buffer."""
        names = ("starts", "captured", "original", "times_ns", "link_types")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


def without_trailers(
    captured: Int64Array, original: Int64Array, sizes: Int64Array | int
) -> tuple[Int64Array, Int64Array]:
    """Returns captured and original lengths of packets without the last `sizes` bytes.

    The snap length may have cut these bytes off already; then the captured length stays as it is.
    """
    original = np.maximum(original - sizes, 0)
    return np.where(np.greater(sizes, 0), np.minimum(captured, original), captured), original


def words(buffer: Bytes, at: Int64Array, count: int, order: str) -> Int64Array:
    """Returns unsigned 32-bit words, shape (len(at), count): `count` consecutive words from each index in `at`.

    `order` is the byte order: < for little-endian, > for big-endian.
    """
    found: Int64Array = buffer[at[:, None] + np.arange(4 * count)].view(f"{order}u4").astype(np.int64)
    return found
