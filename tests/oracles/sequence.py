# SPDX-License-Identifier: Apache-2.0
"""Uses the sequence numbers in a capture to find the segment that an acknowledgement acknowledges, and to find
retransmissions and copies.

If our program has an RTT but tshark has none, this module shows that the RTT is correct and why tshark has none.
"""

import struct
from collections import defaultdict

from tests.oracles import dissect
from tests.oracles.dissect import ACK, FIN, RST, SYN, Packet
from tests.oracles.frames import Frame

# The longest time between two captures of the same packet at two places on its way.
COPY_NS = 1_000_000
# Two equal packets with the same IPv4 identification may be copies of one packet if they are at most this time apart.
# For example, the packet may pass two tunnels (RFC 6864 section 5.3).
LATE_COPY_NS = 100_000_000
# The longest time between two copies without an IPv4 identification. A later equal packet may be a retransmission.
COPY_WITHOUT_ID_NS = 100_000
# The number of duplicate acknowledgements after which a fast retransmission is expected. RFC 5681 section 3.2 requires
# three, but some duplicates may be lost.
_ASKING_DUPLICATES = 2

_WORD, _HALF = 1 << 32, 1 << 31
# The Ethernet and IPv4 headers have _CHANGEABLE bytes together, and may differ between copies. All later bytes must be
# equal, and must include at least an ICMP or UDP header, which has _LEAST_SAME bytes.
_CHANGEABLE, _LEAST_SAME = 34, 8

_Way = tuple[object, object]


def sent_again(packets: list[Packet]) -> set[int]:
    """Returns the frames of segments that contain only data that was sent before. Sequence numbers wrap around (RFC
    9293 section 3.4).

    If the server refused the data of a SYN, this data is not regarded as sent before, because the server discarded the
    data (RFC 7413 section 3).
    """
    refusals = set(refused(packets).values())
    greatest: dict[_Way, int] = {}
    again = set()
    for packet in packets:
        if packet.frame in refusals:
            greatest[packet.destination, packet.source] = packet.ack
        if packet.fault or end_of(packet) == packet.seq:
            continue
        end, way = end_of(packet), (packet.source, packet.destination)
        begins = way not in greatest or (packet.flags & SYN and greatest[way] != end)
        if begins or 0 < (end - greatest[way]) & 0xFFFFFFFF < 1 << 31:
            greatest[way] = end
        else:
            again.add(packet.frame)
    return again


def refused(packets: list[Packet]) -> dict[int, int]:
    """Finds the frames that send the refused data of a SYN again. Maps each frame to the SYN-ACK that refused the data.

    A SYN-ACK that refuses the data acknowledges only the SYN (RFC 7413 section 4.1.3).
    """
    carried: dict[_Way, int] = {}  # the sequence number of the first data byte in a SYN
    refusals: dict[_Way, Packet] = {}
    found = {}
    for packet in packets:
        way, back = (packet.source, packet.destination), (packet.destination, packet.source)
        if packet.fault:
            continue
        if packet.flags & (SYN | ACK) == SYN and packet.payload:
            carried[way] = (packet.seq + 1) & 0xFFFFFFFF
        elif packet.flags & SYN and carried.get(back) == packet.ack:
            refusals[back] = packet
        elif way in refusals and packet.payload and packet.seq == carried[way]:
            found[packet.frame] = refusals.pop(way).frame
    return found


def copies(packets: list[Packet], limit_ns: int = COPY_NS) -> dict[int, int]:
    """Finds copies: frames whose packet was already captured at another place. Maps each copy to the packet's first
    frame.

    Copies may differ only in the TTL and the link header. A packet is not a copy if its data was requested again by
    duplicate acknowledgements after the first packet. A pure acknowledgement without an identification is not a copy
    either, because a sender may send several equal acknowledgements.
    """
    recent: dict[tuple[object, ...], tuple[Packet, tuple[int, int]]] = {}
    acked: dict[_Way, tuple[int, int]] = {}  # the latest acknowledgement number, and how often it was repeated
    found: dict[int, int] = {}
    for packet in packets:
        if packet.fault:
            continue
        way, back = (packet.source, packet.destination), (packet.destination, packet.source)
        header = (packet.seq, packet.ack, packet.flags, packet.window, packet.checksum, packet.tcp_options)
        key = (*way, packet.identification, packet.payload, *header)
        first, before = recent.get(key, (None, (0, 0)))
        now = acked.get(back, (0, 0))
        is_bare = end_of(packet) == packet.seq
        within_ns = limit_ns if packet.identification else 0 if is_bare else COPY_WITHOUT_ID_NS
        asked_for = now[0] == packet.seq and now[1] >= _ASKING_DUPLICATES and now != before
        if first and 0 <= packet.time_ns - first.time_ns <= within_ns and not asked_for:
            found[packet.frame] = first.frame
            continue
        recent[key] = packet, now
        latest, repeats = acked.get(way, (0, 0))
        acked[way] = (packet.ack, repeats + is_bare if latest == packet.ack else 0)
    return found


