# SPDX-License-Identifier: Apache-2.0
"""Compares the methods other than tcp_timestamp with Wireshark's analysis. Each of our samples must equal a response
time in Wireshark's analysis."""

from collections.abc import Callable
from pathlib import Path

from tests.oracles import dissect, frames, sequence
from tests.oracles.dissect import ACK, RST, SYN, Packet
from tests.oracles.frames import Frame
from tests.oracles.ours import Observed, Ours, Sample
from tests.oracles.report import Report
from tests.oracles.wireshark import KINDS, RETRANSMISSIONS, Answer, Answers, Found

TOLERANCE_NS = 1000
# The maximum number of frames between a packet and its copy.
_NEAR_FRAMES = 100
# The permitted difference between our number of retransmissions and tshark's number: a share of tshark's number, and a
# number of frames for small captures.
LEEWAY = 0.05
LEEWAY_FRAMES = 2


def check(capture: Path, found: Found, ours: Ours) -> Report:
    """Runs our program over a capture and compares the results. Raises EppingError if the file cannot be read."""
    return compare(list(frames.read(capture)), ours.run(capture), found, f"{capture.name} against tshark")


def compare(records: list[Frame], observed: Observed, found: Found, title: str) -> Report:
    """Compares the program's results for the records of a capture with tshark's results."""
    report = Report(title)
    comparison = _Comparison(observed.seen(records, report), found, report)
    if found.ack_rtt is not None:
        comparison.check_tcp(observed.of("tcp_handshake"), found.ack_rtt, comparison.of_a_syn)
        comparison.check_tcp(observed.of("tcp_sequence"), found.ack_rtt, comparison.of_a_first_transmission)
    if found.dns is not None:
        comparison.check_answers(observed.of("dns"), found.dns)
    if found.icmp is not None:
        comparison.check_answers(observed.of("icmp_echo"), found.icmp)
    if found.kinds is not None:
        comparison.check_retransmissions(observed.kinds, found.kinds)
    return comparison.report


