# SPDX-License-Identifier: Apache-2.0
"""Reads pcap, the classic format of libpcap: a header, then records, each with a header of 16 bytes.

Source: draft-ietf-opsawg-pcap. Why not a library: dpkt keeps neither the original length of a packet nor the order of
bytes, and takes a file that is cut short for one that ends; scapy makes 10,000 packets a second.

Variants are read as libpcap (sf-pcap.c) and Wireshark (wiretap/libpcap.c) do:

- Alexey Kuznetzov's patches, in Red Hat 6 and SuSE 6: 8 or 12 bytes more in each record's header, with a magic number
  of their own or, from ss990417, without one. Nokia's IPSO: 4 bytes more.
- Version 2.2 and before, and DG/UX's 543.0: captured and original length change places. In version 2.3 either order.
- AIX: version 2.2, a fraction in nanoseconds, and link types that are numbers of interface types (RFC 1573).
- Ixia's lcap: 4 bytes more in the header of the file.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from otel_epping.replay.capture.batch import MAX_CAPTURED, MAX_PACKETS, UNTIMED_NS, Batch, without_trailers, words
from otel_epping.replay.capture.stream import Stream

_HEADER = 16
_FILE_HEADER = 24
_US, _NS = 1000, 1


class _Lengths(Enum):
    """The order of captured and original length in a record."""

    USUAL = "8xI"
    SWAPPED = "12xI"
    EITHER = "8xII"  # what was captured is never more than there was


@dataclass(frozen=True)
class _Layout:
    """How records look: the order of bytes, ns in a unit of the times' fraction, and bytes of a record's header."""

    order: str
    unit_ns: int
    header: int
    lengths: _Lengths
    link: int
    check_sequence: int  # bytes of the frame check sequence at the end of each packet


@dataclass(frozen=True)
class _Magic:
    """What a magic number says, and which headers of records files with it may have, the likeliest first."""

    number: int
    unit_ns: int
    headers: tuple[int, ...] = (_HEADER,)
    file_header: int = _FILE_HEADER


_MODIFIED, _MODIFIED_SMP, _NOKIA = _HEADER + 8, _HEADER + 12, _HEADER + 4
_MAGICS = {
    struct.pack(f"{order}I", magic.number): (order, magic)
    for order in "<>"
    for magic in (
        _Magic(0xA1B2C3D4, _US, (_HEADER, _MODIFIED, _NOKIA)),
        _Magic(0xA1B23C4D, _NS),
        _Magic(0xA1B2CD34, _US, (_MODIFIED, _MODIFIED_SMP)),
        _Magic(0x1C0001AC, _NS, file_header=_FILE_HEADER + 4),  # Ixia's hardware
        _Magic(0x1C0001AB, _US, file_header=_FILE_HEADER + 4),  # and its software
    )
}
MAGICS = frozenset(_MAGICS)
"""The first bytes of such a file."""

# Versions, as major and minor number, and the order of lengths in their records.
_VERSIONS = {(2, 4): _Lengths.USUAL, (2, 3): _Lengths.EITHER, (543, 0): _Lengths.SWAPPED} | {
    (2, minor): _Lengths.SWAPPED for minor in range(3)
}
# AIX writes Ethernet, token ring, FDDI and loopback by their ifType.
_AIX_VERSION = (2, 2)
_AIX_LINKS = {6: 1, 9: 6, 15: 10, 24: 0}
_LINK_BITS = 0xFFFF
# If this bit is set, the highest four tell the length of the frame check sequence in units of 16 bits.
_CHECK_SEQUENCE_BIT, _CHECK_SEQUENCE_SHIFT = 0x0400_0000, 28
# Wireshark's limit: no packet is longer.
_MAX_ORIGINAL = 128 << 20
_TRIED_RECORDS = 3


def batches(stream: Stream) -> Iterator[Batch]:
    """All packets. Raises CaptureError where the file ends in the middle of something, or makes no sense."""
    layout = _file_header(stream)
    while True:
        records = _walk(stream, layout)
        if records:
            yield _batch(stream, records, layout)
        elif not _fill_record(stream, layout):
            return


def _file_header(stream: Stream) -> _Layout:
    """Reads the header of the file."""
    order, magic = _MAGICS[bytes(stream.memory[stream.start : stream.start + 4])]
    if not stream.fill(magic.file_header):
        raise stream.error("is cut short in the header of the file", stream.end)
    major, minor, link = struct.unpack_from(f"{order}4xHH12xI", stream.memory, stream.start)
    if (major, minor) not in _VERSIONS:
        raise stream.error(f"version {major}.{minor} of pcap is not known", stream.start + 4)
    check_sequence = 2 * (link >> _CHECK_SEQUENCE_SHIFT) if link & _CHECK_SEQUENCE_BIT else 0
    lengths = _VERSIONS[major, minor]
    layout = _Layout(order, magic.unit_ns, magic.headers[0], lengths, link & _LINK_BITS, check_sequence)
    stream.start += magic.file_header
    if (major, minor) == _AIX_VERSION and link in _AIX_LINKS:
        return replace(layout, unit_ns=_NS, link=_AIX_LINKS[link])
    # A pipe is not waited for; there the likeliest is taken, as libpcap does.
    if len(magic.headers) > 1 and stream.size:
        stream.fill(_TRIED_RECORDS * (_MODIFIED_SMP + MAX_CAPTURED))
        fitting = (size for size in magic.headers if _makes_sense(stream, replace(layout, header=size)))
        layout = replace(layout, header=next(fitting, layout.header))
    return layout


def _makes_sense(stream: Stream, layout: _Layout) -> bool:
    """Whether the first records in the window look like records, as far as the capture has them."""
    memory, at = stream.memory, stream.start
    for _ in range(_TRIED_RECORDS):
        if at + layout.header > stream.end:
            break
        _, fraction, captured, original = struct.unpack_from(f"{layout.order}IIII", memory, at)
        if layout.lengths is not _Lengths.USUAL and captured > original:
            captured, original = original, captured
        if fraction * layout.unit_ns >= 10**9 or captured > min(original, MAX_CAPTURED) or original > _MAX_ORIGINAL:
            return False
        at += layout.header + captured
    return True


def _walk(stream: Stream, layout: _Layout) -> list[int]:
    """Where the whole records in the window begin; moves behind them."""
    memory, at, end, header = stream.memory, stream.start, stream.end, layout.header
    captured_at = struct.Struct(layout.order + layout.lengths.value).unpack_from
    either = layout.lengths is _Lengths.EITHER
    found: list[int] = []
    while at + header <= end and len(found) < MAX_PACKETS:
        lengths = captured_at(memory, at)
        captured = min(lengths) if either else lengths[0]
        after = at + header + captured
        if after > end or captured > MAX_CAPTURED or (not captured and _is_blank(stream, at)):
            break
        found.append(at)
        at = after
    stream.start = at
    return found


def _is_blank(stream: Stream, at: int) -> bool:
    """Whether a record's header is zeros: as after a crash, when the file had its size already but not its bytes."""
    return not any(stream.memory[at : at + _HEADER])


