# SPDX-License-Identifier: Apache-2.0
"""Models TCP flows: how a segment relates to earlier segments of its sender, and the metrics of flows.

The model uses the terms of Wireshark's TCP analysis, like docs/methods.md and docs/metrics.md. The model only compares
the distances between sequence numbers, so a wrap-around needs no special case.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tests.long.fuzz.meaning import ACK, FIN, RST, SYN, Meaning
from tests.long.fuzz.slots import Subnet

OVERTAKEN_NS = 3_000_000  # the maximum delay of an out-of-order segment if the RTT of the handshake is unknown
ASKS_AGAIN = 2  # after this number of duplicate acknowledgements, the sender retransmits
IDLE_NS = 300_000_000_000  # a flow ends after this time without a packet


class Segment(Enum):
    """How a segment relates to the earlier segments of its sender."""

    EMPTY = "has no payload, no SYN and no FIN; or is a RST, which may be forged"
    NEXT = "starts where the previous segment ended"
    AGAIN = "is a retransmission"
    OVERTAKEN = "fills a gap, but too early to be a retransmission"
    OTHER = "is the first segment, follows a gap or a probe, or is itself a keep-alive or a zero-window probe"


@dataclass(eq=False)
class Half:
    """The state of one endpoint of a flow.

    Most of the state is derived from the segments that this endpoint has sent.
    """

    place: Subnet | None = None  # the slot of the subnet, which is looked up once per flow
    finished: bool = False

    following: int | None = None  # the number after the last byte that was sent, or None if unknown
    advanced_ns: int = 0  # the time when `following` last changed
    first: int = 0  # the sequence number after the SYN; 0 if unknown (benign: 1 of 2^32 flows has the number 0)
    acknowledged: int = 0  # the greatest acknowledgement number sent; 0 if none (benign: 1 of 2^32 is 0)
    duplicates: int = 0  # the number of duplicate acknowledgements with the number `acknowledged`
    window: int | None = None

    begun_ns: int | None = None  # the time when the latest RTT sample was started, by any TCP method
    newest: int | None = None  # the newest TSval, or None if the segments are timed by sequence numbers
    newest_ns: int = 0  # when `newest` was first seen
    waiting: list[tuple[int, int] | None] = field(default_factory=lambda: [None] * 4)  # pending samples: (TSval, time)
    timed: tuple[int, int] | None = None  # the pending sample: (number that completes the sample, time of the segment)
    leaves_one_out: bool = False
    tsval: int = 0  # the last TSval, even if the segments are timed by sequence numbers
    handed_over: bool = False  # the timestamps stopped working, so the segments are timed by sequence numbers
    advanced: bool = False  # the TSval has advanced, so an echo is expected
    # An acknowledgement of the number `awaited` must echo the oldest pending TSval or a later TSval. `unechoed`
    # is true after one acknowledgement that echoes no pending TSval. If missing echoes were the reason to switch to
    # sequence numbers, `awaited` is a TSval, and an echo of `awaited` or of a later TSval shows that echoes work again.
    awaited: int = 0
    unechoed: bool = False
    # The number that acknowledges the latest SYN-ACK of this endpoint. The initial value is 0, so 1 of 2^32 handshakes
    # is taken for a repeated handshake (benign).
    accepted: int = 0
    accepted_ns: int | None = None  # the time of the SYN-ACK, or None if its RTT sample is not pending

    @property
    def waits(self) -> bool:
        """True if a segment of this endpoint has started an RTT sample that is still pending.

        RTT samples of a SYN-ACK are ignored.
        """
        return self.timed is not None or any(waiting is not None for waiting in self.waiting)


@dataclass(eq=False)
class Flow:
    """A connection through an interface. The two endpoints are on different sides of the interface."""

    halves: dict[object, Half]
    last_ns: int | None = None
    closed: bool = False
    copied: bool = False  # a copy of a segment of the flow was seen
    syn_ns: int | None = None  # the time of the SYN, if there was only one
    handshake_ns: int | None = None  # the time from the SYN to the ACK of the SYN-ACK


def distance(a: int, b: int) -> int:
    """Returns how far `a` is ahead of `b`.

    The result is negative if `a` is behind `b` (RFC 9293 section 3.4, RFC 7323 section 5.2).
    """
    return (a - b + (1 << 31)) % (1 << 32) - (1 << 31)


def later(a: int, b: int) -> bool:
    """Returns true if `a` is ahead of `b`."""
    return distance(a, b) > 0


def follow(flow: Flow, sender: Half, receiver: Half, meaning: Meaning, now_ns: int) -> Segment:
    """Classifies a segment, and updates both halves of the flow."""
    flags = meaning.flags
    if flags & RST:
        return Segment.EMPTY
    size = meaning.payload + bool(flags & SYN) + bool(flags & FIN)
    begin = distance(meaning.sequence, sender.following or 0)
    # A SYN starts a new connection if its sequence number differs from the sequence number of the previous SYN.
    begins = (meaning.sequence + 1) % (1 << 32)
    known = sender.following is not None and not (flags & SYN and begins != sender.first)
    segment, goes_on = Segment.EMPTY, begin > 0  # an empty segment ahead of the expected number shows a gap
    if size:
        segment = compare(flow, sender, receiver, meaning, begin, now_ns) if known else Segment.OTHER
        probes = begin == 0 and segment is Segment.OTHER and is_probe(receiver, meaning)
        goes_on = begin + size > 0 and not probes
    if not known or goes_on:
        sender.following, sender.advanced_ns = (meaning.sequence + size) % (1 << 32), now_ns
    if flags & ACK:
        acknowledge(sender, receiver, meaning, now_ns)
    sender.window = meaning.window
    if flags & SYN and flags & ACK and segment is Segment.OTHER:
        # The SYN was not stored, because a SYN starts no flow. But the SYN-ACK acknowledges the SYN, so the
        # acknowledgement number is the next sequence number of the SYN's sender.
        receiver.following, receiver.advanced_ns, receiver.acknowledged = meaning.acknowledged, now_ns, 0
        receiver.first = meaning.acknowledged
    if flags & SYN:
        sender.first = begins
    return segment


def is_probe(receiver: Half, meaning: Meaning) -> bool:
    """Returns true if a segment of kind NEXT is a zero-window probe."""
    return meaning.payload == 1 and receiver.window == 0


def compare(flow: Flow, sender: Half, receiver: Half, meaning: Meaning, begin: int, now_ns: int) -> Segment:
    """Classifies a segment that is not empty.

    `begin` is the sequence number of the segment minus the expected number.
    """
    flags, payload = meaning.flags, meaning.payload
    size = payload + bool(flags & SYN) + bool(flags & FIN)
    if begin > 0 or (begin == -1 and payload <= 1 and not flags & (SYN | FIN)):
        return Segment.OTHER
    last = (meaning.sequence + size) % (1 << 32)
    if receiver.acknowledged and not later(last, receiver.acknowledged):
        return Segment.AGAIN  # the other endpoint has already acknowledged the segment
    if begin == 0:
        # A first fragment does not show where its segment ends, so the number that acknowledges the segment is unknown.
        return Segment.OTHER if is_probe(receiver, meaning) or meaning.is_first_fragment else Segment.NEXT
    if begin == -1 and begin + size > 0 and not flags & SYN:
        return Segment.OTHER
    asked_for = receiver.duplicates >= ASKS_AGAIN and meaning.sequence == receiver.acknowledged
    in_time = 0 <= now_ns - sender.advanced_ns < (flow.handshake_ns or OVERTAKEN_NS)
    return Segment.OVERTAKEN if in_time and not asked_for and begin + size != 0 else Segment.AGAIN


def acknowledge(sender: Half, receiver: Half, meaning: Meaning, now_ns: int) -> None:
    """Updates both halves from the acknowledgement in a segment."""
    number = meaning.acknowledged
    if receiver.following is None:
        receiver.following, receiver.advanced_ns = number, now_ns
    if not sender.acknowledged or meaning.flags & SYN or later(number, sender.acknowledged):
        sender.acknowledged, sender.duplicates = number, 0
    elif number == sender.acknowledged and meaning.window == sender.window:
        sender.duplicates += not meaning.payload and not meaning.flags & (SYN | FIN)


def behaviour(flow: Flow, sender: Half, meaning: Meaning, segment: Segment, now_ns: int) -> Iterator[tuple[str, str]]:
    """Yields the names of the flow counters that a segment increments, in pairs: a counter of the sender's subnet, and
    a counter of the other subnet. A name consists of a field of struct flow_counters and an index into this field.
    """
    flags = meaning.flags
    accepts = bool(flags & SYN and flags & ACK) and segment is Segment.OTHER
    if accepts or flow.last_ns is None or now_ns - flow.last_ns > IDLE_NS:
        flow.closed = False
        for half in flow.halves.values():
            half.finished = False
        yield both("opened 0" if accepts else "opened 1")
    flow.last_ns = now_ns

    if segment is Segment.AGAIN:
        yield "retransmitted 0", "retransmitted 1"
    if segment is Segment.OVERTAKEN:
        yield "out_of_order 0", "out_of_order 1"
    if meaning.window == 0 and not flags & (SYN | FIN | RST):
        yield "zero_window 0", "zero_window 1"

    sender.finished |= bool(flags & FIN)
    if not flow.closed and (flags & RST or all(half.finished for half in flow.halves.values())):
        flow.closed = True
        yield both("closed 1" if flags & RST else "closed 0")


def both(name: str) -> tuple[str, str]:
    """Returns the same counter name for the subnets of both endpoints."""
    return name, name
