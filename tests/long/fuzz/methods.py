# SPDX-License-Identifier: Apache-2.0
"""Models which RTT samples a sequence of packets completes. Implements the rules of docs/methods.md.

Each method is a class with a function `see`, which is called for all packets. If a packet replies to an earlier packet,
`see` returns the time of the earlier packet.
"""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Protocol

from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz.flows import Flow, Half, Segment, later
from tests.long.fuzz.meaning import ACK, FIN, ICMP_OF, RST, SYN, Meaning
from tests.long.fuzz.timing import Fault, Timing


@dataclass
class Seen:
    """A packet, with the data that all methods need.

    `way` is the direction of the packet, "in" or "out". `way_back` is the direction of a reply. A router may receive a
    packet and transmit the same packet through the same interface. Then the received packets of a connection are one
    flow, and the transmitted packets are another flow. In a capture, the direction is unknown, and `way` is None.
    """

    meaning: Meaning
    now_ns: int
    way: str | None
    way_back: str | None
    flow: Flow | None = None  # only for TCP. If `flow` is set, the fields below are also set
    sender: Half | None = None
    receiver: Half | None = None
    segment: Segment | None = None


# If an equal request follows within this time, the second request is a copy of the first request.
COPY_NS = 20_000_000


class Method(Protocol):
    """A method of measurement."""

    def __init__(self, config: EppingConfig, counters: Counter[str]) -> None: ...

    def see(self, seen: Seen) -> int | None:
        """Returns the time of the earlier packet to which this packet replies, or None if this packet is no reply."""


def too_soon(half: Half, now_ns: int, interval_ns: int) -> bool:
    """Returns true if the sample interval has not passed since the latest RTT sample was started."""
    return bool(interval_ns) and half.begun_ns is not None and 0 <= now_ns - half.begun_ns < interval_ns


class TcpTimestamp:
    """Measures from the first segment with a TSval to the first TSecr that echoes this TSval."""

    def __init__(self, config: EppingConfig, counters: Counter[str]) -> None:
        self.config, self.counters, self.timing = config, counters, Timing(config, counters)

    def see(self, seen: Seen) -> int | None:
        meaning, sender, receiver = seen.meaning, seen.sender, seen.receiver
        if meaning.timestamp is None or sender is None or receiver is None or meaning.flags & RST:
            return None
        asked_ns = None
        if meaning.flags & ACK and receiver.waits and receiver.newest is not None:
            asked_ns = self.recall(receiver, meaning)
        tsval = meaning.timestamp[0]
        if self.advances(sender, tsval, meaning, seen.now_ns) and (meaning.payload or meaning.flags & FIN):
            self.remember(sender, tsval, seen.now_ns)
        return asked_ns

    def recall(self, half: Half, meaning: Meaning) -> int | None:
        """Matches an echo with the pending samples.

        Pending samples of older TSvals are superseded, because an endpoint that has echoed a TSval never echoes an
        older TSval.
        """
        assert meaning.timestamp is not None
        tsecr, asked_ns, before = meaning.timestamp[1], None, list(half.waiting)
        for place, waiting in enumerate(before):
            if waiting is None or half.newest is None or later(tsecr, half.newest) or later(waiting[0], tsecr):
                continue
            if waiting[0] == tsecr and asked_ns is None:
                asked_ns = waiting[1]
            else:
                self.counters["rtt_superseded"] += 1
            half.waiting[place] = None
        if half.waiting == before:
            self.timing.miss_echo(half, meaning)
        else:
            half.awaited, half.unechoed = half.following or 0, False
        return asked_ns

    def advances(self, half: Half, tsval: int, meaning: Meaning, now_ns: int) -> bool:
        """Returns true if this segment is certainly the first segment with its TSval.

        Returns false for a SYN, for the first TSval of an endpoint, and for the first TSval after a silence that is
        longer than the maximum age.
        """
        known, newest, changed_ns = half.newest is not None, half.newest or 0, half.newest_ns
        if meaning.flags & SYN or not known:
            if half.handed_over:
                return self.timing.takes_back(half, tsval, bool(meaning.payload or meaning.flags & FIN), now_ns)
            self.timing.abandon(half)
            if known and later(newest, tsval):
                half.newest = None  # a new connection, or a late SYN of this connection
                return False
            known = False
        if known and not later(tsval, newest):
            silent = not 0 <= now_ns - changed_ns <= self.config.max_age_ns
            if tsval == newest or not silent:
                return False
            known = False
        half.newest = half.tsval = tsval
        half.newest_ns = now_ns
        return known

    def remember(self, half: Half, tsval: int, now_ns: int) -> None:
        """Stores an RTT sample in the first free place.

        A place is free if it has no sample or an expired sample. Stores at most one sample per sample interval.
        """
        if too_soon(half, now_ns, self.config.sample_interval_ns):
            return
        for place, waiting in enumerate(half.waiting):
            if waiting is not None:
                if now_ns - waiting[1] <= self.config.max_age_ns:
                    continue
                self.counters["rtt_expired"] += 1
            if not half.waits:
                half.awaited = half.following or 0
            half.waiting[place] = tsval, now_ns
            half.begun_ns = now_ns
            self.counters["rtt_begun"] += 1
            return
        self.counters["rtt_not_begun"] += 1


