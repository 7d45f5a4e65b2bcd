# SPDX-License-Identifier: Apache-2.0
"""Compares tcp_timestamp with pping. There must be a reason for each sample that only our program has, and for each
sample that only pping has.

Each RTT is derived in three ways: by our program, by the rules (`rules`), and by the model of pping (`nichols`). All
three results refer to the frames of the capture. The model assigns the lines of pping's output to frames. So the
comparison covers all frames, not only the frames in pping's output.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.oracles import dissect, frames, nichols
from tests.oracles.frames import Frame
from tests.oracles.nichols import Line, Match, Pping
from tests.oracles.ours import Observed, Ours, Sample
from tests.oracles.report import Report
from tests.oracles.rules import Rule, Rules

METHOD = "tcp_timestamp"
TOLERANCE_NS = 1000
BOTH = "ours and pping's"
_TICK_US = 1  # pping may print a time that is one microsecond too small


def check(capture: Path, output: Path, ours: Ours) -> Report:
    """Runs our program over a capture and compares the results. Raises EppingError if a file cannot be read."""
    return compare(list(frames.read(capture)), ours.run(capture), nichols.read(output), f"{capture.name} against pping")


def compare(records: list[Frame], observed: Observed, lines: list[Line], title: str) -> Report:
    """Compares the program's results for the records of a capture with the lines that pping printed for the same
    capture."""
    report = Report(title)
    comparison = _Comparison(observed.seen(records, report), observed, lines, report)
    comparison.check_rules()
    comparison.check_lines()
    comparison.check_samples()
    return comparison.report


class _Comparison:
    def __init__(self, replayed: list[Frame], observed: Observed, lines: list[Line], report: Report) -> None:
        packets = [packet for packet in map(dissect.tcp_packet, replayed) if packet]
        records = {frame.number: frame for frame in replayed}
        self.report = report
        self.max_flows = observed.max_flows
        self.stopped, self.last_ns = observed.stopped, max((frame.time_ns for frame in replayed), default=0)
        self.packets = {packet.frame: packet for packet in packets}
        self.rules = Rules(packets)
        self.samples = {sample.frame: sample for sample in observed.of(METHOD)}
        self.shared: set[int] = set()  # frames of replies
        self.lines = lines
        self.pping = Pping(packets, records)
        self.found = _locate(lines, self.pping.matches)
        for behind_tags, every_null in ((True, False), (False, True), (True, True)):
            if len(self.found) == len(lines):
                break
            # Some builds of pping see more packets than the default model assumes.
            wider = Pping(packets, records, behind_tags, every_null)
            found = _locate(lines, wider.matches)
            if len(found) > len(self.found):
                self.pping, self.found = wider, found

    def check_rules(self) -> None:
        """Checks that the program's samples are exactly the samples that the rules predict."""
        for frame, sample in self.samples.items():
            expected = self.rules.rtts.get(frame) or self.rules.possible.get(frame)
            if expected is None:
                self._error(f"ours, {self._describe(sample)}: the rules give no sample")
            elif expected[1] != sample.rtt_ns:
                self._error(
                    f"ours, {self._describe(sample)}: but frames {expected[0]} and {frame} are {expected[1]} ns apart"
                )
        for frame, (origin, rtt_ns) in self.rules.rtts.items():
            if frame in self.samples or self._evicted():
                continue
            if doubt := self.rules.doubtful.get(frame):
                self.report.tally[f"by the rules only: {doubt.rule.value}"] += 1
            else:
                self._error(
                    f"frames {origin} to {frame}, {self.packets[frame]}: the rules give {rtt_ns} ns, "
                    "but the program has no RTT"
                )

    def check_lines(self) -> None:
        """Checks that each line of pping's output is one of our RTTs, or that a rule of our program excludes this
        RTT."""
        for line in self.lines:
            match = self.found.get(line.number)
            if match is None and self.stopped and (line.time_us + _TICK_US) * 1000 >= self.last_ns:
                self.report.tally["pping only: after the last frame that our program can read"] += 1
                continue
            if match is None and self._has_untimed(line):
                self.report.tally["pping only: pping accepts an invalid time"] += 1
                continue
            if match is None:
                self._error(f"pping's line {line.number}, {_describe(line)}: {self._nearest(line)}")
                continue
            frame, origin = match.reply.frame, match.origin.frame
            sample = self.samples.get(frame)
            if sample and abs(sample.rtt_ns - line.rtt_us * 1000) <= TOLERANCE_NS:
                self.report.tally[BOTH] += 1
                self.shared.add(frame)
            elif sample and (other := self._other_origin(match)):
                self.report.tally[other] += 1
                self.shared.add(frame)
            elif sample:
                self._error(f"pping's line {line.number}, {_describe(line)}: ours, {self._describe(sample)}")
                self.shared.add(frame)
            elif reason := self.rules.why_not(origin, frame) or self.rules.doubtful.get(frame):
                self.report.tally[f"pping only: {reason.rule.value}"] += 1
            elif self._evicted():
                self.report.tally[f"pping only: {Rule.EVICTED.value}"] += 1
            else:
                self._error(
                    f"pping's line {line.number}, {_describe(line)}: frames {origin} to {frame}, we have no RTT"
                )

    def check_samples(self) -> None:
        """Checks that each of our RTTs is in pping's output, or that the model gives a reason why pping does not print
        the RTT."""
        for frame, sample in self.samples.items():
            expected = self.rules.rtts.get(frame) or self.rules.possible.get(frame)
            if frame in self.shared or not expected:
                continue
            origin = self.packets[expected[0]]
            reason = self.pping.why_not(origin, self.packets[frame])
            if reason:
                self.report.tally[f"ours only, reason in pping: {reason}"] += 1
            else:
                self._error(f"ours, {self._describe(sample)}: pping has no such RTT (frames {origin.frame} to {frame})")

    def _other_origin(self, match: Match) -> str | None:
        """If pping's RTT and our RTT start at different packets with the echoed TSval, returns the reason. Returns None
        if no reason is known."""
        frame, theirs = match.reply.frame, match.origin
        origin, _ = self.rules.rtts.get(frame, (theirs.frame, 0))
        if origin < theirs.frame:
            # pping ignored only the earlier packet with the TSval. So pping matched this reply with a later packet.
            reason = self.pping.passed.get(origin)
            return f"same reply, but pping's RTT starts at a later packet with this TSval: {reason}" if reason else None
        for packet in self.packets.values():
            if (
                theirs.frame < packet.frame < origin
                and packet.source == theirs.source
                and packet.destination == theirs.destination
                and packet.flags & dissect.SYN
                and (packet.seq - theirs.seq) & 0xFFFFFFFF < 1 << 31
            ):
                return "same reply, but pping's RTT starts in an earlier connection with this TSval"
        return None

    def _has_untimed(self, line: Line) -> bool:
        """Returns true if a packet of the line's flow has no time or an invalid time."""
        ends = {line.source, line.destination}
        return any(not p.time_ns and {p.source, p.destination} == ends for p in self.packets.values())

    def _evicted(self) -> bool:
        """Returns true if the flow table may have evicted flows. The program can evict flows before the whole table is
        full, because one set of the table may be full (bpf/flow_table.h)."""
        return self.rules.flows > self.max_flows // 2

    def _error(self, text: str) -> None:
        self.report.errors.append(text)

    def _describe(self, sample: Sample) -> str:
        packet = self.packets.get(sample.frame)
        return f"frame {sample.frame}, {packet}, {sample.rtt_ns} ns"

    def _nearest(self, line: Line) -> str:
        """Describes the match in the capture that is nearest to a line. Error texts use this description if the line
        has no match."""
        near = [
            match
            for match in self.pping.matches
            if match.reply.source == line.source
            and match.reply.destination == line.destination
            and abs(match.time_us - line.time_us) <= _TICK_US
        ]
        if not near:
            return "the capture has no such packet and reply"
        match = min(near, key=lambda match: abs(match.rtt_us - line.rtt_us))
        return f"frames {match.origin.frame} and {match.reply.frame} are {match.rtt_us} us apart"


def _describe(line: Line) -> str:
    flow = f"{dissect.endpoint(line.source)} > {dissect.endpoint(line.destination)}"
    return f"{flow} at {line.time_us / 1e6:.6f}, {line.rtt_us} us"


def _locate(lines: Iterable[Line], matches: Iterable[Match]) -> dict[int, Match]:
    """Returns the matches of lines by line number. Lines without a match are omitted."""
    waiting: dict[tuple[object, ...], list[Match]] = defaultdict(list)
    for match in matches:
        waiting[match.reply.source, match.reply.destination, match.time_us].append(match)
    found = {}
    for line in lines:
        for time_us in (line.time_us, line.time_us + _TICK_US, line.time_us - _TICK_US):
            near = waiting[line.source, line.destination, time_us]
            exact = [match for match in near if abs(match.rtt_us - line.rtt_us) <= TOLERANCE_NS // 1000]
            if exact:
                found[line.number] = best = min(exact, key=lambda match: abs(match.rtt_us - line.rtt_us))
                near.remove(best)
                break
    return found
