# SPDX-License-Identifier: Apache-2.0
"""The records of a capture file (pcap or pcapng, gzip or not), read by scapy's raw readers.

Frames are numbered from 1, as tshark and Wireshark number them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapNgReader, RawPcapReader

from otel_epping.kernel.errors import EppingError

SECOND = 1_000_000_000


class Frame(NamedTuple):
    """A record: `length` is that of the packet on the wire, of which `data` may be but the beginning.

    `time_ns` is 0 if the record has no time, and at least 1 if it has one.
    """

    number: int
    time_ns: int
    link_type: int
    data: bytes
    length: int


def read(path: Path) -> Iterator[Frame]:
    """All records of a file, up to where it is torn. Raises EppingError if it is no capture."""
    try:
        reader = RawPcapReader(str(path))
    except (OSError, Scapy_Exception, EOFError) as error:
        raise EppingError(f"{path} is no pcap or pcapng file: {error}") from error
    with reader:
        record: Any
        for number, (data, record) in enumerate(reader, 1):
            length = max(record.wirelen, len(data))
            if isinstance(reader, RawPcapNgReader):
                time_ns = 0
                if record.tshigh is not None:  # a Simple Packet Block has no time
                    time_ns = max((record.tshigh << 32 | record.tslow) * SECOND // record.tsresol, 1)
                yield Frame(number, time_ns, record.linktype, data, length)
            else:
                # libpcap takes the part of a second for a signed number; in a file that is whole it never is.
                part = record.usec - (record.usec >> 31 << 32)
                time_ns = record.sec * SECOND + part * (1 if reader.nano else 1000)
                # The upper half of the field says how long a frame check sequence is.
                yield Frame(number, max(time_ns, 1), reader.linktype & 0xFFFF, data, length)
