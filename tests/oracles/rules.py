# SPDX-License-Identifier: Apache-2.0
"""Implements the sampling rules of tcp_timestamp again, slow and plain: why a TSval gave no RTT, with the frames.

The rules are those at the head of bpf/tcp_timestamp.h and in docs/methods.md. Sampling is off: every edge is timed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from tests.oracles import sequence
from tests.oracles.dissect import ACK, FIN, RST, SYN, Packet
from tests.oracles.ours import MAX_AGE_NS

OUTSTANDING = 4
LEAST_RTT_NS = 1000  # what is less counts as this
STILL_NS = 100_000_000  # a TSval that is sent for longer may be taken for one that stands still
_WORD = 1 << 64


class Rule(Enum):
    """Why a TSval and its echo are no RTT of ours."""

    NOT_WHOLE = "one of the two is no whole TCP packet"
    SYN = "origin is a SYN or SYN-ACK: its answer belongs to the handshake"
    PURE_ACK = "origin is a pure ACK"
    FIRST = "first TSval of a direction: it may have been sent before we looked"
    NOT_ADVANCING = "origin's TSval does not advance"
    NEW_CONNECTION = "origin's TSval went back after a silence: a new connection, which begins with it"
    NOT_BEGUN = f"{OUTSTANDING} TSvals waited already"
    RESET = "one of the two is a RST"
    NO_ACK = "reply has no ACK flag: its TSecr is void"
    SUPERSEDED = "a later TSval was echoed first"
    BEGUN_ANEW = "a SYN came between them"
    TOO_OLD = "the reply came after the maximum age"
    BACKWARDS = "the reply is older than its origin: the capture's time runs backwards"
    ANSWERED = "an earlier reply had echoed it"
    SENT_AGAIN = "the origin was sent again with the same TSval: nobody can tell which one was echoed"
    EVICTED = "more flows than the program remembers"
    # Either is right: the program may time a direction by sequence numbers from then on, until timestamps work again.
    LEFT_TO_SEQUENCE = "timestamps of the origin's sender had stopped, stood still, or were not echoed before"
    PERHAPS_SENT_AGAIN = "what was sent before, or a late copy of the origin, has the TSval of the origin"


@dataclass(slots=True)
class Reason:
    """A rule, and the frames that show that it applies."""

    rule: Rule
    evidence: str = ""


@dataclass(slots=True)
class _Waiting:
    packet: Packet
    tsval: int
    doubt: Reason | None = None


@dataclass(slots=True)
class _Half:
    """What one end of a connection sent."""

    edge: Packet | None = None  # the packet that set `last_tsval`
    last_tsval: int = 0
    fault: Reason | None = None  # why sequence numbers may time this end
    unechoed: Packet | None = None  # an acknowledgement of what waits that did not echo it
    waiting: list[_Waiting | None] = field(default_factory=lambda: [None] * OUTSTANDING)


def _later(a: int, b: int) -> bool:
    """RFC 7323 section 5.2: timestamps wrap around."""
    return 0 < (a - b) & 0xFFFFFFFF < 1 << 31


class Rules:
    """Applies the rules to all TCP packets of a capture.

    `rtts` are the RTTs that must come out: frame of the reply -> (frame of the origin, ns). Those of `doubtful`, by the
    frame of the reply, may come out. So may those that are `possible`: where the program forgot what is in doubt, there
    was room for another TSval.
    """

    def __init__(self, packets: Iterable[Packet]) -> None:
        packets = list(packets)
        self.rtts: dict[int, tuple[int, int]] = {}
        self.doubtful: dict[int, Reason] = {}
        self.possible: dict[int, tuple[int, int]] = {}
        self._perhaps_begun: dict[tuple[object, ...], Packet] = {}
        self.flows = 0
        self._copies = sequence.copies(packets)
        self._again = sequence.sent_again(packets) - self._copies.keys()
        self._packets: dict[int, Packet] = {}
        self._fate: dict[int, Reason] = {}  # of an origin
        self._halves: dict[tuple[object, ...], dict[tuple[bytes, int], _Half]] = {}
        for packet in packets:
            self._packets[packet.frame] = packet
            self._see(packet)
        self.flows = len(self._halves)

    def why_not(self, origin: int, reply: int) -> Reason | None:
        """Why the echo in frame `reply` of the TSval of frame `origin` is no RTT; None if the rules know no reason."""
        if reply in self.rtts and self.rtts[reply][0] == origin:
            return None
        for frame in (reply, origin):
            if self._packets[frame].fault:
                return Reason(Rule.NOT_WHOLE, f"frame {frame}: {self._packets[frame].fault}")
        if self._packets[reply].flags & RST:
            return Reason(Rule.RESET, f"frame {reply}")
        if not self._packets[reply].flags & ACK:
            return Reason(Rule.NO_ACK, f"frame {reply}")
        return self._fate.get(origin)

    def _see(self, packet: Packet) -> None:
        if packet.fault:
            return
        halves = self._halves.get(packet.flow)
        if halves is None:
            if packet.flags & (SYN | ACK) == SYN or packet.flags & RST:
                self._fate[packet.frame] = Reason(Rule.SYN if packet.flags & SYN else Rule.RESET)
                return
            # Both ends the same: what it sends and what it gets are kept apart all the same, and never meet.
            halves = {packet.destination: _Half()} | {packet.source: _Half()}
            self._halves[packet.flow] = halves
        self._look_for_faults(halves[packet.source], halves[packet.destination], packet)
        if packet.timestamp is None:
            if packet.flags & SYN:  # it says that this end sends none
                self._begin_anew(halves[packet.source], packet)
            return
        if packet.flags & RST:
            self._fate[packet.frame] = Reason(Rule.RESET, f"frame {packet.frame}")
            return
        if packet.flags & ACK and packet.source != packet.destination:
            self._match(halves[packet.destination], packet)
        self._begin(halves[packet.source], packet)

    def _look_for_faults(self, sender: _Half, receiver: _Half, packet: Packet) -> None:
        """Whether this packet shows that timestamps do not time its sender, or its receiver; what was sent again."""
        if packet.flags & (SYN | RST):
            return
        is_new = packet.payload > 0 and packet.frame not in self._again
        if packet.timestamp is None or not packet.timestamp[0]:
            if sender.edge:
                sender.fault = Reason(Rule.LEFT_TO_SEQUENCE, f"no TSval in frame {packet.frame}")
        elif is_new and sender.edge and self._stands_still(sender, packet):
            sender.fault = Reason(Rule.LEFT_TO_SEQUENCE, f"{sender.last_tsval} again in frame {packet.frame}")
        if packet.flags & ACK:
            echo = packet.timestamp[1] if packet.timestamp else 0
            for waiting in filter(None, receiver.waiting):
                acknowledged = not _later(sequence.end_of(waiting.packet), packet.ack)
                if acknowledged and (not echo or _later(waiting.tsval, echo)):
                    if receiver.unechoed or not echo:
                        receiver.fault = Reason(Rule.LEFT_TO_SEQUENCE, f"not echoed in frame {packet.frame}")
                    receiver.unechoed = packet
        if packet.timestamp and packet.frame in self._again:
            self._doubt(sender, packet)

    def _stands_still(self, sender: _Half, packet: Packet) -> bool:
        assert packet.timestamp
        assert sender.edge
        advances = _later(packet.timestamp[0], sender.last_tsval)
        return not advances and packet.time_ns - sender.edge.time_ns >= STILL_NS

    def _doubt(self, sender: _Half, again: Packet) -> None:
        """What is sent again with the TSval of what waits (Karn's rule, RFC 6298 section 3)."""
        assert again.timestamp
        for place, waiting in enumerate(sender.waiting):
            if waiting is None or waiting.tsval != again.timestamp[0]:
                continue
            # The same identification shows a copy, however late it is.
            is_copy = bool(again.identification) and again.identification == waiting.packet.identification
            if waiting.packet.seq == again.seq and waiting.packet.payload == again.payload and not is_copy:
                self._fate[waiting.packet.frame] = Reason(Rule.SENT_AGAIN, f"in frame {again.frame}")
                sender.waiting[place] = None
            else:
                waiting.doubt = Reason(Rule.PERHAPS_SENT_AGAIN, f"in frame {again.frame}")

    def _begin(self, sender: _Half, packet: Packet) -> None:
        assert packet.timestamp
        tsval, edge = packet.timestamp[0], sender.edge
        reason: Reason | None = None
        if packet.flags & SYN:
            reason = Reason(Rule.SYN)
            self._begin_anew(sender, packet)
            if edge and _later(sender.last_tsval, tsval):
                # It may have been overtaken by what came after it.
                self._fate[packet.frame] = reason
                return
        elif edge is None:
            reason = Reason(Rule.FIRST)
        elif tsval == sender.last_tsval or not _later(tsval, sender.last_tsval):
            reason = Reason(Rule.NOT_ADVANCING, f"{tsval} in frame {packet.frame}, {sender.last_tsval} in {edge.frame}")
            # A time that went back looks like a long silence.
            silence_ns = (packet.time_ns - edge.time_ns) % _WORD
            if tsval == sender.last_tsval or (silence_ns <= MAX_AGE_NS and not sender.fault):
                self._fate[packet.frame] = reason
                return
            reason.rule = Rule.LEFT_TO_SEQUENCE if sender.fault else Rule.NEW_CONNECTION
        elif not (packet.payload or packet.flags & FIN):
            reason = Reason(Rule.PURE_ACK)
        sender.edge, sender.last_tsval = packet if packet.time_ns else None, tsval
        if reason is None and packet.time_ns:
            reason = self._remember(sender, packet, tsval)
        if reason is not None:
            self._fate[packet.frame] = reason

    def _begin_anew(self, sender: _Half, syn: Packet) -> None:
        for waiting in filter(None, sender.waiting):
            self._fate[waiting.packet.frame] = Reason(Rule.BEGUN_ANEW, f"frame {syn.frame}")
        sender.waiting, sender.edge = [None] * OUTSTANDING, None
        sender.fault = sender.unechoed = None

    def _remember(self, sender: _Half, packet: Packet, tsval: int) -> Reason | None:
        for place, waiting in enumerate(sender.waiting):
            if waiting is not None:
                if packet.time_ns - waiting.packet.time_ns <= MAX_AGE_NS:
                    continue
                self._fate[waiting.packet.frame] = Reason(Rule.TOO_OLD, f"at frame {packet.frame}")
            sender.waiting[place] = _Waiting(packet, tsval, sender.fault)
            return None
        if any(waiting and waiting.doubt for waiting in sender.waiting):
            self._perhaps_begun[packet.source, packet.destination, tsval] = packet
        frames = ", ".join(str(waiting.packet.frame) for waiting in sender.waiting if waiting)
        return Reason(Rule.NOT_BEGUN, f"of frames {frames}")

    def _match(self, receiver: _Half, reply: Packet) -> None:
        assert reply.timestamp
        tsecr = reply.timestamp[1]
        if perhaps := self._perhaps_begun.pop((reply.destination, reply.source, tsecr), None):
            self.possible[reply.frame] = perhaps.frame, max(reply.time_ns - perhaps.time_ns, LEAST_RTT_NS)
        if receiver.edge is None or _later(tsecr, receiver.last_tsval):
            return
        for place, waiting in enumerate(receiver.waiting):
            if waiting is None or _later(waiting.tsval, tsecr):
                continue
            receiver.waiting[place] = None
            origin = waiting.packet
            rtt_ns = reply.time_ns - origin.time_ns
            if waiting.tsval != tsecr:
                fate = Reason(Rule.SUPERSEDED, f"{tsecr} by frame {reply.frame}")
            elif rtt_ns < 0:
                fate = Reason(Rule.BACKWARDS, f"by {-rtt_ns} ns")
            elif rtt_ns > MAX_AGE_NS:
                fate = Reason(Rule.TOO_OLD, f"{rtt_ns} ns")
            else:
                fate = Reason(Rule.ANSWERED, f"by frame {reply.frame}")
                self.rtts[reply.frame] = origin.frame, max(rtt_ns, LEAST_RTT_NS)
                if doubt := waiting.doubt or receiver.fault:
                    self.doubtful[reply.frame] = doubt
            self._fate[origin.frame] = fate
