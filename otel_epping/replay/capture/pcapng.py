# SPDX-License-Identifier: Apache-2.0
"""Reads pcapng: sections, each with interfaces of its own, and blocks, of which those that hold packets matter here.

Source: draft-ietf-opsawg-pcapng. Why not a library: dpkt keeps neither the original length of a packet nor the link
type of its interface, and takes a file that is cut short for one that ends; scapy makes 10,000 packets a second.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from otel_epping.replay.capture.batch import MAX_PACKETS, UNTIMED_NS, Batch, Numbers, without_trailers, words
from otel_epping.replay.capture.stream import WINDOW, Stream

MAGIC = b"\x0a\x0d\x0d\x0a"

# Types of blocks; that of a section header reads the same in both orders of bytes.
_SECTION = 0x0A0D0D0A
_INTERFACE = 1
_OBSOLETE_PACKET = 2
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
# Bytes of a packet's block in front of the packet.
_HEADERS = {_OBSOLETE_PACKET: 28, _SIMPLE_PACKET: 12, _ENHANCED_PACKET: 28}
_TRAILER = 4
_LEAST_BLOCK = 12
_LEAST_SECTION = 28
_LEAST_INTERFACE = 20
_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_VERSION = 1

_END_OF_OPTIONS, _TSRESOL, _FCSLEN, _TSOFFSET = 0, 9, 13, 14
_MICROSECONDS = 6
_MAX_NS = 2**63 - 1
_WRAP = 2**64
_MAX_TICKS = _WRAP - 1


@dataclass(frozen=True)
class _Interface:
    link: int
    snap_length: int
    units_per_s: int
    offset_s: int
    check_sequence: int  # bytes of the frame check sequence at the end of each packet


@dataclass(frozen=True)
class _Section:
    order: str
    interfaces: list[_Interface] = field(default_factory=list)


def batches(stream: Stream) -> Iterator[Batch]:
    """All packets. Raises CaptureError where the file ends in the middle of something, or makes no sense."""
    section = _Section("<")
    while True:
        kind, found = _walk(stream, section)
        if found:
            yield from _packets(stream, section, kind, np.array(found))
            continue
        if not stream.fill(_LEAST_BLOCK):
            if stream.unread:
                raise stream.error("is cut short in the middle of a block", stream.start)
            return
        section = _next(stream, section)


def _walk(stream: Stream, section: _Section) -> tuple[int, list[int]]:
    """Where the whole blocks of packets in the window begin, of one kind, which is told; moves behind them.

    Passes over blocks that don't matter, and stops in front of all others.
    """
    memory, at, end = stream.memory, stream.start, stream.end
    head = struct.Struct(f"{section.order}II").unpack_from
    kind = 0
    found: list[int] = []
    while at + _LEAST_BLOCK <= end and len(found) < MAX_PACKETS:
        this, length = head(memory, at)
        if length < _LEAST_BLOCK or length & 3 or at + length > end or this in (_SECTION, _INTERFACE):
            break
        if this in _HEADERS:
            if length < _HEADERS[this] + _TRAILER or (found and this != kind):
                break
            kind = this
            found.append(at)
        at += length
    stream.start = at
    return kind, found


def _next(stream: Stream, section: _Section) -> _Section:
    """Takes in the block at hand, or reads until it is whole if it is a packet's; the section that is current then."""
    magic = bytes(stream.memory[stream.start + 8 : stream.start + 12])
    kind, length = struct.unpack_from(f"{section.order}II", stream.memory, stream.start)
    if kind == _SECTION:
        if magic not in _ORDERS:
            raise stream.error("is damaged: a section without byte-order magic", stream.start)
        section = _Section(_ORDERS[magic])
        _, length = struct.unpack_from(f"{section.order}II", stream.memory, stream.start)
    least = {_SECTION: _LEAST_SECTION, _INTERFACE: _LEAST_INTERFACE}.get(kind, _HEADERS.get(kind, 8) + _TRAILER)
    matters = kind in (_SECTION, _INTERFACE) or kind in _HEADERS
    if length < least or length & 3 or (matters and length > WINDOW):
        raise stream.error(f"is damaged: a block of {length} bytes", stream.start)
    begins = stream.offset + stream.start
    if not (stream.fill(length) if matters else stream.skip(length)):
        raise stream.error("is cut short in the middle of a block", begins - stream.offset)
    if kind == _SECTION:
        (version,) = struct.unpack_from(f"{section.order}12xH", stream.memory, stream.start)
        if version != _VERSION:
            raise stream.error(f"version {version} of pcapng is not known", stream.start)
    elif kind == _INTERFACE:
        section.interfaces.append(_interface(bytes(stream.memory[stream.start : stream.start + length]), section.order))
    if kind in (_SECTION, _INTERFACE):
        stream.start += length
    return section


