# SPDX-License-Identifier: Apache-2.0
"""Models TCP flows: how a segment relates to earlier segments of its sender, and the metrics of flows.

The terms are those of Wireshark's TCP analysis, as in docs/methods.md and docs/metrics.md. Sequence numbers are
compared as distances, so they never wrap around.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tests.long.fuzz.meaning import ACK, FIN, RST, SYN, Meaning

OVERTAKEN_NS = 3_000_000  # how late what was overtaken may be, if the round trip of the handshake is not known
ASKS_AGAIN = 2  # so many times more than once, an acknowledgement asks for what is missing
IDLE_NS = 300_000_000_000  # a flow that was silent for longer has ended


class Segment(Enum):
    """What a segment is to those that its sender sent before."""

    EMPTY = "neither payload, SYN nor FIN; or a RST, which may be anybody's"
    NEXT = "begins where the last one ended"
    AGAIN = "sent again"
    OVERTAKEN = "fills a gap, too soon to have been sent again"
    OTHER = "behind a gap, the first one seen, a keep-alive, a probe of a closed window or what goes on after it"


@dataclass(eq=False)
class Half:
    """What one endpoint of a flow sent."""

    looked_up: bool = False  # its subnet, once a flow
    finished: bool = False

    following: int | None = None  # where it goes on: the number behind the greatest that was sent; None: not known yet
    advanced_ns: int = 0  # and when that was known first
    first: int = 0  # where it began: behind its SYN. It begins as 0, which one in 2^32 is: benign
    acknowledged: int = 0  # the greatest acknowledgement; 0, which one in 2^32 is, counts for none: benign
    duplicates: int = 0  # of it, that say nothing else
    window: int | None = None

    begun_ns: int | None = None  # when the latest RTT was begun, by either method
    newest: int | None = None  # its newest TSval; None: sequence numbers time it
    newest_ns: int = 0  # and when that was first seen
    waiting: list[tuple[int, int] | None] = field(default_factory=lambda: [None] * 4)  # TSval, when
    timed: tuple[int, int] | None = None  # of a sender without timestamps: the ACK of the segment, and its time
    leaves_one_out: bool = False
    tsval: int = 0  # the last one, whether timestamps time it or not
    handed_over: bool = False  # its timestamps ceased to work
    advanced: bool = False  # and an echo is awaited
    # An acknowledgement of this ought to echo what waits longest, or something later; and once one did not. Of one that
    # was handed over for that: an echo of this TSval, or a later one, shows that echoes come again.
    awaited: int = 0
    unechoed: bool = False
    # What acknowledges its latest SYN-ACK. It begins as 0, so of 2^32 handshakes one is taken for repeated: benign.
    accepted: int = 0
    accepted_ns: int | None = None  # None: that does not wait any more

    @property
    def waits(self) -> bool:
        """Whether an RTT was begun by what it sent, its SYN-ACK aside, and has not ended."""
        return self.timed is not None or any(waiting is not None for waiting in self.waiting)


@dataclass(eq=False)
class Flow:
    """A connection, seen one way through an interface."""

    halves: dict[object, Half]
    last_ns: int | None = None
    closed: bool = False
    copied: bool = False  # a copy of one of its segments was seen
    syn_ns: int | None = None  # when the SYN was seen, if only one was
    handshake_ns: int | None = None  # from then to the ACK of the SYN-ACK


def distance(a: int, b: int) -> int:
    """How far number a is ahead of b, less than 0 if it is behind: RFC 9293 section 3.4, RFC 7323 section 5.2."""
    return (a - b + (1 << 31)) % (1 << 32) - (1 << 31)


def later(a: int, b: int) -> bool:
    """Whether number a is ahead of b."""
    return distance(a, b) > 0


def follow(flow: Flow, sender: Half, receiver: Half, meaning: Meaning, now_ns: int) -> Segment:
    """What this segment is; both halves remember what it says."""
    flags = meaning.flags
    if flags & RST:
        return Segment.EMPTY
    size = meaning.payload + bool(flags & SYN) + bool(flags & FIN)
    begin = distance(meaning.sequence, sender.following or 0)
    # A SYN that is not the one before is of a new connection.
    begins = (meaning.sequence + 1) % (1 << 32)
    known = sender.following is not None and not (flags & SYN and begins != sender.first)
    segment, goes_on = Segment.EMPTY, begin > 0  # where even an empty one shows that something is missing
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
        # The SYN was not remembered, for it begins no flow; but this says where its sender goes on.
        receiver.following, receiver.advanced_ns, receiver.acknowledged = meaning.acknowledged, now_ns, 0
        receiver.first = meaning.acknowledged
    if flags & SYN:
        sender.first = begins
    return segment


def is_probe(receiver: Half, meaning: Meaning) -> bool:
    """Of a segment that is the next one: whether it asks for a window that is closed."""
    return meaning.payload == 1 and receiver.window == 0


def compare(flow: Flow, sender: Half, receiver: Half, meaning: Meaning, begin: int, now_ns: int) -> Segment:
    """What a segment is that is not empty, and begins so far ahead of where its sender goes on."""
    flags, payload = meaning.flags, meaning.payload
    size = payload + bool(flags & SYN) + bool(flags & FIN)
    if begin > 0 or (begin == -1 and payload <= 1 and not flags & (SYN | FIN)):
        return Segment.OTHER
    last = (meaning.sequence + size) % (1 << 32)
    if receiver.acknowledged and not later(last, receiver.acknowledged):
        return Segment.AGAIN  # the other end has it
    if begin == 0:
        # The ACK of a first fragment is unknown, as the end of its segment is.
        return Segment.OTHER if is_probe(receiver, meaning) or meaning.is_first_fragment else Segment.NEXT
    if begin == -1 and begin + size > 0 and not flags & SYN:
        return Segment.OTHER
    asked_for = receiver.duplicates >= ASKS_AGAIN and meaning.sequence == receiver.acknowledged
    in_time = 0 <= now_ns - sender.advanced_ns < (flow.handshake_ns or OVERTAKEN_NS)
    return Segment.OVERTAKEN if in_time and not asked_for and begin + size != 0 else Segment.AGAIN


def acknowledge(sender: Half, receiver: Half, meaning: Meaning, now_ns: int) -> None:
    """What a segment says of the other direction."""
    number = meaning.acknowledged
    if receiver.following is None:
        receiver.following, receiver.advanced_ns = number, now_ns
    if not sender.acknowledged or meaning.flags & SYN or later(number, sender.acknowledged):
        sender.acknowledged, sender.duplicates = number, 0
    elif number == sender.acknowledged and meaning.window == sender.window:
        sender.duplicates += not meaning.payload and not meaning.flags & (SYN | FIN)


def behaviour(flow: Flow, sender: Half, meaning: Meaning, segment: Segment, now_ns: int) -> Iterator[tuple[str, str]]:
    """What this segment shows, as counted for the subnet that sent it and for the other: names of the fields of
    struct flow_counters, with the place in them."""
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
    """The same for either end."""
    return name, name
