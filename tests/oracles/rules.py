# SPDX-License-Identifier: Apache-2.0
"""Implements the sampling rules of tcp_timestamp a second time, in slow and simple code. Shows why a TSval gave no RTT,
and which frames prove the reason.

The rules are described at the start of bpf/tcp_timestamp.h and in docs/methods.md. Sampling is off: every TSval that
may start an RTT sample starts one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from tests.oracles import sequence
from tests.oracles.dissect import ACK, FIN, RST, SYN, Packet
from tests.oracles.ours import MAX_AGE_NS

OUTSTANDING = 4
LEAST_RTT_NS = 1000  # A shorter RTT is recorded as this value.
STILL_NS = 100_000_000  # If a TSval is sent for longer, the program may regard the clock as stopped.
_WORD = 1 << 64


class Rule(Enum):
    """The reason why a TSval and its echo do not give an RTT in our program."""

    NOT_WHOLE = "one of the two packets is not complete"
    SYN = "the origin is a SYN or SYN-ACK, whose reply belongs to the handshake"
    PURE_ACK = "the origin is a pure ACK"
    FIRST = "the first TSval of a direction, which may have been sent before the capture started"
    NOT_ADVANCING = "the TSval of the origin does not advance"
    NEW_CONNECTION = "the TSval of the origin is lower after a silence, so the origin starts a new connection"
    NOT_BEGUN = f"{OUTSTANDING} TSvals were pending already"
    RESET = "one of the two packets is a RST"
    NO_ACK = "the reply has no ACK flag, so its TSecr is invalid"
    SUPERSEDED = "a later TSval was echoed first"
    BEGUN_ANEW = "a SYN came between the two packets"
    TOO_OLD = "the reply came after the maximum age"
    BACKWARDS = "the reply is older than its origin, because the capture's time runs backwards"
    ANSWERED = "an earlier reply had echoed the TSval"
    SENT_AGAIN = "the origin was retransmitted with the same TSval, so it is unknown which transmission was echoed"
    EVICTED = "there are more flows than entries in the flow table"
    # After LEFT_TO_SEQUENCE or PERHAPS_SENT_AGAIN applies, the program may measure the direction by sequence numbers
    # until timestamps work again. Until then, the program may give RTTs from timestamps, but need not.
    LEFT_TO_SEQUENCE = "before the origin, its sender's timestamps had stopped, did not advance, or were not echoed"
    PERHAPS_SENT_AGAIN = "a retransmission, or a late copy of the origin, has the TSval of the origin"


@dataclass(slots=True)
class Reason:
    """A rule, and the frames that show that the rule applies."""

    rule: Rule
    evidence: str = ""


@dataclass(slots=True)
class _Waiting:
    packet: Packet
    tsval: int
    doubt: Reason | None = None


@dataclass(slots=True)
class _Half:
    """The state of one endpoint of a connection, from the packets that it sent."""

    edge: Packet | None = None  # the packet that set `last_tsval`
    last_tsval: int = 0
    fault: Reason | None = None  # The reason why sequence numbers may replace timestamps.
    unechoed: Packet | None = None  # An acknowledgement that did not echo the pending TSval.
    waiting: list[_Waiting | None] = field(default_factory=lambda: [None] * OUTSTANDING)


def _later(a: int, b: int) -> bool:
    """Compares timestamps, which wrap around (RFC 7323 section 5.2)."""
    return 0 < (a - b) & 0xFFFFFFFF < 1 << 31


class Rules:
    """Applies the rules to all TCP packets of a capture.

    `rtts` has the RTTs that the program must give: frame of the reply -> (frame of the origin, ns). For a reply in
    `doubtful`, the program may give an RTT or no RTT. The RTTs in `possible` are permitted, too: if the program has
    discarded a doubtful sample, the program can start a sample for another TSval.
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
        self._fate: dict[int, Reason] = {}  # frame of the origin -> reason
        self._halves: dict[tuple[object, ...], dict[tuple[bytes, int], _Half]] = {}
        for packet in packets:
            self._packets[packet.frame] = packet
            self._see(packet)
        self.flows = len(self._halves)

    def why_not(self, origin: int, reply: int) -> Reason | None:
        """Frame `reply` echoes the TSval of frame `origin`. Returns the reason why this echo gives no RTT, or None if
        no rule excludes the RTT."""
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
            # If both endpoints have the same address and port, there is only one entry.
            halves = {packet.destination: _Half()} | {packet.source: _Half()}
            self._halves[packet.flow] = halves
        self._look_for_faults(halves[packet.source], halves[packet.destination], packet)
        if packet.timestamp is None:
            if packet.flags & SYN:  # this endpoint will send no timestamps
                self._begin_anew(halves[packet.source], packet)
            return
        if packet.flags & RST:
            self._fate[packet.frame] = Reason(Rule.RESET, f"frame {packet.frame}")
            return
        if packet.flags & ACK and packet.source != packet.destination:
            self._match(halves[packet.destination], packet)
        self._begin(halves[packet.source], packet)

    def _look_for_faults(self, sender: _Half, receiver: _Half, packet: Packet) -> None:
        """Checks whether this packet is a retransmission, and whether the packet shows that the timestamps of the
        sender or the receiver no longer work."""
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
        """Handles a retransmission with the TSval of a pending sample (Karn's rule, RFC 6298 section 3)."""
        assert again.timestamp
        for place, waiting in enumerate(sender.waiting):
            if waiting is None or waiting.tsval != again.timestamp[0]:
                continue
            # An equal identification shows that the packet is a copy, even if it comes late.
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
                # The SYN may have been overtaken by later packets.
                self._fate[packet.frame] = reason
                return
        elif edge is None:
            reason = Reason(Rule.FIRST)
        elif tsval == sender.last_tsval or not _later(tsval, sender.last_tsval):
            reason = Reason(Rule.NOT_ADVANCING, f"{tsval} in frame {packet.frame}, {sender.last_tsval} in {edge.frame}")
            # If the capture's time runs backwards, the difference wraps around and looks like a long silence.
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
