# SPDX-License-Identifier: Apache-2.0
"""How many TCP flows get an RTT, and what could have been measured and was not. Over all captures together

- flows whose handshake is in the capture: at least 99.5 %;
- flows with payload in both directions: at least 99 %;
- each direction with CLEAN or more clean exchanges: at least one RTT of the end that acknowledges, and never SILENT of
  them in a row, over SILENCE_NS or more, without one.

A clean exchange is a segment that anybody could time: its sender had nothing else under way, nobody sent it again, and
the next packet back acknowledges it, and nothing more, within the maximum age. Flows of which no packet has a time are
left out.
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
# A TSval that a pure ACK had first times no segment; that does not go on for long.
SILENT = 5
SILENCE_NS = 1_000_000_000
# Within a tick of a clock, TSvals tell no two segments apart; the slowest in use tick 10 times a second.
TICK_NS = 200_000_000

End = tuple[bytes, int]


class Flow:
    """A connection.

    packets   that are whole
    methods   that gave it an RTT
    replies   frames that ended an RTT of data, by the end that sent them
    """

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.methods: set[str] = set()
        self.replies: dict[End, set[int]] = defaultdict(set)

    @property
    def both_ways(self) -> bool:
        """Whether either end sent payload."""
        return len({packet.source for packet in self.packets if packet.payload}) == 2

    @property
    def has_handshake(self) -> bool:
        """Whether its SYN, the SYN-ACK of that, and the ACK of this follow each other in the capture."""
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
        """What stands in the way of an RTT; several things may."""
        reasons = []
        again = sequence.sent_again(self.packets)
        first = [p for p in self.packets if p.frame not in again and (p.payload or p.flags & FIN) and not p.flags & SYN]
        ends = {(p.source, sequence.end_of(p)) for p in first}
        if not any(p.flags & SYN for p in self.packets):
            reasons.append("joined mid-way")
        if len([p for p in self.packets if p.flags & (SYN | ACK) == SYN]) > 1:
            reasons.append("SYN sent again")
        if not any((p.destination, p.ack) in ends for p in self.packets if not p.flags & RST):
            reasons.append("no acknowledgement of just one segment")
        if not all(p.time_ns for p in self.packets):
            reasons.append("packets without a time")
        tsvals = {(p.source, p.timestamp[0]) for p in first if p.timestamp}
        if tsvals:
            echoed = {(p.destination, p.timestamp[1]) for p in self.packets if p.timestamp}
            reasons.append(f"timestamps, {len(tsvals)} of data, {len(tsvals & echoed)} echoed")
        else:
            reasons.append("no timestamps")
        return f"{len(self.packets)} packets, {len(first)} with new data or FIN, {len(again)} sent again; " + ", ".join(
            reasons
        )

    def clean_exchanges(self) -> dict[End, list[Packet]]:
        """The clean exchanges that each end answered: its answers."""
        found: dict[End, list[Packet]] = defaultdict(list)
        copies = sequence.copies(self.packets)
        again = sequence.sent_again(self.packets)
        doubted = {(p.source, p.seq) for p in self.packets if p.frame in again - copies.keys()}
        waiting: dict[End, Packet | None] = {}
        reached: dict[End, int] = {}  # where the next segment of an end begins
        acked: dict[End, int] = {}  # what was acknowledged to it
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
    """Counts over all captures. Raises EppingError if one can't be read."""
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
            count, where = len(answers), "and has no RTT"
        elif run := _silent_run(answers, frames_of_rtts):
            count, where = len(run), f"in a row without an RTT, frames {run[0].frame} to {run[-1].frame}"
        else:
            counted["measured directions"] += 1
            continue
        report.errors.append(f"{name}: {dissect.endpoint(end)} answered {count} clean exchanges {where}")


def _silent_run(answers: list[Packet], frames_of_rtts: set[int]) -> list[Packet]:
    """The longest row of answers without an RTT, if there are SILENT or more over SILENCE_NS; or none."""
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
    report.tally["of these, measured all along"] = counted["measured directions"]
    if share("covered", "flows") < LEAST_SHARE:
        report.errors.append(f"{counted['covered']} of {counted['flows']} flows are less than {LEAST_SHARE:.0%}")
    if covered < LEAST_SHARE_WITH_HANDSHAKE:
        report.errors.append(
            f"{counted['covered, with handshake']} of {counted['with handshake']} flows with a handshake are less than "
            f"{LEAST_SHARE_WITH_HANDSHAKE:.1%}"
        )


def _flows(capture: Path, ours: Ours, report: Report) -> dict[str, Flow]:
    observed = ours.run(capture)
    if lost := observed.account["pushed out"]:
        report.errors.append(f"{capture.name}: of the RTTs begun, {lost} are in no count: {observed.account}")
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
