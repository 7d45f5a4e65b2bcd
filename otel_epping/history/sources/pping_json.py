# SPDX-License-Identifier: Apache-2.0
"""Decodes the JSON output of ePPing: an array of objects (`-F json`), or an object per line (`-F jsonl`).

An array may be one line of many gigabytes. The array has no end if ePPing was killed. So the text is split into
objects.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from msgspec import DecodeError, Meta, Struct
from msgspec.json import Decoder

from otel_epping.history.sources.reading import InputFile

# An object with a number outside of these ranges is damaged. ePPing forgets packets and flows after at most 5 minutes,
# and counts the RTTs of a bin with 32 bits. A damaged number must not make a sum exceed 64 bits.
_MAX_NS = 3_600 * 10**9
_Time = Annotated[int, Meta(ge=0, le=2**62)]
_Duration = Annotated[int, Meta(ge=0, le=_MAX_NS)]
_Mean = Annotated[float, Meta(ge=0, le=_MAX_NS)]
_Interval = Annotated[int, Meta(ge=0, le=366 * 86_400 * 10**9)]
_Amount = Annotated[int, Meta(ge=0, le=2**53)]
_Bin = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Length = Annotated[int, Meta(ge=0, le=128)]
Amounts = dict[str, _Amount]  # `packets` and `bytes`


# Between two objects are a closing and an opening brace, which are not adjacent inside an object. One array may follow
# another array, because the output of several runs may be in one file.
_SEPARATOR = re.compile(rb"\}[\s,\[\]]*\{")
_BETWEEN = b" \t\r\n[],"
# In a damaged text, an object begins at the begin of a line, or with the field that all programs write first.
_BEGIN = re.compile(rb'(?<=\n)\{|\{(?=\s*"timestamp")')
_MAX_OBJECT_BYTES = 1 << 20
_KEPT_BYTES = 64  # a begin of an object that is continued in the next block has fewer bytes


class PpingObject(Struct, gc=False):
    """An object of any kind. The fields show the kind of the object."""

    timestamp: _Time | None = None
    # Metadata
    bin_width_ns: _Duration = 0
    aggregation_interval_ns: _Interval = 0
    ipv4_prefix_len: _Length | None = None
    ipv6_prefix_len: _Length | None = None
    # A subnet in an interval
    ip_prefix: str | None = None
    rx_stats: dict[str, Amounts] = {}
    tx_stats: dict[str, Amounts] = {}
    # The fields of a subnet before October 2023. rx was the direction to the subnet
    rx_packets: _Amount = 0
    rx_bytes: _Amount = 0
    tx_packets: _Amount = 0
    tx_bytes: _Amount = 0
    min_rtt: _Duration = 0
    mean_rtt: _Mean = 0
    max_rtt: _Duration = 0
    histogram: list[_Bin] = []
    # The interface in an interval
    protocol_counters: dict[str, Amounts] | None = None
    ecn_counters: Amounts = {}
    errors: Amounts = {}
    # An RTT or an event of a flow
    src_ip: str = ""
    protocol: str = ""
    method: str = ""
    rtt: _Duration | None = None
    flow_event: str | None = None


_DECODER = Decoder(PpingObject)
DAMAGED_METADATA = PpingObject()


def objects(file: InputFile) -> Iterator[PpingObject | None]:
    """Yields each object of a file; DAMAGED_METADATA, or None for each other text that is not an object."""
    for text in _texts(file):
        text = text.strip(_BETWEEN)
        if found := _decoded(text):
            yield found
        elif text:
            yield from _objects_in(text)


def _decoded(text: bytes) -> PpingObject | None:
    try:
        return _DECODER.decode(text)
    # Unknown fields with deep nesting exceed the recursion limit of the decoder.
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _objects_in(text: bytes) -> Iterator[PpingObject | None]:
    """Yields the objects of a damaged text; DAMAGED_METADATA, or None for each other part that is not an object.

    For example, an object that is cut is followed by the next object without a closing brace.
    """
    begins = [0, *(match.start() for match in _BEGIN.finditer(text) if match.start()), len(text)]
    for begin, end in pairwise(begins):
        if not (part := text[begin:end].strip(_BETWEEN)):
            continue
        # Other bytes can follow an object.
        found = _decoded(part) or _decoded(part[: part.rfind(b"}") + 1])
        if found:
            yield found
        if not found or not part.endswith(b"}"):
            # Only metadata have the fields `bins` and `bin_width_ns`.
            yield DAMAGED_METADATA if not found and b'"bin' in part else None


def _texts(file: InputFile) -> Iterator[bytes]:
    """Yields the text of each object. A text that is not one object is damaged.

    The middle of a damaged text of more than _MAX_OBJECT_BYTES is replaced by a NUL byte, which no JSON text contains.
    """
    rest = b""
    for block in file.blocks():
        *complete, rest = _SEPARATOR.split(rest + block)
        for number, text in enumerate(complete):
            # split() has removed a closing and an opening brace at each separator.
            yield (b"{" if number else b"") + text + b"}"
        if complete:
            rest = b"{" + rest
        if len(rest) > _MAX_OBJECT_BYTES:
            begin = max((match.start() for match in _BEGIN.finditer(rest)), default=0)
            if begin > 0:
                yield rest[:begin]
                rest = rest[begin:]
            else:
                rest = rest[: min(rest.rfind(b"}") + 1, _MAX_OBJECT_BYTES // 2)] + b"\0" + rest[-_KEPT_BYTES:]
    yield rest