def are_copies(first: Frame, second: Frame) -> bool:
    """Returns true if two frames have the same packet. All bytes must be equal except the headers that a link or a
    router may change."""
    size = min(len(first.data), len(second.data)) - _CHANGEABLE
    return size >= _LEAST_SAME and first.data[-size:] == second.data[-size:]


def was_sent_later(segment: Packet, packets: dict[int, Packet]) -> bool | None:
    """Returns true if a segment was sent after the segments with higher sequence numbers, false if it was sent before
    them, and None if this is unknown.

    Senders usually increment the identification of their IPv4 packets, although RFC 6864 does not require it. A segment
    that was overtaken on its way has a lower identification than the segments with higher sequence numbers. A
    retransmission has a higher identification than the segments with higher sequence numbers.
    """
    before = [
        packet
        for packet in packets.values()
        if packet.frame < segment.frame and (packet.source, packet.destination) == (segment.source, segment.destination)
    ]
    ahead = max(before, key=lambda packet: (end_of(packet) - segment.seq) % _WORD ^ _HALF, default=None)
    if not ahead or not segment.identification or not ahead.identification:
        return None
    apart = (segment.identification - ahead.identification) % (1 << 16)
    return apart < 1 << 15 if apart else None


def end_of(packet: Packet) -> int:
    """Returns the acknowledgement number that acknowledges the whole segment."""
    return (packet.seq + packet.payload + bool(packet.flags & SYN) + bool(packet.flags & FIN)) & 0xFFFFFFFF


class Acknowledgements:
    """Finds the segment to which an acknowledgement refers."""

    def __init__(self, records: list[Frame], packets: list[Packet]) -> None:
        self._records = records
        self._packets = {packet.frame: packet for packet in packets}
        self._copies = copies(packets)
        self._by_end: dict[tuple[object, object, int], list[Packet]] = defaultdict(list)
        for packet in packets:
            if not packet.fault and end_of(packet) != packet.seq:
                self._by_end[packet.source, packet.destination, end_of(packet)].append(packet)
            if not packet.fault and packet.flags & SYN and packet.payload:  # RFC 7413: the data may be refused
                self._by_end[packet.source, packet.destination, (packet.seq + 1) & 0xFFFFFFFF].append(packet)

    def origin(self, reply: int, rtt_ns: int) -> Packet | None:
        """Returns the segment that frame `reply` acknowledges and that was sent `rtt_ns` before this frame. The program
        records an RTT below 1 us as 1 us."""
        packet = self._packets[reply]
        for segment in self._by_end.get((packet.destination, packet.source, packet.ack), ()):
            if segment.frame < reply and max(packet.time_ns - segment.time_ns, 1000) == rtt_ns:
                return segment
        return None

    def is_first(self, origin: Packet, reply: int) -> bool:
        """Returns true if three conditions hold: a segment was sent only once, frame `reply` is the first frame that
        acknowledges the segment, and frame `reply` acknowledges exactly the end of the segment."""
        answer, end = self._packets[reply], end_of(origin)
        sent = 0
        for packet in self._packets.values():
            way = packet.source, packet.destination
            if way == (origin.source, origin.destination) and packet.frame not in self._copies:
                sent += (end - 1 - packet.seq) % _WORD < (end_of(packet) - packet.seq) % _WORD
            is_between = origin.frame < packet.frame < reply and packet.flags & ACK
            if is_between and way == (answer.source, answer.destination) and (packet.ack - end) % _WORD < _HALF:
                return False
        return sent == 1 and answer.ack == end

    def copies_of(self, origin: Packet) -> set[int]:
        """Returns the frames of the copies of a segment."""
        return {frame for frame, first in self._copies.items() if first == origin.frame}

    def why_not(self, origin: Packet, reply: int) -> str | None:
        """Returns the reason why tshark has no RTT for an acknowledgement, although our program has one. Returns None
        if no reason is known."""
        answer = self._packets[reply]
        if answer.time_ns == origin.time_ns:
            return "tshark does not report an RTT of zero"
        if origin.flags & SYN and answer.ack != end_of(origin):
            return "tshark gives no RTT for a SYN whose data is refused"
        between = (packet for packet in self._packets.values() if origin.frame < packet.frame < reply)
        for packet in between:
            if packet.source != answer.source or packet.destination != answer.destination:
                continue
            if packet.flags & SYN and not packet.flags & ACK:
                return "tshark restarts at the SYN, which came after its SYN-ACK"
            if packet.flags & RST and packet.ack == answer.ack:
                return "tshark uses the acknowledgement in an earlier RST"
        if self.in_a_tunnel(answer, reply):
            return "tshark regards tunnelled packets as part of the same connection"
        return None

    def in_a_tunnel(self, packet: Packet, frame: int) -> bool:
        """Returns true if tunnelled packets of the same connection were captured up to this frame."""
        # IPv4 and IPv6 headers both end with the source and the destination, and TCP headers start with the ports.
        ends = [
            one[0] + other[0] + struct.pack("!HH", one[1], other[1])
            for one, other in ((packet.source, packet.destination), (packet.destination, packet.source))
        ]
        return any(
            record.number <= frame
            and record.number not in self._packets
            and any(end in record.data for end in ends)
            and not dissect.is_icmp(record)  # an ICMP error quotes the packet that caused it
            for record in self._records
        )
