# SPDX-License-Identifier: Apache-2.0
"""Formats events as text, exactly as ePPing prints them. Scripts that read ePPing's output can also read this text.

    standard  time of day, RTT, minimum RTT so far, protocol, flow; or a flow that opens or closes, with the reason
    json      one JSON array of objects, times in ns; the array is complete only after close()
    jsonl     the same objects, one per line
    ppviz     RTTs only, times in seconds; the format of Kathleen Nichols' pping, which her viewer reads

A flow is printed as `source:port+destination:port` of the reply packet. So the host that replied is printed first. For
ICMP, both ports are the echo identifier. The source code of ePPing is pping/pping.c of
github.com/xdp-project/bpf-examples: see print_event_standard(), print_event_json() and print_event_ppviz().

The JSON format has one field that ePPing does not print. If the method of an RTT is not one of ePPing's methods, the
JSON object of this RTT ends with the field `method`.
"""

import socket
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, TextIO

import numpy as np

from otel_epping.events.ring_buffer import RTT, Events
from otel_epping.kernel.methods import METHODS
from otel_epping.networks.pseudonyms import Show, unchanged

FORMATS = ("standard", "json", "jsonl", "ppviz")

# The words that ePPing prints, in the order of the enums in bpf/events.h.
_TYPES = ("", "opening", "closing")
_REASONS = ("none", "SYN", "SYN-ACK", "first observed packet", "FIN", "RST", "flow timeout")
_TRIGGERS = ("src", "dest", "garbage collection")
_PROTOCOLS = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_ICMP: "ICMP", socket.IPPROTO_ICMPV6: "ICMPv6"}

_EPPING_METHODS = ("tcp_timestamp", "icmp_echo")
_METHOD_FIELDS = tuple("" if method.name in _EPPING_METHODS else f',"method":"{method.name}"' for method in METHODS)


class _Event(NamedTuple):
    """One event as Python values: ports in host byte order, addresses as text."""

    time_ns: int
    rtt_ns: int
    min_rtt_ns: int
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    type: int
    reason: int
    trigger: int
    method: int
    protocol: int
    family: int
    egress: int


def _column(events: Events, name: str, show: Show) -> list[Any]:
    column = events[name]
    if column.dtype.names:  # struct address
        packed = np.ascontiguousarray(column).view("V16").tolist()
        addresses = map(_address, events["family"].tolist(), packed)
        return [show("host", address) for address in addresses]
    if name.endswith("_port"):
        column = column.view(">u2")
    plain: list[Any] = column.tolist()
    return plain


def _rows(events: Events, show: Show) -> Iterator[_Event]:
    return map(_Event._make, zip(*(_column(events, name, show) for name in _Event._fields), strict=True))


@lru_cache(65536)
def _address(family: int, packed: bytes) -> str:
    """Formats an address with inet_ntop(3), as ePPing does. `packed` has 16 bytes, even for IPv4 (::ffff:a.b.c.d)."""
    return socket.inet_ntop(socket.AF_INET, packed[12:]) if family == 4 else socket.inet_ntop(socket.AF_INET6, packed)


@lru_cache(16)
def _time_of_day(unix_s: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_s))


def _protocol(event: _Event) -> str:
    return _PROTOCOLS.get(event.protocol) or str(event.protocol)


def _flow(event: _Event) -> str:
    return f"{event.source}:{event.source_port}+{event.destination}:{event.destination_port}"


def _standard(event: _Event, unix_ns: int) -> str:
    at = f"{_time_of_day(unix_ns // 10**9)}.{unix_ns % 10**9:09d}"
    if event.type == RTT:
        times = f"{event.rtt_ns / 1e6:.6g} ms {event.min_rtt_ns / 1e6:.6g} ms"
        return f"{at} {times} {_protocol(event)} {_flow(event)}\n"
    change = f"{_TYPES[event.type]} due to {_REASONS[event.reason]} from {_TRIGGERS[event.trigger]}"
    return f"{at} {_protocol(event)} {_flow(event)} {change}\n"


def _ppviz(event: _Event, unix_ns: int) -> str:
    if event.type != RTT:
        return ""
    return f"{unix_ns / 1e9:.9g} {event.rtt_ns / 1e9:.9g} {event.min_rtt_ns / 1e9:.9g} {_flow(event)}\n"


def _json(event: _Event, unix_ns: int) -> str:
    common = (
        f'"timestamp":{unix_ns}'
        f',"src_ip":"{event.source}","src_port":{event.source_port}'
        f',"dest_ip":"{event.destination}","dest_port":{event.destination_port}'
        f',"protocol":"{_protocol(event)}"'
    )
    if event.type == RTT:
        return (
            f'{{{common},"rtt":{event.rtt_ns},"min_rtt":{event.min_rtt_ns}'
            f',"sent_packets":{event.sent_packets},"sent_bytes":{event.sent_bytes}'
            f',"rec_packets":{event.received_packets},"rec_bytes":{event.received_bytes}'
            f',"match_on_egress":{"true" if event.egress else "false"}{_METHOD_FIELDS[event.method]}}}'
        )
    return (
        f'{{{common},"flow_event":"{_TYPES[event.type]}"'
        f',"reason":"{_REASONS[event.reason]}","triggered_by":"{_TRIGGERS[event.trigger]}"}}'
    )


def _jsonl(event: _Event, unix_ns: int) -> str:
    return _json(event, unix_ns) + "\n"


class EventWriter:
    """Writes events to a text stream in one of FORMATS. The caller flushes the stream.

    `to_unix_ns` converts a time of the program's clock in ns to Unix time in ns. `show` returns the text to write for
    an address.
    """

    def __init__(self, format: str, stream: TextIO, to_unix_ns: Callable[[int], int], show: Show = unchanged) -> None:
        self._line = {"standard": _standard, "json": _json, "jsonl": _jsonl, "ppviz": _ppviz}[format]
        self._stream = stream
        self._to_unix_ns = to_unix_ns
        self._show = show
        self._separator = "," if format == "json" else ""
        self._has_written = False
        self._end = "]\n" if format == "json" else ""
        if format == "json":
            stream.write("[")

    def write(self, events: Events) -> None:
        """Writes events, an array of the shape (events,), in the given order."""
        text = self._separator.join(
            self._line(event, self._to_unix_ns(event.time_ns)) for event in _rows(events, self._show)
        )
        if text and self._has_written:
            text = self._separator + text
        self._stream.write(text)
        self._has_written = self._has_written or bool(text)

    def close(self) -> None:
        """Writes the closing bracket if the format needs a bracket. The stream stays open."""
        self._stream.write(self._end)
