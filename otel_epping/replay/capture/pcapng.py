# SPDX-License-Identifier: Apache-2.0
"""Reads the packets of pcapng files. A file consists of sections, and a section consists of blocks.

Each section describes the interfaces of its packets. Only section header blocks, interface blocks and packet blocks are
read. All other blocks are skipped. The format is defined in draft-ietf-opsawg-pcapng.

No library is used. dpkt provides neither the original length of a packet nor the link type of the interface, and treats
a truncated file as complete. scapy reads only 10,000 packets per second.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from otel_epping.replay.capture.packet_batch import (
    MAX_PACKETS,
    UNTIMED_NS,
    Int64Array,
    PacketBatch,
    without_trailers,
    words,
)
from otel_epping.replay.capture.stream import WINDOW, Stream

MAGIC = b"\x0a\x0d\x0d\x0a"

# The block types. The type of a section header block is the same number in both byte orders.
_SECTION = 0x0A0D0D0A
_INTERFACE = 1
_OBSOLETE_PACKET = 2
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
# Number of bytes before the packet in each type of packet block.
_HEADERS = {_OBSOLETE_PACKET: 28, _SIMPLE_PACKET: 12, _ENHANCED_PACKET: 28}
_TRAILER = 4
_MIN_BLOCK = 12
_MIN_SECTION = 28
_MIN_INTERFACE = 20
_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_VERSION = 1

_END_OF_OPTIONS, _TSRESOL, _FCSLEN, _TSOFFSET = 0, 9, 13, 14
_MICROSECONDS = 6
_MAX_NS = 2**63 - 1
_WRAP = 2**64
_MAX_TICKS = _WRAP - 1


@dataclass(frozen=True)
class _CaptureInterface:
    link_type: int
    snap_length: int
    units_per_s: int
    offset_s: int
    check_sequence: int  # size in bytes of the frame check sequence at the end of each packet


@dataclass(frozen=True)
class _Section:
    order: str
    interfaces: list[_CaptureInterface] = field(default_factory=list)


def batches(stream: Stream) -> Iterator[PacketBatch]:
    """Yields all packets of a stream that begins with MAGIC.

    If a block is truncated or damaged, yields all packets before this block, and then raises CaptureError.
    """
    section = _Section("<")
    while True:
        kind, found = _walk(stream, section)
        if found:
            yield from _packets(stream, section, kind, np.array(found))
            continue
        if not stream.fill(_MIN_BLOCK):
            if stream.unread:
                raise stream.error("is truncated in the middle of a block", stream.start)
            return
        section = _process_block(stream, section)


def _walk(stream: Stream, section: _Section) -> tuple[int, list[int]]:
    """Returns the type of the next packet blocks, and the indexes of the complete packet blocks of this type.

    Moves the start of the window to the end of these packet blocks. Skips all blocks other than section, interface and
    packet blocks. Stops before a section block, an interface block, a packet block of another type, a damaged block, or
    an incomplete block.
    """
    memory, at, end = stream.memory, stream.start, stream.end
    head = struct.Struct(f"{section.order}II").unpack_from
    kind = 0
    found: list[int] = []
    while at + _MIN_BLOCK <= end and len(found) < MAX_PACKETS:
        block_type, length = head(memory, at)
        if length < _MIN_BLOCK or length & 3 or at + length > end or block_type in (_SECTION, _INTERFACE):
            break
        if block_type in _HEADERS:
            if length < _HEADERS[block_type] + _TRAILER or (found and block_type != kind):
                break
            kind = block_type
            found.append(at)
        at += length
    stream.start = at
    return kind, found


def _process_block(stream: Stream, section: _Section) -> _Section:
    """Processes the next block, and returns the section to which the following blocks belong.

    Reads a section or interface block. For a packet block, only fills the window until it contains the complete block.
    Skips any other block.
    """
    magic = bytes(stream.memory[stream.start + 8 : stream.start + 12])
    kind, length = struct.unpack_from(f"{section.order}II", stream.memory, stream.start)
    if kind == _SECTION:
        if magic not in _ORDERS:
            raise stream.error("is damaged: a section without byte-order magic", stream.start)
        section = _Section(_ORDERS[magic])
        _, length = struct.unpack_from(f"{section.order}II", stream.memory, stream.start)
    minimum = {_SECTION: _MIN_SECTION, _INTERFACE: _MIN_INTERFACE}.get(kind, _HEADERS.get(kind, 8) + _TRAILER)
    is_relevant = kind in (_SECTION, _INTERFACE) or kind in _HEADERS
    if length < minimum or length & 3 or (is_relevant and length > WINDOW):
        raise stream.error(f"is damaged: a block of {length} bytes", stream.start)
    begins = stream.offset + stream.start
    if not (stream.fill(length) if is_relevant else stream.skip(length)):
        raise stream.error("is truncated in the middle of a block", begins - stream.offset)
    if kind == _SECTION:
        (version,) = struct.unpack_from(f"{section.order}12xH", stream.memory, stream.start)
        if version != _VERSION:
            raise stream.error(f"has unsupported pcapng version {version}", stream.start)
    elif kind == _INTERFACE:
        section.interfaces.append(_interface(bytes(stream.memory[stream.start : stream.start + length]), section.order))
    if kind in (_SECTION, _INTERFACE):
        stream.start += length
    return section


def _interface(block: bytes, order: str) -> _CaptureInterface:
    link, snap_length = struct.unpack_from(f"{order}8xHxxI", block)
    resolution, offset_s, check_sequence = _MICROSECONDS, 0, 0
    at, end = 16, len(block) - _TRAILER
    while at + 4 <= end:
        code, length = struct.unpack_from(f"{order}HH", block, at)
        value = block[at + 4 : min(at + 4 + length, end)]
        if code == _END_OF_OPTIONS:
            break
        if code == _TSRESOL and len(value) == 1:
            resolution = value[0]
        elif code == _FCSLEN and len(value) == 1:
            check_sequence = value[0]
        elif code == _TSOFFSET and len(value) == 8:
            (offset_s,) = struct.unpack(f"{order}q", value)
        at += 4 + -(-length // 4) * 4
    # If the highest bit of the resolution is set, the number of time units per second is a power of 2. If the bit is
    # not set, the number of time units per second is a power of 10.
    units_per_s = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    return _CaptureInterface(link, snap_length, units_per_s, offset_s, check_sequence)


def _packets(stream: Stream, section: _Section, kind: int, at: Int64Array) -> Iterator[PacketBatch]:
    """Yields the packets of the complete blocks of type `kind` that start at the indexes `at`.

    If a block is damaged, yields the packets before this block, and then raises CaptureError.
    """
    header = _HEADERS[kind]
    fields = words(stream.buffer, at, header // 4, section.order).T
    length = fields[1]
    if kind == _SIMPLE_PACKET:
        original = fields[2]
        number = np.zeros_like(length)
        snap_length = section.interfaces[0].snap_length if section.interfaces else 0
        captured = np.minimum(original, length - header - _TRAILER)
        if snap_length:
            captured = np.minimum(captured, snap_length)
        ticks = None
    else:
        number, high, low, captured, original = fields[2:]
        if kind == _OBSOLETE_PACKET:  # interface number and drop count, 16 bits each
            number = number >> 16 if section.order == ">" else number & 0xFFFF
        ticks = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    closed = words(stream.buffer, at + length - _TRAILER, 1, section.order)[:, 0] == length
    sound = closed & (captured <= length - header - _TRAILER) & (number < len(section.interfaces))
    count = len(at) if sound.all() else int(np.argmin(sound))
    if count:
        number = number[:count]
        check_sequence = np.array([interface.check_sequence for interface in section.interfaces])[number]
        captured, original = without_trailers(captured[:count], original[:count], check_sequence)
        yield PacketBatch(
            buffer=stream.buffer,
            offset=stream.offset,
            starts=at[:count] + header,
            captured=captured,
            original=original,
            times_ns=np.full(count, UNTIMED_NS) if ticks is None else _times_ns(section, number, ticks[:count]),
            link_types=np.array([interface.link_type for interface in section.interfaces])[number],
        )
    if count < len(at):
        raise stream.error("is damaged: a packet block with inconsistent fields", int(at[count]))


def _times_ns(section: _Section, number: Int64Array, ticks: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Int64Array:
    """Returns the Unix times of packets in ns. An invalid time becomes UNTIMED_NS.

    `number` contains the interface number of each packet. The interface determines the resolution and the offset of the
    packet's time.
    """
    times_ns = np.full(len(number), UNTIMED_NS, np.int64)
    for each in np.unique(number).tolist():
        interface = section.interfaces[each]
        of_interface = number == each
        offset_ns = interface.offset_s * 10**9
        unit_ns, rest = divmod(10**9, interface.units_per_s)
        # If the time unit is a whole number of ns, numpy computes the times. For other time units, the times are
        # computed with Python integers, because Python integers do not overflow.
        if rest == 0:
            first, last = -(-(1 - offset_ns) // unit_ns), (_MAX_NS - offset_ns) // unit_ns
            if last < 0 or first > _MAX_TICKS:
                continue
            valid = (ticks[of_interface] >= max(first, 0)) & (ticks[of_interface] <= min(last, _MAX_TICKS))
            # Intermediate results may exceed 64 bits and wrap around, but the final result is correct if the time is
            # valid.
            exact = ticks[of_interface] * np.uint64(unit_ns) + np.uint64(offset_ns % _WRAP)
            times_ns[of_interface] = np.where(valid, exact.astype(np.int64), UNTIMED_NS)
        else:
            exact_ns = (tick * 10**9 // interface.units_per_s + offset_ns for tick in ticks[of_interface].tolist())
            times_ns[of_interface] = [each_ns if 0 < each_ns <= _MAX_NS else UNTIMED_NS for each_ns in exact_ns]
    return times_ns
