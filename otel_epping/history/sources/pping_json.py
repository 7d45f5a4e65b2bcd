# SPDX-License-Identifier: Apache-2.0
"""Decodes the JSON output of ePPing: an array of objects (`-F json`), or an object per line (`-F jsonl`).

An array may be one line of many gigabytes. The array has no end if ePPing was killed. So the text is split into
objects.
"""

import re
from collections.abc import Iterator
from typing import Annotated

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

from otel_epping.history.sources.reading import InputFile

# An object with a number outside of these ranges is damaged.
_Unsigned = Annotated[int, Meta(ge=0, le=2**62)]
_Mean = Annotated[float, Meta(ge=0, le=2**62)]
Amounts = dict[str, _Unsigned]  # `packets` and `bytes`

# Between two objects are a closing and an opening brace, which are not adjacent inside an object. One array may follow
# another array, because the output of several runs may be in one file.
_SEPARATOR = re.compile(rb"\}[\s,\[\]]*\{")
_MAX_OBJECT_BYTES = 1 << 20


class PpingObject(Struct, gc=False):
    """An object of any kind. The fields show the kind of the object."""

    timestamp: _Unsigned | None = None
    # Metadata
    bin_width_ns: _Unsigned = 0
    aggregation_interval_ns: _Unsigned = 0
    ipv4_prefix_len: _Unsigned | None = None
    ipv6_prefix_len: _Unsigned | None = None
    # A subnet in an interval
    ip_prefix: str | None = None
    rx_stats: dict[str, Amounts] = {}
    tx_stats: dict[str, Amounts] = {}
    # The fields of a subnet before October 2023. rx was the direction to the subnet
    rx_packets: _Unsigned = 0
    rx_bytes: _Unsigned = 0
    tx_packets: _Unsigned = 0
    tx_bytes: _Unsigned = 0
    min_rtt: _Unsigned = 0
    mean_rtt: _Mean = 0
    max_rtt: _Unsigned = 0
    histogram: list[_Unsigned] = []
    # The interface in an interval
    protocol_counters: dict[str, Amounts] | None = None
    ecn_counters: Amounts = {}
    errors: Amounts = {}
    # An RTT or an event of a flow
    src_ip: str = ""
    protocol: str = ""
    method: str = ""
    rtt: _Unsigned | None = None
    flow_event: str | None = None


_DECODER = Decoder(PpingObject)


def objects(file: InputFile) -> Iterator[PpingObject | None]:
    """Yields each object of a file, and None for each text that is not an object."""
    for text in _texts(file):
        try:
            yield _DECODER.decode(text)
        except (DecodeError, UnicodeDecodeError):
            yield None


def _texts(file: InputFile) -> Iterator[bytes]:
    """Yields the text of each object. A text that does not end is the last text."""
    rest = b""
    for block in file.blocks():
        *complete, rest = _SEPARATOR.split(rest + block)
        # split() has removed a closing and an opening brace at each separator.
        yield from (_braced(text) for text in complete)
        if len(rest) > _MAX_OBJECT_BYTES:
            yield rest
            return
    if last := rest.strip(b" \t\r\n[],"):
        yield last if last.startswith(b"{") else b"{" + last


def _braced(text: bytes) -> bytes:
    text = text.lstrip(b" \t\r\n[],")
    return (text if text.startswith(b"{") else b"{" + text) + b"}"