class TcpSequence:
    """Measures from a segment that continues the earlier data to the ACK that acknowledges this segment and nothing
    after it. At most one sample is pending at a time. This method is used only if an endpoint has no working
    timestamps.
    """

    def __init__(self, config: EppingConfig, counters: Counter[str]) -> None:
        self.config, self.counters, self.timing = config, counters, Timing(config, counters)

    def see(self, seen: Seen) -> int | None:
        meaning, sender, receiver = seen.meaning, seen.sender, seen.receiver
        if sender is None or receiver is None or meaning.flags & RST:
            return None
        asked_ns = None
        if meaning.flags & ACK:
            if self.timing.by_sequence(receiver):
                asked_ns = self.acknowledge(receiver, meaning.acknowledged)
                if meaning.timestamp:
                    self.timing.hand_back(receiver, meaning.timestamp[1], seen.now_ns)
            elif receiver.waits and not meaning.timestamp:
                self.timing.miss_echo(receiver, meaning)
        if not self.timing.by_sequence(sender):
            if meaning.timestamp or seen.segment is not Segment.NEXT:
                return asked_ns
            self.timing.hand_over(sender, Fault.MISSING)
        if seen.segment in (Segment.AGAIN, Segment.OVERTAKEN):
            # A retransmission discards the sample (Karn's rule, RFC 6298 section 3). A segment that fills a gap also
            # discards the sample, because the next acknowledgement may be a reply to this segment or to the timed
            # segment.
            self.counters["rtt_repeated"] += sender.timed is not None
            sender.timed = None
        elif seen.segment is Segment.NEXT:
            self.time(sender, seen.now_ns)
        return asked_ns

    def acknowledge(self, half: Half, acknowledged: int) -> int | None:
        """Completes the sample if the acknowledgement number is exactly the end of the timed segment.

        If the acknowledgement number is greater than this end, the sample ends without an RTT. If the acknowledgement
        number is smaller, the sample stays pending.
        """
        if half.timed is None or later(half.timed[0], acknowledged):
            return None
        (end, sent_ns), half.timed = half.timed, None
        if end == acknowledged:
            return sent_ns
        self.counters["rtt_superseded"] += 1
        # The receiver may acknowledge only pairs of segments, and the timed segment was the first of a pair. So the
        # next sample skips one segment, and starts at the second segment of a pair, even within the sample interval.
        half.leaves_one_out, half.begun_ns = True, None
        return None

    def time(self, half: Half, now_ns: int) -> None:
        if half.timed is not None:
            if now_ns - half.timed[1] <= self.config.max_age_ns:
                return
            self.counters["rtt_expired"] += 1
            half.timed = None
        if too_soon(half, now_ns, self.config.sample_interval_ns):
            return
        if half.leaves_one_out:
            half.leaves_one_out = False
            return
        assert half.following is not None
        half.timed, half.begun_ns = (half.following, now_ns), now_ns
        self.counters["rtt_begun"] += 1


class Exchanges:
    """Pending requests. The first reply with the identifier of a request completes the sample (docs/methods.md; Karn's
    rule, RFC 6298 section 3)."""

    def __init__(self, config: EppingConfig, counters: Counter[str]) -> None:
        self.config, self.counters = config, counters
        self.asked: dict[object, tuple[int, str]] = {}
        self.aliases: dict[object, object] = {}

    def ask(self, seen: Seen, identifier: object, grace_ns: int = 0, is_unique: bool = False) -> None:
        """Stores a request.

        If a request with this identifier is already stored, the new request is a repetition. Exception: if the stored
        request has expired and identifiers are not unique, the new request replaces the stored request.
        """
        key = (seen.meaning.version, seen.meaning.source, seen.meaning.destination, seen.way, identifier)
        asked_ns, state = self.asked.get(key, (0, "never"))
        age_ns = seen.now_ns - asked_ns
        if state != "never" and (is_unique or 0 <= age_ns <= self.config.max_age_ns):
            if state == "open" and not 0 <= age_ns <= grace_ns:
                self.asked[key] = asked_ns, "repeated"
                self.counters["rtt_repeated"] += 1
            return
        if state == "open":
            self.counters["rtt_expired"] += 1
        self.asked[key] = seen.now_ns, "open"
        self.counters["rtt_begun"] += 1

    def alias(self, seen: Seen, identifier: object, asked_as: object) -> None:
        """Stores a second identifier for a request.

        A reply with the second identifier also completes the request. Does nothing if a request with the second
        identifier exists.
        """
        ends = (seen.meaning.version, seen.meaning.source, seen.meaning.destination, seen.way)
        if (*ends, identifier) not in self.asked:
            self.asked[(*ends, identifier)] = 0, "alias"
            self.aliases[(*ends, identifier)] = (*ends, asked_as)

    def answer(self, seen: Seen, identifier: object) -> tuple[bool, int | None]:
        """Returns two values: true if a request with this identifier was seen, and the time of this request.

        The time is None if the request was repeated, or if the request already had a reply.
        """
        key: object = (seen.meaning.version, seen.meaning.destination, seen.meaning.source, seen.way_back, identifier)
        asked_ns, state = self.asked.get(key, (0, "never"))
        if state == "alias":
            key = self.aliases[key]
            asked_ns, state = self.asked.get(key, (0, "never"))
        if state == "open":
            self.asked[key] = asked_ns, "answered"
            return True, asked_ns
        return state != "never", None


