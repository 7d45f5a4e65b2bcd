# SPDX-License-Identifier: Apache-2.0
"""Reads pcap, the classic format of libpcap: a header, then records, each with a header of 16 bytes.

Source: draft-ietf-opsawg-pcap. Why not a library: dpkt keeps neither the original length of a packet nor the order of
bytes, and takes a file that is cut short for one that ends; scapy makes 10,000 packets a second.
"""

import struct
from collections.abc import Iterator

import numpy as np

from otel_epping.capture.batch import MAX_CAPTURED, MAX_PACKETS, Batch, words
from otel_epping.capture.stream import Stream

# First bytes of the file -> order of bytes, ns in a unit of the times' fraction.
MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_VERSION = 2
_FILE_HEADER = 24
_HEADER = 16
# The other bits tell the length of the frame check sequence.
_LINK_BITS = 0xFFFF


def batches(stream: Stream) -> Iterator[Batch]:
    """All packets. Raises CaptureError where the file ends in the middle of something, or makes no sense."""
    if not stream.fill(_FILE_HEADER):
        raise stream.error("is cut short in the header of the file", stream.end)
    order, unit_ns = MAGICS[bytes(stream.memory[stream.start : stream.start + 4])]
    version, link = struct.unpack_from(f"{order}4xH14xI", stream.memory, stream.start)
    if version != _VERSION:
        raise stream.error(f"version {version} of pcap is not known", stream.start + 4)
    stream.start += _FILE_HEADER
    while True:
        records = _walk(stream, order)
        if records:
            yield _batch(stream, records, order, unit_ns, link & _LINK_BITS)
        elif not _fill_record(stream, order):
            return


def _walk(stream: Stream, order: str) -> list[int]:
    """Where the whole records in the window begin; moves behind them."""
    memory, at, end = stream.memory, stream.start, stream.end
    captured_at = struct.Struct(f"{order}8xI").unpack_from
    found: list[int] = []
    while at + _HEADER <= end and len(found) < MAX_PACKETS:
        (captured,) = captured_at(memory, at)
        after = at + _HEADER + captured
        if after > end or captured > MAX_CAPTURED:
            break
        found.append(at)
        at = after
    stream.start = at
    return found


def _fill_record(stream: Stream, order: str) -> bool:
    """Reads until the next record is whole; False at the end of the file."""
    if not stream.fill(_HEADER):
        if stream.unread:
            raise stream.error("is cut short in the middle of a packet", stream.start)
        return False
    (captured,) = struct.unpack_from(f"{order}8xI", stream.memory, stream.start)
    if captured > MAX_CAPTURED:
        raise stream.error(f"is damaged: a packet of {captured} bytes", stream.start)
    if not stream.fill(_HEADER + captured):
        raise stream.error("is cut short in the middle of a packet", stream.start)
    return True


def _batch(stream: Stream, records: list[int], order: str, unit_ns: int, link: int) -> Batch:
    at = np.array(records)
    seconds, fraction, captured, original = words(stream.buffer, at, 4, order).T
    return Batch(
        buffer=stream.buffer,
        offset=stream.offset,
        starts=at + _HEADER,
        captured=captured,
        original=original,
        times_ns=np.maximum(seconds * 10**9 + fraction * unit_ns, 1),
        links=np.full(len(at), link),
    )
