# SPDX-License-Identifier: Apache-2.0
"""Models Kathie Nichols' pping: reads its output (`pping -r CAPTURE -m`), and predicts the output from pping's source
code.

The model follows pping.cpp of pollere/pping and the libtins parsers that pping calls. After pping has seen both
directions of a flow, it records the first packet with each TSval, and matches this packet with the first packet that
echoes the TSval. The model uses the same double-precision arithmetic as pping, so both print the same digits.

pping ignores many packets that our program measures. `Pping.why_not` names the reason why pping lacks one of our RTTs.
"""

import math
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from otel_epping.errors import EppingError
from tests.oracles.dissect import ETHERNET, NULL, RAW, RAW_BSDOS, SLL, SYN, Packet, options
from tests.oracles.frames import Frame

TSVAL_MAX_AGE = 10.0
FLOW_MAX_IDLE = 300.0
MAX_FLOWS = 10_000
# The link types for which libtins has a parser (DLT_NULL, DLT_RAW...). Some Wi-Fi link types are not listed: libtins
# reads them, but our program does not. On Linux, DLT_RAW is 12, and libpcap reads link type 12 as DLT_RAW.
LINK_TYPES = {ETHERNET, NULL, RAW, RAW_BSDOS, SLL}

_GREATEST_FAMILY = 255

End = tuple[bytes, int]


class Line(NamedTuple):
    """A line of pping's output: the time of the reply, the RTT, and the two endpoints. Times are in microseconds,
    because pping prints them with this precision."""

    number: int
    time_us: int
    rtt_us: int
    source: End
    destination: End


def _microseconds(printed: str) -> int:
    seconds, digits = printed.lstrip("-").split(".")
    value = int(seconds) * 1_000_000 + int(digits.ljust(6, "0")[:6])
    return -value if printed.startswith("-") else value


def _end(printed: str) -> End:
    address, _, port = printed.rpartition(":")
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address), int(port)


def read(path: Path) -> list[Line]:
    """Returns the lines of a file with pping's output. Raises EppingError if a line does not have the format of `pping
    -m`."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            time, rtt, _minimum, _sent, _departed, _before, flow = text.split()
            source, destination = flow.split("+")
            lines.append(Line(number, _microseconds(time), _microseconds(rtt), _end(source), _end(destination)))
        except (ValueError, OSError):
            raise EppingError(
                f"{path}, line {number} is not a line of pping: create the file with pping -r CAPTURE -m -q"
            ) from None
    return lines


class Match(NamedTuple):
    """An RTT that pping should print, according to the model."""

    reply: Packet
    origin: Packet
    time_us: int
    rtt_us: int


@dataclass(slots=True, eq=False)
class _Recorded:
    """A TSval in pping's table."""

    time: float
    packet: Packet
    matched: Packet | None = None


@dataclass(slots=True)
class _Flow:
    last: float = 0.0
    both_ways: bool = False


@dataclass(slots=True)
class _State:
    offset: int = -1
    now: float = 0.0
    next_cleaning: float = 0.0
    flows: dict[tuple[End, End], _Flow] = field(default_factory=dict)
    table: dict[tuple[End, End, int], _Recorded] = field(default_factory=dict)


