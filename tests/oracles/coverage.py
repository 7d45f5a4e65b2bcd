# SPDX-License-Identifier: Apache-2.0
"""Checks how many TCP flows get an RTT, and lists flows that could have been measured but were not. These rules apply
to all captures together:

- At least 99.5 % of the flows whose handshake is in the capture get an RTT.
- At least 99 % of the flows with payload in both directions get an RTT.
- Each direction with CLEAN or more clean exchanges gets an RTT.
- It is an error if SILENT or more successive clean exchanges of a direction, which together last SILENCE_NS or longer,
give no RTT.

A clean exchange is a segment whose RTT any tool could measure, together with the acknowledgement of the segment. The
sender of the segment had no other data in flight, and no part of the segment was retransmitted. The next packet in the
other direction acknowledges exactly this segment, within the maximum age. Flows whose packets have no capture time are
ignored.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.oracles import dissect, frames, sequence
from tests.oracles.dissect import ACK, FIN, RST, SYN, Packet
from tests.oracles.ours import MAX_AGE_NS, Ours
from tests.oracles.report import Report

LEAST_SHARE = 0.99
LEAST_SHARE_WITH_HANDSHAKE = 0.995
CLEAN = 3
# A TSval gives no RTT if the first packet with this TSval is a pure ACK. Pure ACKs prevent the
# RTTs of only a few successive segments of a flow.
SILENT = 5
SILENCE_NS = 1_000_000_000
# Segments within one tick of the sender's clock have the same TSval. The slowest clocks in use tick 10 times per
# second.
TICK_NS = 200_000_000

End = tuple[bytes, int]


class Flow:
    """A connection.

    packets   its complete packets
    methods   the methods that gave it an RTT
    replies   by endpoint: the frames of this endpoint that completed an RTT of data
    """

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.methods: set[str] = set()
        self.replies: dict[End, set[int]] = defaultdict(set)

    @property
    def both_ways(self) -> bool:
        """True if both endpoints sent payload."""
        return len({packet.source for packet in self.packets if packet.payload}) == 2

    @property
    def has_handshake(self) -> bool:
        """True if the capture has the SYN, the SYN-ACK of this SYN, and the ACK of this SYN-ACK, in this order."""
        syns: set[tuple[End, int]] = set()
        accepted: set[tuple[End, int]] = set()
        for packet in self.packets:
            following = (packet.seq + 1) & 0xFFFFFFFF
            match packet.flags & (SYN | ACK | RST):
                case dissect.SYN:
                    syns |= {(packet.source, following), (packet.source, sequence.end_of(packet))}
                case flags if flags == SYN | ACK and (packet.destination, packet.ack) in syns:
                    accepted.add((packet.source, following))
                case dissect.ACK if (packet.destination, packet.ack) in accepted:
                    return True
        return False

    def why_none(self) -> str:
        """Returns the possible reasons why the flow has no RTT."""
        reasons = []
        again = sequence.sent_again(self.packets)
        first = [p for p in self.packets if p.frame not in again and (p.payload or p.flags & FIN) and not p.flags & SYN]
        ends = {(p.source, sequence.end_of(p)) for p in first}
        if not any(p.flags & SYN for p in self.packets):
            reasons.append("the capture starts mid-way")
        if len([p for p in self.packets if p.flags & (SYN | ACK) == SYN]) > 1:
            reasons.append("SYN retransmitted")
        if not any((p.destination, p.ack) in ends for p in self.packets if not p.flags & RST):
            reasons.append("no acknowledgement of exactly one segment")
        if not all(p.time_ns for p in self.packets):
            reasons.append("packets without a time")
        tsvals = {(p.source, p.timestamp[0]) for p in first if p.timestamp}
        if tsvals:
            echoed = {(p.destination, p.timestamp[1]) for p in self.packets if p.timestamp}
            reasons.append(f"{len(tsvals)} TSvals of data, {len(tsvals & echoed)} of them echoed")
        else:
            reasons.append("no timestamps")
        return (
            f"{len(self.packets)} packets, {len(first)} with new data or FIN, {len(again)} retransmitted; "
            + ", ".join(reasons)
        )

    def clean_exchanges(self) -> dict[End, list[Packet]]:
        """For each endpoint, returns its packets that complete a clean exchange."""
        found: dict[End, list[Packet]] = defaultdict(list)
        copies = sequence.copies(self.packets)
        again = sequence.sent_again(self.packets)
        doubted = {(p.source, p.seq) for p in self.packets if p.frame in again - copies.keys()}
        waiting: dict[End, Packet | None] = {}
        reached: dict[End, int] = {}  # the next sequence number of each endpoint
        acked: dict[End, int] = {}  # the acknowledgement number that each endpoint received last
        for packet in self.packets:
            if packet.frame in copies:
                continue
            sender, receiver = packet.source, packet.destination
            if packet.flags & (SYN | RST):
                waiting[sender] = waiting[receiver] = None
            asked = waiting.get(receiver)
            if asked and packet.flags & ACK:
                waiting[receiver] = None
                late = not asked.time_ns <= packet.time_ns <= asked.time_ns + MAX_AGE_NS
                if packet.ack == sequence.end_of(asked) and not late:
                    found[sender].append(packet)
            if packet.flags & ACK:
                acked[receiver] = packet.ack
            is_next = reached.get(sender) == packet.seq == acked.get(sender)
            is_timed = packet.payload and is_next and packet.time_ns and not packet.flags & (SYN | RST)
            end = sequence.end_of(packet)
            if is_timed and (sender, packet.seq) not in doubted:
                waiting[sender] = packet
            elif end != packet.seq:
                waiting[sender] = None
            if end != packet.seq or packet.flags & SYN or sender not in reached:
                reached[sender] = end
        return found


def check(captures: Iterable[Path], ours: Ours) -> Report:
    """Checks all captures. Returns each count, summed over all captures. Raises EppingError if a capture cannot be
    read."""
    report = Report("coverage")
    counted: Counter[str] = Counter()
    for capture in captures:
        for name, flow in _flows(capture, ours, report).items():
            if not any(packet.time_ns for packet in flow.packets):
                counted["untimed"] += 1
                continue
            _check_directions(f"{capture.name}, {name}", flow, counted, report)
            covered = bool(flow.methods)
            has_handshake = flow.has_handshake
            counted["with handshake"] += has_handshake
            counted["covered, with handshake"] += has_handshake and covered
            if flow.both_ways:
                counted["flows"] += 1
                counted["covered"] += covered
                counted.update(flow.methods)
            if (flow.both_ways or has_handshake) and not covered:
                report.notes.append(f"{capture.name}, {name}: {flow.why_none()}")
    _sum_up(counted, ours, report)
    return report


def _check_directions(name: str, flow: Flow, counted: Counter[str], report: Report) -> None:
    for end, answers in flow.clean_exchanges().items():
        if len(answers) < CLEAN or answers[-1].time_ns - answers[0].time_ns < TICK_NS:
            continue
        frames_of_rtts = flow.replies[end]
        counted["directions"] += 1
        if not frames_of_rtts:
            count, where = len(answers), "but has no RTT"
        elif run := _silent_run(answers, frames_of_rtts):
            count, where = len(run), f"in a row without an RTT, frames {run[0].frame} to {run[-1].frame}"
        else:
            counted["measured directions"] += 1
            continue
        report.errors.append(f"{name}: {dissect.endpoint(end)} answered {count} clean exchanges {where}")


def _silent_run(answers: list[Packet], frames_of_rtts: set[int]) -> list[Packet]:
    """Returns the longest run of successive replies without an RTT. Returns no replies if the run has fewer than SILENT
    replies or is shorter than SILENCE_NS."""
    runs: list[list[Packet]] = [[]]
    rtts = sorted(frames_of_rtts)
    before = 0
    for answer in answers:
        passed = bisect_right(rtts, answer.frame)
        if passed != before:
            runs.append([])
            before = passed
        if answer.frame not in frames_of_rtts:
            runs[-1].append(answer)
    longest = max(runs, key=len)
    is_long = len(longest) >= SILENT and longest[-1].time_ns - longest[0].time_ns >= SILENCE_NS
    return longest if is_long else []


def _sum_up(counted: Counter[str], ours: Ours, report: Report) -> None:
    def share(of: str, all_of_them: str) -> float:
        return counted[of] / counted[all_of_them] if counted[all_of_them] else 1.0

    report.tally["TCP flows with payload in both directions"] = counted["flows"]
    for what in ("covered", *(method for method in ours.methods if method.startswith("tcp_"))):
        name = f"with an RTT{'' if what == 'covered' else f' by {what}'} ({share(what, 'flows'):.1%})"
        report.tally[name] = counted[what]
    report.tally["TCP flows whose handshake is in the capture"] = counted["with handshake"]
    covered = share("covered, with handshake", "with handshake")
    report.tally[f"of these, with an RTT ({covered:.2%})"] = counted["covered, with handshake"]
    if counted["untimed"]:
        report.tally["TCP flows without times"] = counted["untimed"]
    report.tally[f"directions with {CLEAN} or more clean exchanges"] = counted["directions"]
    report.tally["of these directions, measured without a long gap"] = counted["measured directions"]
    if share("covered", "flows") < LEAST_SHARE:
        report.errors.append(
            f"{counted['covered']} of {counted['flows']} flows have an RTT: less than {LEAST_SHARE:.0%}"
        )
    if covered < LEAST_SHARE_WITH_HANDSHAKE:
        report.errors.append(
            f"{counted['covered, with handshake']} of {counted['with handshake']} flows with a handshake have an RTT: "
            f"less than {LEAST_SHARE_WITH_HANDSHAKE:.1%}"
        )


def _flows(capture: Path, ours: Ours, report: Report) -> dict[str, Flow]:
    observed = ours.run(capture)
    if lost := observed.account["evicted"]:
        report.errors.append(f"{capture.name}: {lost} of the started RTT samples are in no counter: {observed.account}")
    records = observed.seen(list(frames.read(capture)), report)
    flows: dict[tuple[object, ...], Flow] = {}
    by_frame: dict[int, tuple[Flow, Packet]] = {}
    for packet in map(dissect.tcp_packet, records):
        if packet and not packet.fault:
            flow = flows.setdefault(packet.flow, Flow())
            by_frame[packet.frame] = flow, packet
            flow.packets.append(packet)
    for sample in observed.samples:
        if sample.frame in by_frame:
            flow, packet = by_frame[sample.frame]
            flow.methods.add(sample.method)
            if sample.method != "tcp_handshake":
                flow.replies[packet.source].add(packet.frame)
    return {f"{flow.packets[0]}": flow for flow in flows.values()}
