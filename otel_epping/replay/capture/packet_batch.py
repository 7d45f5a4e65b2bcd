# SPDX-License-Identifier: Apache-2.0
"""Represents up to MAX_PACKETS packets of a capture as numpy arrays.

The creation of a Python object for a packet would take as much time as all other processing of the packet. So the
reader of a file format finds the records with Python code, and processes all packets of a batch together with numpy.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

# A batch is so large that the overhead of numpy calls is small for each packet, and so small that intermediate arrays
# fit into the processor's cache.
MAX_PACKETS = 4096
# Maximum number of captured bytes per packet, as in libpcap (MAXIMUM_SNAPLEN). A file with a longer record counts as
# damaged.
MAX_CAPTURED = 262_144
UNTIMED_NS = 0


@dataclass(frozen=True)
class PacketBatch:
    """Consecutive packets of a capture.

    A batch is valid until the next batch is requested, because the next batch reuses the buffer.

    `buffer` has the shape (bytes,). All other arrays have the shape (packets,):

    buffer       bytes of the packets, and other bytes between the packets
    offset       position of the buffer's first byte in the (decompressed) capture
    starts       index in `buffer` of each packet's first byte
    captured     number of captured bytes of each packet
    original     number of bytes of each packet on the wire
    times_ns     Unix time in ns; UNTIMED_NS if the timestamp is missing or invalid. A timestamp is invalid if it is
                 1970-01-01 00:00 or earlier, or if it needs more than 63 bits in ns (after April 2262). A timestamp of
                 pcap is also invalid if the field for the fraction of a second contains a second or more.
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
        """Returns a batch of the selected packets, which uses the same buffer."""
        names = ("starts", "captured", "original", "times_ns", "link_types")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


def without_trailers(
    captured: Int64Array, original: Int64Array, sizes: Int64Array | int
) -> tuple[Int64Array, Int64Array]:
    """Returns the captured and original lengths that packets have without their last `sizes` bytes.

    If the snap length has already cut off the last `sizes` bytes, the captured length does not change.
    """
    original = np.maximum(original - sizes, 0)
    return np.where(np.greater(sizes, 0), np.minimum(captured, original), captured), original


def words(buffer: Bytes, at: Int64Array, count: int, order: str) -> Int64Array:
    """Returns `count` consecutive unsigned 32-bit words from each index in `at`, as an array of shape (len(at), count).

    `order` is the byte order: < means little-endian, > means big-endian.
    """
    found: Int64Array = buffer[at[:, None] + np.arange(4 * count)].view(f"{order}u4").astype(np.int64)
    return found