class _Comparison:
    def __init__(self, records: list[Frame], found: Found, report: Report) -> None:
        packets = [packet for packet in map(dissect.tcp_packet, records) if packet]
        self.report = report
        self.found = found
        self.records = {record.number: record for record in records}
        self.packets = {packet.frame: packet for packet in packets}
        self.copies = sequence.copies(packets)
        self.late_copies = sequence.copies(packets, sequence.LATE_COPY_NS).keys() - self.copies.keys()
        self.again = sequence.sent_again(packets)
        self.refused = sequence.refused(packets)
        self.acknowledgements = sequence.Acknowledgements(records, packets)

    def check_tcp(self, samples: list[Sample], answers: Answers, fault_of: Callable[[Packet], str]) -> None:
        """Checks that each sample is the time from a segment of the right kind to its acknowledgement."""
        for sample in samples:
            what = f"{sample.method}, frame {sample.frame}, {self.packets.get(sample.frame)}, {sample.rtt_ns} ns"
            if sample.frame not in self.packets:
                self.report.errors.append(f"{what}: is not a TCP packet")
                continue
            origin = self.acknowledgements.origin(sample.frame, sample.rtt_ns)
            theirs = answers.get(sample.frame, [])
            if not origin:
                self.report.errors.append(f"{what}: acknowledges no segment from the start of the RTT; {_say(theirs)}")
            elif fault := fault_of(origin):
                self.report.errors.append(f"{what}: {fault}, frame {origin.frame}")
            elif _agree(sample, theirs):
                self.report.tally[f"{sample.method}: ours and tshark's"] += 1
            elif self._times_the_copy(sample, origin, theirs):
                self.report.tally[f"{sample.method}: ours and tshark's, but tshark's RTT starts at the copy"] += 1
            elif origin.frame in self.refused:
                self.report.tally[
                    f"{sample.method}: ours only: tshark's RTT starts at the SYN with the refused data"
                ] += 1
            elif reason := self._odd(sample) or self.acknowledgements.why_not(origin, sample.frame):
                self.report.tally[f"{sample.method}: ours only: {reason}"] += 1
            elif not theirs and self.acknowledgements.is_first(origin, sample.frame):
                self.report.tally[f"{sample.method}: ours only: tshark has no RTT, but the capture shows the RTT"] += 1
            else:
                self.report.errors.append(f"{what} from frame {origin.frame}: {_say(theirs)}")

    def _times_the_copy(self, sample: Sample, origin: Packet, theirs: list[Answer]) -> bool:
        """Returns true if the segment was captured twice and tshark's time starts at the copy."""
        reply_ns = self.packets[sample.frame].time_ns
        return any(
            answer.frame in self.acknowledgements.copies_of(origin)
            and abs(reply_ns - self.packets[answer.frame].time_ns - answer.rtt_ns) <= TOLERANCE_NS
            for answer in theirs
        )

    def check_answers(self, samples: list[Sample], answers: Answers) -> None:
        """Checks that each sample equals tshark's time for the same reply."""
        for sample in samples:
            theirs = answers.get(sample.frame, [])
            if _agree(sample, theirs):
                self.report.tally[f"{sample.method}: ours and tshark's"] += 1
            elif not theirs and (odd := self._odd(sample)):
                self.report.tally[f"{sample.method}: ours only: {odd}"] += 1
            elif any(self._answers_the_first(sample, answer) for answer in theirs):
                self.report.tally[f"{sample.method}: ours and tshark's, but tshark's RTT starts at the copy"] += 1
            else:
                self.report.errors.append(f"{sample.method}, frame {sample.frame}, {sample.rtt_ns} ns: {_say(theirs)}")

    def _answers_the_first(self, sample: Sample, answer: Answer) -> bool:
        """Returns true if tshark's request is a copy of an earlier request, and our RTT starts at that earlier
        request."""
        reply, copy = self.records[sample.frame], self.records[answer.frame]
        return any(
            reply.time_ns - first.time_ns == sample.rtt_ns
            and copy.time_ns - first.time_ns <= sequence.COPY_NS
            and sequence.are_copies(first, copy)
            for first in (self.records[number] for number in range(max(1, answer.frame - _NEAR_FRAMES), answer.frame))
        )

    def check_retransmissions(self, ours: dict[str, set[int]], theirs: dict[str, set[int]]) -> None:
        """Checks that our number of retransmissions and tshark's number differ by at most LEEWAY. Counts all
        differences by kind."""
        tally = self.report.tally
        mine, others = ours["retransmitted"], set().union(*(theirs[kind] for kind in RETRANSMISSIONS))
        beyond = {frame: reason for frame in others - mine if (reason := self._beyond(frame))}
        late = (mine - others) & self.again & theirs["out_of_order"]
        proven = {frame for frame in late if sequence.was_sent_later(self.packets[frame], self.packets)}
        proven |= mine & self.late_copies  # for a late copy, both results (copy, retransmission) are correct
        for frame in sorted(others - mine):
            label = next(kind for kind in reversed(RETRANSMISSIONS) if frame in theirs[kind]).replace("_", " ")
            kind = "out of order" if frame in ours["out_of_order"] else "an ordinary segment"
            tally[f"retransmissions: tshark only ({label}): {beyond.get(frame, f'{kind} in our program')}"] += 1
        for frame in sorted(mine - others):
            kind = next((kind for kind in KINDS if frame in theirs[kind]), "an ordinary segment").replace("_", " ")
            proof = ": sent later, according to its IPv4 identification" if frame in proven else ""
            tally[f"retransmissions: ours only ({kind} in tshark){proof}"] += 1
        if mine & others:
            tally["retransmissions: ours and tshark's"] += len(mine & others)
        for kind in ("out_of_order", "zero_window"):
            if ours[kind] or theirs[kind]:
                self.report.notes.append(f"{kind.replace('_', ' ')}: {len(ours[kind])}, tshark {len(theirs[kind])}")
        count, expected = len(mine - proven), len(others - proven) - len(beyond)
        if abs(count - expected) > max(LEEWAY * expected, LEEWAY_FRAMES):
            frames_of = ", ".join(map(str, sorted((mine ^ (others - beyond.keys())) - proven)[:10]))
            self.report.errors.append(f"we have {count} retransmissions, but tshark has {expected}: frames {frames_of}")

    def _beyond(self, frame: int) -> str | None:
        """Returns the reason why the comparison ignores a segment that tshark reports, or None."""
        packet = self.packets.get(frame)
        if packet is None or packet.fault:
            return "in a tunnel or incomplete, according to our program"
        if frame in self.copies:
            return "a copy (packet captured twice)"
        if frame in self.late_copies:
            return "a late copy (packet captured twice)"
        if frame in self.refused:
            return "data of the SYN that the server refused"
        if packet.flags & (SYN | ACK) == SYN:
            return "a SYN, which starts no flow"
        if packet.flags & RST:
            return "a RST"
        if packet.frame in self.again and sequence.was_sent_later(packet, self.packets) is False:
            return "overtaken, according to its IPv4 identification"
        if self._is_counted_on(packet):
            return "tshark continues with the numbers of the previous connection"
        inside = self.acknowledgements.in_a_tunnel(packet, frame)
        return "tshark regards tunnelled packets as part of the same connection" if inside else None

    def _is_counted_on(self, packet: Packet) -> bool:
        """Returns true if tshark regards new data as a retransmission. The cause is a SYN-ACK that starts a new
        connection. After this SYN-ACK, tshark still compares new segments with the sequence numbers of the old
        connection.

        tshark marks the SYN-ACK both as a retransmission and as a reuse of the ports.
        """
        if not self.found.kinds or packet.frame in self.again:
            return False
        both = self.found.kinds.get("reused_ports", set()) & self.found.kinds["retransmission"]
        return any(
            frame <= packet.frame
            and self.packets[frame].source == packet.source
            and self.packets[frame].flow == packet.flow
            for frame in both & self.packets.keys()
        )

    def _odd(self, sample: Sample) -> str | None:
        """Returns the reason why tshark does not match a reply with its request. tshark reports this reason in its
        fields."""
        names = [name for name, frames in self.found.odd.items() if sample.frame in frames]
        return names[0] if names else None

    def of_a_syn(self, origin: Packet) -> str:
        """Returns why a segment cannot be the origin of a tcp_handshake RTT, or "" if it can."""
        return "" if origin.flags & SYN else "the origin is not a SYN or SYN-ACK"

    def of_a_first_transmission(self, origin: Packet) -> str:
        """Returns why a segment cannot be the origin of a tcp_sequence RTT, or "" if it can."""
        for kind in RETRANSMISSIONS:
            if not self.found.kinds or origin.frame not in self.found.kinds[kind]:
                continue
            inside = self.acknowledgements.in_a_tunnel(origin, origin.frame)
            if origin.frame not in self.refused and not inside and not self._is_counted_on(origin):
                return f"the origin is a {kind.replace('_', ' ')}"
        return "the origin contains only data that was sent before" if origin.frame in self.again else ""


def _agree(sample: Sample, theirs: list[Answer]) -> bool:
    return any(abs(answer.rtt_ns - sample.rtt_ns) <= TOLERANCE_NS for answer in theirs)


def _say(theirs: list[Answer]) -> str:
    return "tshark has " + (
        ", ".join(f"{a.rtt_ns} ns from frame {a.frame}" for a in theirs) or "no time for this frame"
    )
