# SPDX-License-Identifier: Apache-2.0
"""Which TCP segment an acknowledgement answers, and what was sent before: by sequence numbers, from the capture alone.

With it an RTT of ours is shown to be true where tshark has none, and the reason why tshark has none is named.
"""

import struct
from collections import defaultdict

from oracles import dissect
from oracles.dissect import ACK, FIN, RST, SYN, Packet
from oracles.frames import Frame

_Way = tuple[object, object]


def sent_again(packets: list[Packet]) -> set[int]:
    """Frames of segments that carry nothing but what was sent before (sequence numbers wrap around: RFC 9293, 3.4)."""
    greatest: dict[_Way, int] = {}
    again = set()
    for packet in packets:
        if packet.fault or end_of(packet) == packet.seq:
            continue
        end, way = end_of(packet), (packet.source, packet.destination)
        begins = way not in greatest or (packet.flags & SYN and greatest[way] != end)
        if begins or 0 < (end - greatest[way]) & 0xFFFFFFFF < 1 << 31:
            greatest[way] = end
        else:
            again.add(packet.frame)
    return again


def end_of(packet: Packet) -> int:
    """The number that acknowledges all of a segment."""
    return (packet.seq + packet.payload + bool(packet.flags & SYN) + bool(packet.flags & FIN)) & 0xFFFFFFFF


class Acknowledgements:
    """Finds what acknowledgements answer."""

    def __init__(self, records: list[Frame], packets: list[Packet]) -> None:
        self._records = records
        self._packets = {packet.frame: packet for packet in packets}
        self._by_end: dict[tuple[object, object, int], list[Packet]] = defaultdict(list)
        for packet in packets:
            if not packet.fault and end_of(packet) != packet.seq:
                self._by_end[packet.source, packet.destination, end_of(packet)].append(packet)
            if not packet.fault and packet.flags & SYN and packet.payload:  # RFC 7413: the data may be refused
                self._by_end[packet.source, packet.destination, (packet.seq + 1) & 0xFFFFFFFF].append(packet)

    def origin(self, reply: int, rtt_ns: int) -> Packet | None:
        """The segment that the packet in frame `reply` acknowledges, sent `rtt_ns` before; a microsecond is none."""
        packet = self._packets[reply]
        for segment in self._by_end.get((packet.destination, packet.source, packet.ack), ()):
            if segment.frame < reply and max(packet.time_ns - segment.time_ns, 1000) == rtt_ns:
                return segment
        return None

    def why_not(self, origin: Packet, reply: int) -> str | None:
        """Why tshark has no time for an acknowledgement that we have found to be one; None if we know no reason."""
        answer = self._packets[reply]
        if answer.time_ns == origin.time_ns:
            return "shows no time of zero"
        if origin.flags & SYN and answer.ack != end_of(origin):
            return "times no SYN of which the data is refused"
        between = (packet for packet in self._packets.values() if origin.frame < packet.frame < reply)
        for packet in between:
            if packet.source != answer.source or packet.destination != answer.destination:
                continue
            if packet.flags & SYN and not packet.flags & ACK:
                return "begins anew with the SYN, which came after its SYN-ACK"
            if packet.flags & RST and packet.ack == answer.ack:
                return "takes the acknowledgement of a RST, which came before"
        if self.in_a_tunnel(answer, reply):
            return "takes what is in a tunnel for the same connection"
        return None

    def in_a_tunnel(self, packet: Packet, frame: int) -> bool:
        """Whether there are packets of the same connection inside of others, up to a frame."""
        # IPv4 and IPv6 headers alike end with source and destination, and TCP begins with its ports.
        ends = [
            one[0] + other[0] + struct.pack("!HH", one[1], other[1])
            for one, other in ((packet.source, packet.destination), (packet.destination, packet.source))
        ]
        return any(
            record.number <= frame
            and record.number not in self._packets
            and any(end in record.data for end in ends)
            and not dissect.is_icmp(record)  # an error message cites the packet that it is about
            for record in self._records
        )