class TcpHandshake(Exchanges):
    """Measures from a SYN to its SYN-ACK, and from the SYN-ACK to the ACK that completes the handshake."""

    def see(self, seen: Seen) -> int | None:
        meaning = seen.meaning
        if meaning.kind != "tcp":
            return None
        flags = meaning.flags & (SYN | ACK | RST)
        if flags == SYN:
            following = (meaning.sequence + 1) % (1 << 32)
            self.ask(seen, following, COPY_NS, is_unique=True)
            if meaning.payload:  # RFC 7413: the server may or may not acknowledge this payload
                self.alias(seen, (following + meaning.payload) % (1 << 32), following)
        elif flags == SYN | ACK:
            _, asked_ns = self.answer(seen, meaning.acknowledged)
            self.accept(seen, asked_ns)
            return asked_ns
        elif flags == ACK:
            return self.accepted(seen)
        return None

    def accept(self, seen: Seen, asked_ns: int | None) -> None:
        server, following = seen.sender, (seen.meaning.sequence + 1 + seen.meaning.payload) % (1 << 32)
        if server is None or seen.flow is None:
            return
        if server.accepted == following:
            if server.accepted_ns is not None and 0 <= seen.now_ns - server.accepted_ns <= COPY_NS:
                return
            self.counters["rtt_repeated"] += server.accepted_ns is not None
            server.accepted_ns = None
            return
        self.counters["rtt_abandoned"] += server.accepted_ns is not None
        server.accepted, server.accepted_ns = following, seen.now_ns
        seen.flow.syn_ns, seen.flow.handshake_ns = asked_ns, None
        self.counters["rtt_begun"] += 1

    def accepted(self, seen: Seen) -> int | None:
        server, flow = seen.receiver, seen.flow
        if server is None or flow is None or server.accepted_ns is None:
            return None
        asked_ns, server.accepted_ns = server.accepted_ns, None
        if seen.meaning.acknowledged != server.accepted:
            self.counters["rtt_superseded"] += 1
            return None
        if flow.syn_ns is not None and seen.now_ns > flow.syn_ns:
            flow.handshake_ns = seen.now_ns - flow.syn_ns
        return asked_ns


class IcmpEcho(Exchanges):
    """Measures from an echo request to the reply with the same identifier and sequence number (RFC 792, RFC 4443
    section 4)."""

    def see(self, seen: Seen) -> int | None:
        if seen.meaning.echo is None:
            return None
        kind, identifier = seen.meaning.echo
        request, reply = {1: (8, 0), 58: (128, 129)}[ICMP_OF[seen.meaning.version]]
        if kind == request:
            self.ask(seen, identifier, COPY_NS)
        elif kind == reply:
            return self.answer(seen, identifier)[1]
        return None


class Dns(Exchanges):
    """Measures from a query to UDP port 53 to the response with the same identifier (RFC 1035 section 4.1.1)."""

    def see(self, seen: Seen) -> int | None:
        head = seen.meaning.head
        # A payload of zeros is not a query.
        if not any(head):
            return None
        transaction, is_response = head[:2], bool(head[2] & 0x80)
        if seen.meaning.destination[1] == 53 and not is_response:
            self.ask(seen, transaction, COPY_NS)
        elif seen.meaning.source[1] == 53 and is_response:
            return self.answer(seen, transaction)[1]
        return None


class QuicHandshake(Exchanges):
    """Measures from the first Initial packet of a flow to the first packet in the other direction that has a long
    header (RFC 9000 section 17.2, RFC 9369 section 3.2).
    """

    INITIAL: ClassVar = {b"\x00\x00\x00\x01": 0, b"\x6b\x33\x43\xcf": 1}
    FLIGHT_NS = 200_000_000

    def see(self, seen: Seen) -> int | None:
        head = seen.meaning.head
        if not head or head[0] & 0xC0 != 0xC0 or head[1:5] not in self.INITIAL:
            return None
        known, asked_ns = self.answer(seen, "")
        if not known and head[0] >> 4 & 3 == self.INITIAL[head[1:5]]:
            self.ask(seen, "", self.FLIGHT_NS)
        return asked_ns


METHODS: dict[str, type[Method]] = {
    "tcp_timestamp": TcpTimestamp,
    "tcp_sequence": TcpSequence,
    "tcp_handshake": TcpHandshake,
    "icmp_echo": IcmpEcho,
    "dns": Dns,
    "quic_handshake": QuicHandshake,
}
