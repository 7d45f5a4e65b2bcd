# SPDX-License-Identifier: Apache-2.0
"""How many TCP flows get an RTT: of those with payload in both directions at least 99 % over all captures together."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from oracles import dissect, frames, sequence
from oracles.dissect import FIN, RST, SYN, Packet
from oracles.ours import Ours
from oracles.report import Report

LEAST_SHARE = 0.99


class Flow:
    """The packets of a connection, and the methods that gave it an RTT."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.methods: set[str] = set()

    @property
    def both_ways(self) -> bool:
        """Whether either end sent payload."""
        return len({packet.source for packet in self.packets if packet.payload}) == 2

    def why_none(self) -> str:
        """What stands in the way of an RTT; several things may."""
        reasons = []
        again = sequence.sent_again(self.packets)
        first = [p for p in self.packets if p.frame not in again and (p.payload or p.flags & FIN) and not p.flags & SYN]
        ends = {(p.source, sequence.end_of(p)) for p in first}
        if not any(p.flags & SYN for p in self.packets):
            reasons.append("joined mid-way")
        if not any((p.destination, p.ack) in ends for p in self.packets if not p.flags & RST):
            reasons.append("no acknowledgement of just one segment")
        tsvals = {(p.source, p.timestamp[0]) for p in first if p.timestamp}
        if tsvals:
            echoed = {(p.destination, p.timestamp[1]) for p in self.packets if p.timestamp}
            reasons.append(f"timestamps, {len(tsvals)} of data, {len(tsvals & echoed)} echoed")
        else:
            reasons.append("no timestamps")
        return f"{len(self.packets)} packets, {len(first)} with new data or FIN, {len(again)} sent again; " + ", ".join(
            reasons
        )


def check(captures: Iterable[Path], ours: Ours) -> Report:
    """Counts over all captures. Raises EppingError if one can't be read."""
    report = Report("coverage")
    counted: Counter[str] = Counter()
    for capture in captures:
        for name, flow in _flows(capture, ours, report).items():
            if not flow.both_ways:
                continue
            counted["flows"] += 1
            counted["covered"] += bool(flow.methods)
            counted.update(flow.methods)
            if not flow.methods:
                report.notes.append(f"{capture.name}, {name}: {flow.why_none()}")
    report.tally["TCP flows with payload in both directions"] = counted["flows"]
    for what in ("covered", *(method for method in ours.methods if method.startswith("tcp_"))):
        share = counted[what] / counted["flows"] if counted["flows"] else 1.0
        report.tally[f"with an RTT{'' if what == 'covered' else f' by {what}'} ({share:.1%})"] = counted[what]
    if counted["covered"] < LEAST_SHARE * counted["flows"]:
        report.errors.append(f"{counted['covered']} of {counted['flows']} flows are less than {LEAST_SHARE:.0%}")
    return report


def _flows(capture: Path, ours: Ours, report: Report) -> dict[str, Flow]:
    observed = ours.run(capture)
    records = observed.seen(list(frames.read(capture)), report)
    flows: dict[tuple[object, ...], Flow] = {}
    by_frame: dict[int, Flow] = {}
    for packet in map(dissect.tcp_packet, records):
        if packet and not packet.fault:
            by_frame[packet.frame] = flow = flows.setdefault(packet.flow, Flow())
            flow.packets.append(packet)
    for sample in observed.samples:
        if sample.frame in by_frame:
            by_frame[sample.frame].methods.add(sample.method)
    return {f"{flow.packets[0]}": flow for flow in flows.values()}
