# SPDX-License-Identifier: Apache-2.0
"""The records of a capture file (pcap or pcapng, plain or compressed with gzip), read by scapy's raw readers.

Frames are numbered from 1, as tshark and Wireshark number them.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapNgReader, RawPcapReader

from otel_epping.errors import EppingError

SECOND = 1_000_000_000
_MOST_NS = 2**63 - 1
_TIME_OFFSET = 14  # the option if_tsoffset of an interface


class Frame(NamedTuple):
    """A record. `length` is the packet's length on the wire; `data` may contain only the packet's first bytes.

    `time_ns` is 0 if the record has no time or an invalid time. A time is invalid if it is zero or negative, if it does
    not fit into 64 bits of nanoseconds, or if its fraction of a second is one second or more.
    """

    number: int
    time_ns: int
    link_type: int
    data: bytes
    length: int


class _PcapNg(RawPcapNgReader):
    """Reads the time offset of an interface, which scapy's reader ignores. `offset_s` is the offset for the latest
    packet."""

    offset_s = 0

    def _read_block_idb(self, block: bytes, size: int) -> None:
        super()._read_block_idb(block, size)
        value = self._read_options(block[8:]).get(_TIME_OFFSET)
        value = value[0] if isinstance(value, list) else value
        offset_s = struct.unpack(f"{self.endian}q", value)[0] if value and len(value) == 8 else 0
        self.interfaces[-1][2]["tsoffset"] = offset_s

    def _read_block_epb(self, block: bytes, size: int) -> Any:
        found = super()._read_block_epb(block, size)
        self._note_offset(struct.unpack_from(f"{self.endian}I", block)[0])
        return found

    def _read_block_pkt(self, block: bytes, size: int) -> Any:
        found = super()._read_block_pkt(block, size)
        self._note_offset(struct.unpack_from(f"{self.endian}H", block)[0])
        return found

    def _note_offset(self, interface: int) -> None:
        self.offset_s = self.interfaces[interface][2]["tsoffset"]


def read(path: Path) -> Iterator[Frame]:
    """Yields all records of a file, up to the place where it is truncated. Raises EppingError if the file is not a
    capture."""
    try:
        reader = _open(path)
    except (OSError, Scapy_Exception, EOFError) as error:
        raise EppingError(f"{path} is not a pcap or pcapng file: {error}") from error
    with reader:
        record: Any
        for number, (data, record) in enumerate(reader, 1):
            length = max(record.wirelen, len(data))
            if isinstance(reader, _PcapNg):
                time_ns = 0
                if record.tshigh is not None:  # a Simple Packet Block has no time
                    time_ns = (record.tshigh << 32 | record.tslow) * SECOND // record.tsresol
                    time_ns += reader.offset_s * SECOND
                link_type = record.linktype
            else:
                part_ns = (record.usec & 0xFFFF_FFFF) * (1 if reader.nano else 1000)
                time_ns = record.sec * SECOND + part_ns if part_ns < SECOND else 0
                # The lower half of this pcap header field is the link type. The upper half describes the frame check
                # sequence.
                link_type = reader.linktype & 0xFFFF
            yield Frame(number, time_ns if 0 < time_ns <= _MOST_NS else 0, link_type, data, length)


def _open(path: Path) -> RawPcapReader:
    try:
        return _PcapNg(str(path))
    except Scapy_Exception:
        return RawPcapReader(str(path))