def _fill_record(stream: Stream, layout: _Layout) -> bool:
    """Reads until the next record is whole; False at the end of the file."""
    if not stream.fill(layout.header):
        if stream.unread:
            raise stream.error("is cut short in the middle of a packet", stream.start)
        return False
    captured = min(struct.unpack_from(layout.order + layout.lengths.value, stream.memory, stream.start))
    if captured > MAX_CAPTURED:
        raise stream.error(f"is damaged: a packet of {captured} bytes", stream.start)
    if not captured and _is_blank(stream, stream.start):
        raise stream.error("is damaged: zeros in place of a packet", stream.start)
    if not stream.fill(layout.header + captured):
        raise stream.error("is cut short in the middle of a packet", stream.start)
    return True


def _batch(stream: Stream, records: list[int], layout: _Layout) -> Batch:
    at = np.array(records)
    seconds, fraction, captured, original = words(stream.buffer, at, 4, layout.order).T
    if layout.lengths is _Lengths.SWAPPED:
        captured, original = original, captured
    elif layout.lengths is _Lengths.EITHER:
        captured, original = np.minimum(captured, original), np.maximum(captured, original)
    if layout.check_sequence:
        captured, original = without_trailers(captured, original, layout.check_sequence)
    # A fraction of a second or more makes no sense.
    timed = fraction * layout.unit_ns < 10**9
    return Batch(
        buffer=stream.buffer,
        offset=stream.offset,
        starts=at + layout.header,
        captured=captured,
        original=original,
        times_ns=np.where(timed, seconds * 10**9 + fraction * layout.unit_ns, UNTIMED_NS),
        links=np.full(len(at), layout.link),
    )
