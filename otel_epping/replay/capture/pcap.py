# SPDX-License-Identifier: Apache-2.0
"""Reads pcap, the original format of libpcap: a file header, and then records, each with a header of 16 bytes.

The format is defined in draft-ietf-opsawg-pcap. No library is used. dpkt provides neither the original length of a
packet nor the byte order, and treats a truncated file as complete. scapy reads only 10,000 packets per second.

Variants of the format are read in the same way as in libpcap (sf-pcap.c) and Wireshark (wiretap/libpcap.c):

- Files of libpcap with Alexey Kuznetzov's patches, as in Red Hat 6 and SuSE 6: each record header has 8 or 12
  additional bytes. Most versions of the patches use a magic number of their own. Some versions from ss990417 on use
  libpcap's magic number.
- Files of Nokia IPSO: each record header has 4 additional bytes.
- Files of versions 2.0 to 2.2, and version 543.0 of DG/UX: the original length is before the captured length.
- Files of version 2.3: the captured length and the original length may be in either order.
- Files of AIX: the version is 2.2, the fraction of a timestamp is in ns, and link types are the interface types of
  RFC 1573.
- Files of Ixia (lcap): the file header has 4 additional bytes.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from otel_epping.replay.capture.errors import CaptureError
from otel_epping.replay.capture.packet_batch import (
    MAX_CAPTURED,
    MAX_PACKETS,
    UNTIMED_NS,
    PacketBatch,
    without_trailers,
    words,
)
from otel_epping.replay.capture.stream import Stream

_HEADER = 16
_FILE_HEADER = 24
_US, _NS = 1000, 1


class _Lengths(Enum):
    """The order of the captured and the original length in a record header.

    The value is a format for struct.unpack_from(). The format reads the captured length. If the order is unknown, the
    format reads both lengths.
    """

    USUAL = "8xI"
    SWAPPED = "12xI"
    EITHER = "8xII"  # the smaller length is the captured length


@dataclass(frozen=True)
class _Layout:
    """The layout of records.

    A timestamp has a field for the seconds and a field for the fraction of a second. `unit_ns` is the unit of the
    fraction in ns. `header` is the size of a record header in bytes.
    """

    order: str
    unit_ns: int
    header: int
    lengths: _Lengths
    link_type: int
    check_sequence: int  # size in bytes of the frame check sequence at the end of each packet


@dataclass(frozen=True)
class _Magic:
    """A magic number of pcap files, and the possible layouts of files that begin with this number.

    `headers` contains the possible sizes of a record header, the likeliest size first.
    """

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
        _Magic(0x1C0001AC, _NS, file_header=_FILE_HEADER + 4),  # Ixia hardware
        _Magic(0x1C0001AB, _US, file_header=_FILE_HEADER + 4),  # Ixia software
    )
}
MAGICS = frozenset(_MAGICS)
"""The possible values of the first 4 bytes of a pcap file."""

# The supported versions of the format (major, minor), and the order of the two lengths in the record headers of each
# version.
_VERSIONS = {(2, 4): _Lengths.USUAL, (2, 3): _Lengths.EITHER, (543, 0): _Lengths.SWAPPED} | {
    (2, minor): _Lengths.SWAPPED for minor in range(3)
}
# Maps the AIX interface types (RFC 1573) of Ethernet, Token Ring, FDDI and loopback to link types.
_AIX_VERSION = (2, 2)
_AIX_LINKS = {6: 1, 9: 6, 15: 10, 24: 0}
_LINK_BITS = 0xFFFF
# If _CHECK_SEQUENCE_BIT is set in the link type field of the file header, the highest four bits of this field are the
# length of the frame check sequence in units of 16 bits.
_CHECK_SEQUENCE_BIT, _CHECK_SEQUENCE_SHIFT = 0x0400_0000, 28
# Wireshark's maximum packet length.
_MAX_ORIGINAL = 128 << 20
_TRIED_RECORDS = 3


def batches(stream: Stream) -> Iterator[PacketBatch]:
    """Yields all packets of a stream that begins with one of MAGICS.

    If a record is truncated or damaged, yields all packets before this record, and then raises CaptureError.
    """
    layout = _file_header(stream)
    while True:
        records = _walk(stream, layout)
        if records:
            yield _batch(stream, records, layout)
        elif not _fill_record(stream, layout):
            return


def _file_header(stream: Stream) -> _Layout:
    """Reads the file header, and determines the layout of the records."""
    order, magic = _MAGICS[bytes(stream.memory[stream.start : stream.start + 4])]
    if not stream.fill(magic.file_header):
        raise stream.error("is truncated in the file header", stream.end)
    major, minor, link = struct.unpack_from(f"{order}4xHH12xI", stream.memory, stream.start)
    if (major, minor) not in _VERSIONS:
        raise stream.error(f"has unsupported pcap version {major}.{minor}", stream.start + 4)
    check_sequence = 2 * (link >> _CHECK_SEQUENCE_SHIFT) if link & _CHECK_SEQUENCE_BIT else 0
    lengths = _VERSIONS[major, minor]
    layout = _Layout(order, magic.unit_ns, magic.headers[0], lengths, link & _LINK_BITS, check_sequence)
    stream.start += magic.file_header
    if (major, minor) == _AIX_VERSION and link in _AIX_LINKS:
        return replace(layout, unit_ns=_NS, link_type=_AIX_LINKS[link])
    # If the input is a pipe, this function does not wait for the first records, but uses the likeliest size of a record
    # header, as libpcap does.
    if len(magic.headers) > 1 and stream.size:
        # If compressed data are damaged, the packets before the damage are used. _fill_record() raises the exception.
        with suppress(CaptureError):
            stream.fill(_TRIED_RECORDS * (_MODIFIED_SMP + MAX_CAPTURED))
        fitting = (size for size in magic.headers if _is_plausible(stream, replace(layout, header=size)))
        layout = replace(layout, header=next(fitting, layout.header))
    return layout


def _is_plausible(stream: Stream, layout: _Layout) -> bool:
    """Returns True if the headers of the first records in the window are plausible in this layout."""
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
    """Returns the indexes of the complete records in the window.

    Moves the start of the window to the end of the last complete record.
    """
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
    """Returns True if a record header contains only zeros.

    After a crash, a file may already have its final size, but contain zeros instead of the data that were not written.
    """
    return not any(stream.memory[at : at + _HEADER])


def _fill_record(stream: Stream, layout: _Layout) -> bool:
    """Reads until the window contains a complete record. Returns False at the end of the file."""
    if not stream.fill(layout.header):
        if stream.unread:
            raise stream.error("is truncated in the middle of a packet", stream.start)
        return False
    captured = min(struct.unpack_from(layout.order + layout.lengths.value, stream.memory, stream.start))
    if captured > MAX_CAPTURED:
        raise stream.error(f"is damaged: a packet of {captured} bytes", stream.start)
    if not captured and _is_blank(stream, stream.start):
        raise stream.error("is damaged: zeros in place of a packet", stream.start)
    if not stream.fill(layout.header + captured):
        raise stream.error("is truncated in the middle of a packet", stream.start)
    return True


def _batch(stream: Stream, records: list[int], layout: _Layout) -> PacketBatch:
    at = np.array(records)
    seconds, fraction, captured, original = words(stream.buffer, at, 4, layout.order).T
    if layout.lengths is _Lengths.SWAPPED:
        captured, original = original, captured
    elif layout.lengths is _Lengths.EITHER:
        captured, original = np.minimum(captured, original), np.maximum(captured, original)
    if layout.check_sequence:
        captured, original = without_trailers(captured, original, layout.check_sequence)
    # A timestamp is invalid if the field for the fraction of a second contains a second or more.
    timed = fraction * layout.unit_ns < 10**9
    return PacketBatch(
        buffer=stream.buffer,
        offset=stream.offset,
        starts=at + layout.header,
        captured=captured,
        original=original,
        times_ns=np.where(timed, seconds * 10**9 + fraction * layout.unit_ns, UNTIMED_NS),
        link_types=np.full(len(at), layout.link_type),
    )