class Pping:
    """The model of pping's run over the TCP packets of a capture.

    Some builds of pping see more packets than other builds. With `behind_tags`, the model assumes that pping's filter
    also passes packets with tags. With `every_null`, the model assumes that libtins knows the address families in BSD
    loopback ("null") headers of all systems and in both byte orders.
    """

    def __init__(
        self,
        packets: Iterable[Packet],
        records: dict[int, Frame],
        behind_tags: bool = False,
        every_null: bool = False,
    ) -> None:
        self.matches: list[Match] = []
        self._records = records
        self._behind_tags = behind_tags
        self._every_null = every_null
        self.passed: dict[int, str] = {}  # frame -> why pping ignored it
        self._recorded: dict[int, _Recorded] = {}  # frame -> record of its TSval, perhaps from an earlier packet
        # reply -> the record that the reply found, and the earlier match of this record
        self._found: dict[int, tuple[_Recorded, Packet | None] | None] = {}
        self._state = _State()
        for packet in packets:
            reason = self._unseen(packet)
            if reason:
                self.passed[packet.frame] = reason
                continue
            reason = self._see(packet)
            if reason:
                self.passed[packet.frame] = reason
            if self._state.now >= self._state.next_cleaning:
                self._clean()

    def why_not(self, origin: Packet, reply: Packet) -> str | None:
        """Returns the reason why pping has no RTT from `origin` to `reply`, or None if no reason is known."""
        for packet in (reply, origin):
            if packet.frame in self.passed:
                return self.passed[packet.frame]
        if self._recorded[origin.frame].packet is not origin:
            return None
        found = self._found[reply.frame]
        if found is None:
            return None
        if found[1]:
            return f"pping had matched the TSval with {'a RST' if found[1].flags & 4 else 'another packet'} before"
        if found[0].time <= 0.0:
            return "pping regards a TSval as matched if its packet is not later than pping's start time"
        return None

    def _unseen(self, packet: Packet) -> str:
        """Returns the reason why pping's filter (`tcp`) or libtins ignores a packet, or ""."""
        link_type = self._records[packet.frame].link_type
        if link_type not in LINK_TYPES:
            return "libtins does not read this link type"
        if link_type == NULL and not self._every_null:
            if packet.version == 6:
                return "pping's filter expects the BSD number of IPv6, but libtins expects the Linux number"
            # libtins reads the address family in the byte order of the machine on which it runs.
            if int.from_bytes(self._records[packet.frame].data[:4], sys.byteorder) > _GREATEST_FAMILY:
                return "libtins reads null links only in the host's byte order"
        if packet.stack and not self._behind_tags:
            return f"pping's filter ignores packets with {packet.stack[0]}"
        if packet.extensions:
            return "pping's filter ignores packets with IPv6 extension headers"
        if packet.version == 6 and packet.snapped:
            return "libtins rejects truncated IPv6 packets"
        if packet.fault and packet.fault != "a fragment" and not packet.tcp_options:
            return "libtins rejects the packet as malformed"
        for data in (packet.ip_options, packet.tcp_options):
            if any(value is None for _, value in options(data)):
                return "libtins rejects packets with broken options"
        if any(kind == 0 and padding for kind, padding in options(packet.ip_options)):
            return "libtins rejects packets with padded IPv4 options"
        return ""

    def _see(self, packet: Packet) -> str:
        """Models pping's process_packet(). Returns the reason why process_packet() would return early, or ""."""
        state = self._state
        if packet.timestamp is None:
            return "pping finds no timestamp in the packet"
        first = next(value for kind, value in options(packet.tcp_options) if kind == 8)
        if first is None or len(first) != 8:
            return "libtins reads only the first timestamp option, which is invalid"
        tsval, tsecr = packet.timestamp
        if tsval == 0:
            return "pping ignores a TSval of 0"
        if tsecr == 0 and packet.flags != SYN:
            return "pping ignores a TSecr of 0"
        seconds, us = divmod(self._records[packet.frame].time_ns // 1000, 1_000_000)
        if state.offset < 0:
            state.offset = seconds
        state.now = float(seconds - state.offset) + float(us) * 1e-6

        name, reverse = (packet.source, packet.destination), (packet.destination, packet.source)
        flow = state.flows.get(name)
        if flow is None:
            if len(state.flows) > MAX_FLOWS:
                return f"pping's table was full with {MAX_FLOWS} flows"
            flow = state.flows[name] = _Flow()
            if reverse in state.flows:
                state.flows[reverse].both_ways = flow.both_ways = True
        flow.last = state.now
        if not flow.both_ways:
            return "pping had not seen the other direction of the flow yet"

        self._recorded[packet.frame] = state.table.setdefault((*name, tsval), _Recorded(state.now, packet))
        origin = state.table.get((*reverse, tsecr))
        self._found[packet.frame] = (origin, origin.matched) if origin else None
        if origin and origin.time > 0.0 and not origin.matched:
            self.matches.append(Match(packet, origin.packet, *_printed(state, origin.time)))
            origin.matched = packet
        return ""

    def _clean(self) -> None:
        state = self._state
        state.table = {k: v for k, v in state.table.items() if state.now - abs(v.time) <= TSVAL_MAX_AGE}
        state.flows = {k: v for k, v in state.flows.items() if state.now - v.last <= FLOW_MAX_IDLE}
        state.next_cleaning = state.now + TSVAL_MAX_AGE


def _printed(state: _State, time: float) -> tuple[int, int]:
    """Returns the time and the RTT as pping's printf() prints them."""
    fraction = int((state.now - math.floor(state.now)) * 1e6)
    return int(state.now + state.offset) * 1_000_000 + fraction, _microseconds(f"{state.now - time:.6f}")