def _interface(block: bytes, order: str) -> _Interface:
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
    # The highest bit tells a power of two from a power of ten.
    units_per_s = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    return _Interface(link, snap_length, units_per_s, offset_s, check_sequence)


def _packets(stream: Stream, section: _Section, kind: int, at: Numbers) -> Iterator[Batch]:
    """The packets of whole blocks of a kind; raises CaptureError at the first that makes no sense."""
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
        if kind == _OBSOLETE_PACKET:  # 16 bits of it count drops
            number = number >> 16 if section.order == ">" else number & 0xFFFF
        ticks = high.astype(np.uint64) << np.uint64(32) | low.astype(np.uint64)
    closed = words(stream.buffer, at + length - _TRAILER, 1, section.order)[:, 0] == length
    sound = closed & (captured <= length - header - _TRAILER) & (number < len(section.interfaces))
    count = len(at) if sound.all() else int(np.argmin(sound))
    if count:
        number = number[:count]
        check_sequence = np.array([interface.check_sequence for interface in section.interfaces])[number]
        captured, original = without_trailers(captured[:count], original[:count], check_sequence)
        yield Batch(
            buffer=stream.buffer,
            offset=stream.offset,
            starts=at[:count] + header,
            captured=captured,
            original=original,
            times_ns=np.full(count, UNTIMED_NS) if ticks is None else _times_ns(section, number, ticks[:count]),
            links=np.array([interface.link for interface in section.interfaces])[number],
        )
    if count < len(at):
        raise stream.error("is damaged: a packet's block contradicts itself", int(at[count]))


def _times_ns(section: _Section, number: Numbers, ticks: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Numbers:
    """Unix times of packets, by the clocks of their interfaces; UNTIMED_NS for a time that cannot be right."""
    times_ns = np.full(len(number), UNTIMED_NS, np.int64)
    for each in np.unique(number).tolist():
        interface = section.interfaces[each]
        its = number == each
        offset_ns = interface.offset_s * 10**9
        unit_ns, rest = divmod(10**9, interface.units_per_s)
        # As Python's numbers, which don't overflow, unless ns are a multiple of the unit, as they nearly always are.
        if rest == 0:
            least, most = -(-(1 - offset_ns) // unit_ns), (_MAX_NS - offset_ns) // unit_ns
            if most < 0 or least > _MAX_TICKS:
                continue
            meant = (ticks[its] >= max(least, 0)) & (ticks[its] <= min(most, _MAX_TICKS))
            # 64 bits wrap around, in between too; what is meant fits again in the end.
            exact = ticks[its] * np.uint64(unit_ns) + np.uint64(offset_ns % _WRAP)
            times_ns[its] = np.where(meant, exact.astype(np.int64), UNTIMED_NS)
        else:
            exact_ns = (tick * 10**9 // interface.units_per_s + offset_ns for tick in ticks[its].tolist())
            times_ns[its] = [each_ns if 0 < each_ns <= _MAX_NS else UNTIMED_NS for each_ns in exact_ns]
    return times_ns
