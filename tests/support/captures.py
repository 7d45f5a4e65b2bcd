# SPDX-License-Identifier: Apache-2.0
"""Builds captures byte by byte from the specifications of the formats. Some captures are so unusual that no tool would
write them.

Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, https://www.tcpdump.org/linktypes.html
"""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from otel_epping.replay.capture import Capture, CaptureError

SECOND = 10**9
BEGIN_NS = 1_700_000_000 * SECOND
ETHERNET = 1
_PCAP_MAGICS = {False: 0xA1B2C3D4, True: 0xA1B23C4D}


class Packet(NamedTuple):
    """A packet: its time, the captured bytes, its length on the wire, and its link type."""

    time_ns: int
    data: bytes
    original: int
    link: int = ETHERNET


def packet(number: int, size: int = 60, cut: int = 0) -> Packet:
    """Return a packet with unique content. `size` bytes are captured; on the wire, the packet has `cut` more bytes."""
    data = bytes((number + place) % 251 for place in range(size))
    return Packet(BEGIN_NS + number * 1_000_001_000, data, size + cut)


def pcap(packets: Sequence[Packet], order: str = "<", nanoseconds: bool = False, link: int = ETHERNET) -> bytes:
    """Return a pcap file."""
    parts = [struct.pack(f"{order}IHHiIII", _PCAP_MAGICS[nanoseconds], 2, 4, 0, 0, 262_144, link)]
    for one in packets:
        seconds, fraction = divmod(one.time_ns, SECOND)
        fraction //= 1 if nanoseconds else 1000
        parts.append(struct.pack(f"{order}IIII", seconds, fraction, len(one.data), one.original) + one.data)
    return b"".join(parts)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """Return a block of pcapng, padded to 32 bits."""
    body += bytes(-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", length: int = -1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, length), order)


def interface(link: int = ETHERNET, order: str = "<", snap_length: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(f"{order}HHI", link, 0, snap_length) + options, order)


def enhanced(one: Packet, order: str = "<", number: int = 0, ticks: int | None = None, options: bytes = b"") -> bytes:
    """Return an Enhanced Packet Block. Its timestamp is `ticks` or, by default, the packet's time in us."""
    ticks = one.time_ns // 1000 if ticks is None else ticks
    head = struct.pack(f"{order}IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(one.data), one.original)
    return block(6, head + one.data + bytes(-len(one.data) % 4) + options, order)


def obsolete(one: Packet, order: str = "<", number: int = 0, drops: int = 7) -> bytes:
    ticks = one.time_ns // 1000
    head = struct.pack(f"{order}HHIIII", number, drops, ticks >> 32, ticks & 0xFFFFFFFF, len(one.data), one.original)
    return block(2, head + one.data, order)


def simple(one: Packet, order: str = "<") -> bytes:
    return block(3, struct.pack(f"{order}I", one.original) + one.data, order)


def pcapng(packets: Sequence[Packet], order: str = "<") -> bytes:
    """Return a pcapng file with an interface for each link type."""
    links = list(dict.fromkeys(one.link for one in packets))
    parts = [section(order), *(interface(link, order) for link in links)]
    return b"".join([*parts, *(enhanced(one, order, links.index(one.link)) for one in packets)])


def read(path: Path | str) -> tuple[list[Packet], str]:
    """Return all packets of a capture, and the text of the error that ended the reading ('' if there was no error)."""
    found: list[Packet] = []
    try:
        with Capture(str(path)) as capture:
            for batch in capture.batches():
                rows = zip(batch.times_ns, batch.starts, batch.captured, batch.original, batch.link_types, strict=True)
                for time_ns, start, captured, original, link in rows:
                    data = batch.buffer[start : start + captured].tobytes()
                    found.append(Packet(int(time_ns), data, int(original), int(link)))
    except CaptureError as error:
        return found, str(error)
    return found, ""


def read_bytes(path: Path, content: bytes) -> tuple[list[Packet], str]:
    """Write `content` to a capture file, and read the file.

    An existing file at `path` is removed first. Otherwise ext4 would flush the new file on close(), which takes 3 ms
    (auto_da_alloc in ext4(5)).
    """
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return read(path)


def records(packets: Sequence[Packet], order: str = "<", more: bytes = b"", swapped: bool = False) -> bytes:
    """Return the records of a pcap file whose timestamps are in microseconds.

    `more` is inserted after each record header. With `swapped`, the length on the wire comes before the
    captured length, as in files of old tools.
    """
    parts = []
    for one in packets:
        seconds, ns = divmod(one.time_ns, SECOND)
        lengths = (one.original, len(one.data)) if swapped else (len(one.data), one.original)
        parts.append(struct.pack(f"{order}IIII", seconds, ns // 1000, *lengths) + more + one.data)
    return b"".join(parts)


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, 1)


def in_microseconds(packets: Sequence[Packet]) -> list[Packet]:
    return [one._replace(time_ns=one.time_ns // 1000 * 1000) for one in packets]
