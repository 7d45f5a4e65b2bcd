# SPDX-License-Identifier: Apache-2.0
"""Compares `otel-epping watch` with ePPing. Both programs run on the same interface at the same time and see the same
packets.

.venv/bin/python tests/oracles/epping.py PPING      the path of a compiled pping of xdp-project/bpf-examples

The script creates the lab (otel_epping/lab), starts both programs on the lab's interface with sampling off, and makes
the hosts communicate: TCP with and without timestamps, ICMP echo, IPv4 and IPv6, ten subnets with known delays, flows
from their SYN to their end. A listener records the packets. Then the script compares

    flows          the events of opening and closing: which flows, in which order, the reason, and which host caused it
    RTTs           line by line
    distributions  of each subnet and side: deciles within one bucket of scale 4

Each difference between the outputs must have a reason that the packets show. Each reason has a name, and the script
counts the differences by reason. A difference without a reason is an error, and the exit code is 1. The exit code is 2
if one of the programs did not run.
"""

import argparse
import json
import math
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

if not __package__:  # Python runs this file, so sys.path contains the file's folder instead of the root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import dpkt
from scapy.layers.inet import ICMP

from otel_epping.kernel import libbpf
from otel_epping.lab import traffic
from otel_epping.lab.namespaces import LabError, Namespace
from otel_epping.lab.topology import WAN_INTERFACE, Lab
from tests.support.patience import PATIENCE_S

# Two lines of one flow report the same RTT if their times and their RTTs differ by at most this tolerance. The
# tolerance cannot confuse two RTTs, because the lab's packets that complete RTTs in one direction of a flow are 50 ms
# apart. The two programs see a packet one after the other, usually within 15 us. But an interrupt or the hypervisor may
# delay the second program by several milliseconds, at the start or at the end of an RTT. The same delay may occur
# between two clock readings of one process. One RTT in a thousand may differ by more than the tolerance, if all packet
# and byte counts of the flow are equal in both lines.
TOLERANCE_NS = 5_000_000
# The greatest permitted median of the differences between paired RTTs.
CLOCKS_APART_NS = 50_000
# Two CPUs handle the packets of the two directions. This constant is the longest time that a CPU may need for one
# packet.
CPU_RACE_NS = 500_000
SCALE = 4
# No delay in the lab is a multiple of this interval. So no reply arrives at the moment when a request is sent.
PING_INTERVAL_S = 0.23
# Sampling is off, so that both programs report all RTTs. ePPing measures the RTT of a SYN by its TSval. Our program
# measures the RTT of a SYN by the method tcp_handshake.
THEIR_OPTIONS = ("--tcp", "--icmp", "--include-local", "--include-SYN", "-r", "0", "-F", "jsonl")
METHODS = "tcp_timestamp,tcp_handshake,icmp_echo"
OUR_OPTIONS = ("--sample-interval", "0", "--format", "jsonl", "--methods", METHODS)
# ePPing forgets a timestamp that is older than TIMESTAMP_RTT_LIFETIME multiplied by the flow's smoothed RTT.
TIMESTAMP_RTT_LIFETIME = 8
COUNTS = ("sent_packets", "sent_bytes", "rec_packets", "rec_bytes")

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h
_ETH_P_ALL = 3

Flow = tuple[str, int, str, int]  # addresses and ports of the reply, in the form that both programs print


@dataclass
class Line:
    """An output line of ePPing or of our program."""

    time_ns: int
    flow: Flow
    protocol: str
    fields: dict[str, Any]

    @property
    def rtt_ns(self) -> int:
        return int(self.fields["rtt"])


@dataclass
class Segment:
    """A TCP packet that was on the wire. `tsval` and `tsecr` are None if the packet has no timestamp option."""

    time_ns: int
    flags: int
    payload: int
    tsval: int | None
    tsecr: int | None

    @property
    def is_pure_ack(self) -> bool:
        return not self.payload and not self.flags & (dpkt.tcp.TH_SYN | dpkt.tcp.TH_FIN | dpkt.tcp.TH_RST)


class Listener:
    """Records all packets of an interface in a separate thread."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.segments: dict[Flow, list[Segment]] = defaultdict(list)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                frame, controls, _, _ = self._socket.recvmsg(2048, 64)
            except TimeoutError:
                continue
            seconds, nanoseconds = struct.unpack_from("qq", controls[0][2])
            self._note(frame, seconds * 10**9 + nanoseconds)

    def _note(self, frame: bytes, time_ns: int) -> None:
        ip = dpkt.ethernet.Ethernet(frame).data
        if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6) or not isinstance(ip.data, dpkt.tcp.TCP):
            return
        tcp = ip.data
        family = socket.AF_INET if isinstance(ip, dpkt.ip.IP) else socket.AF_INET6
        flow = socket.inet_ntop(family, ip.src), tcp.sport, socket.inet_ntop(family, ip.dst), tcp.dport
        stamps = [value for kind, value in dpkt.tcp.parse_opts(tcp.opts) if kind == dpkt.tcp.TCP_OPT_TIMESTAMP]
        tsval, tsecr = struct.unpack(">II", stamps[0]) if stamps else (None, None)
        self.segments[flow].append(Segment(time_ns, tcp.flags, len(tcp.data), tsval, tsecr))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()


# ---- the run


def ping(host: Namespace, addresses: list[str], seconds: float) -> None:
    """Sends echo requests to every address."""
    with ExitStack() as stack:
        with host.entered():
            v4 = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
            v6 = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
        for sequence in range(int(seconds / PING_INTERVAL_S)):
            for number, address in enumerate(addresses):
                if ":" in address:
                    v6.sendto(struct.pack(">BBHHH", 128, 0, 0, 0x600 + number, sequence) + bytes(40), (address, 0))
                else:
                    v4.sendto(bytes(ICMP(id=0x400 + number, seq=sequence) / bytes(40)), (address, 0))
            time.sleep(PING_INTERVAL_S)


def is_attached(lab: Lab) -> bool:
    """Returns true if both programs are attached to both TCX hooks of the interface."""
    with lab.router.entered():
        ifindex = socket.if_nametoindex(WAN_INTERFACE)
        hooks = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
        return all(libbpf.attached_count(ifindex, hook) == 2 for hook in hooks)


def start(lab: Lab, argv: list[str], folder: Path, name: str, cwd: Path) -> subprocess.Popen[str]:
    with (folder / name).open("w") as out, (folder / f"{name}.log").open("w") as log:
        return lab.router.popen(argv, stdout=out, stderr=log, cwd=cwd)


def observe(pping: Path, seconds: float, folder: Path) -> dict[Flow, list[Segment]]:
    """Runs both programs on the lab's traffic. Both programs write their output to `folder`. Returns the packets of
    each flow."""
    theirs = [str(pping), *THEIR_OPTIONS, "-i", WAN_INTERFACE]
    ours = [sys.executable, "-m", "otel_epping", "watch", *OUR_OPTIONS, "-i", WAN_INTERFACE]
    with Lab() as lab:
        lab.serve()
        programs = {
            "epping": start(lab, theirs, folder, "epping", pping.parent),
            "ours": start(lab, ours, folder, "ours", Path.cwd()),
        }
        deadline = time.monotonic() + PATIENCE_S
        while not is_attached(lab):
            for name, process in programs.items():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"{name} does not start to watch: {(folder / f'{name}.log').read_text()}")
            time.sleep(0.1)
        listener = Listener(lab.router, WAN_INTERFACE)
        clients = [lab.talk(lab.client), lab.talk(lab.legacy, addresses=lab.addresses[::3])]
        ping(lab.client, lab.addresses, seconds)
        for client in clients:
            traffic.finish(client)
        time.sleep(1)
        listener.stop()
        for process in programs.values():
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
    return listener.segments


def lines_of(path: Path) -> list[Line]:
    """Returns all lines of an output, sorted by time."""
    lines = []
    for text in path.read_text().splitlines():
        fields = json.loads(text)
        flow = (fields["src_ip"], fields["src_port"], fields["dest_ip"], fields["dest_port"])
        lines.append(Line(fields["timestamp"], flow, fields["protocol"], fields))
    return sorted(lines, key=lambda line: line.time_ns)


def by_flow(lines: list[Line], kind: str) -> dict[Flow, list[Line]]:
    found: dict[Flow, list[Line]] = defaultdict(list)
    for line in lines:
        if kind in line.fields:
            found[line.flow].append(line)
    return found


# ---- the comparison


class Comparison:
    """Compares the two outputs, and uses the packets to explain differences. `errors` has the differences without an
    explanation. `tally` has the number of results with each name."""

    def __init__(self, ours: list[Line], theirs: list[Line], segments: dict[Flow, list[Segment]]) -> None:
        self.ours, self.theirs, self.segments = ours, theirs, segments
        self.tally: Counter[str] = Counter()
        self.errors: list[str] = []
        self.pairs: list[tuple[Line, Line]] = []

    def has_timestamps(self, flow: Flow) -> bool:
        """Returns true for ICMP, and for a TCP flow whose SYNs in both directions had the timestamp option."""
        client = (*flow[2:], *flow[:2])
        both = (self.segments.get(flow), self.segments.get(client))
        return not any(both) or all(segments and segments[0].tsval is not None for segments in both)

    def note(self, where: str, line: Line, reason: str | None) -> None:
        if reason:
            self.tally[f"{where}: {reason}"] += 1
        else:
            self.errors.append(f"{where}, unexplained: {json.dumps(line.fields)}")

    # -- RTTs

    def apart_ns(self) -> list[int]:
        """Returns the difference between the two RTTs of each pair. The differences are sorted, smallest first."""
        return sorted(abs(ours.rtt_ns - theirs.rtt_ns) for ours, theirs in self.pairs)

    def match(self) -> None:
        """Pairs the RTTs of both programs, and explains the RTTs without a partner."""
        ours, theirs = by_flow(self.ours, "rtt"), by_flow(self.theirs, "rtt")
        for flow in ours.keys() | theirs.keys():
            left = list(ours[flow])
            for line in theirs[flow]:
                same = self._same(line, left)
                if same:
                    self.pairs.append((same, line))
                    left.remove(same)
                else:
                    self.note("RTT of ePPing only", line, self._why_theirs(line))
            for line in left:
                self.note("RTT of ours only", line, self._why_ours(line))
        self.tally.update(f"RTT of both: {ours.fields.get('method', ours.protocol)}" for ours, _ in self.pairs)
        apart = sum(apart_ns > TOLERANCE_NS for apart_ns in self.apart_ns())
        if apart:
            self.tally["of these RTTs: one program read its clock late"] = apart
        if apart > len(self.pairs) / 1000:
            self.errors.append(f"{apart} RTTs of {len(self.pairs)} are over {TOLERANCE_NS} ns apart")

    @staticmethod
    def _same(line: Line, others: list[Line]) -> Line | None:
        """Returns the line of the other program for the same reply. The times of the two lines must agree. In addition,
        either the RTTs or the packet and byte counts of the two lines must agree."""
        near = [one for one in others if abs(one.time_ns - line.time_ns) <= TOLERANCE_NS]
        same = [one for one in near if abs(one.rtt_ns - line.rtt_ns) <= TOLERANCE_NS]
        same = same or [one for one in near if all(one.fields[name] == line.fields[name] for name in COUNTS)]
        return min(same, key=lambda one: abs(one.time_ns - line.time_ns), default=None)

    def _exchange(self, line: Line) -> tuple[list[Segment], Segment, list[Segment]] | None:
        """Returns three values for a TCP RTT: all segments that the other endpoint sent before the reply, the reply,
        and only the segments whose TSval the reply echoes."""
        replies = self.segments.get(line.flow)
        if not replies:
            return None
        reply = min(replies, key=lambda segment: abs(segment.time_ns - line.time_ns))
        sent = [one for one in self.segments[(*line.flow[2:], *line.flow[:2])] if one.time_ns < reply.time_ns]
        return sent, reply, [one for one in sent if one.tsval is not None and one.tsval == reply.tsecr]

    def _why_theirs(self, line: Line) -> str | None:
        exchange = self._exchange(line)
        if exchange and exchange[1].flags & dpkt.tcp.TH_RST:
            return "a RST completed the RTT, but anybody may have sent the RST"
        # If the echo replies to the pure ACK and not to the data, ePPing's RTT is not the RTT of the data, or is only
        # the last part of a longer RTT.
        if exchange and exchange[2] and exchange[2][0].is_pure_ack:
            return "the first packet with the TSval was a pure ACK"
        return None

    def _why_ours(self, line: Line) -> str | None:
        exchange = self._exchange(line)
        if not exchange:
            return None
        if not self.has_timestamps(line.flow):
            return "the flow has no timestamps"
        if any(one.flags & dpkt.tcp.TH_FIN for one in exchange[0]):
            return "ePPing ends a direction with its FIN, and does not wait for outstanding replies"
        if line.rtt_ns > TIMESTAMP_RTT_LIFETIME * self._smoothed_ns(line):
            return f"it is over {TIMESTAMP_RTT_LIFETIME} times the smoothed RTT, so ePPing may have forgotten it"
        return None

    def _smoothed_ns(self, line: Line) -> float:
        """Calculates the smoothed RTT of the line's flow from ePPing's earlier RTTs, as calculate_srtt() in ePPing
        does. Returns infinity if the flow had no earlier RTT."""
        smoothed = math.inf
        for other in self.theirs:
            if other.flow == line.flow and "rtt" in other.fields and other.time_ns < line.time_ns:
                smoothed = other.rtt_ns if smoothed == math.inf else smoothed * 7 / 8 + other.rtt_ns / 8
        return smoothed

    def check_pairs(self) -> None:
        """Checks that the counts, the hook and the protocol are equal in both lines of each pair. The counts may differ
        by a packet that another CPU was counting at the same time."""
        apart_ns = self.apart_ns()
        if not apart_ns or median(apart_ns) > CLOCKS_APART_NS:
            self.errors.append(
                f"RTTs of both: {len(apart_ns)}, and their median difference is over {CLOCKS_APART_NS} ns"
            )
        for ours, theirs in self.pairs:
            differing = {
                name for name in (*COUNTS, "match_on_egress", "protocol") if ours.fields[name] != theirs.fields[name]
            }
            if not differing:
                continue
            other_way = self.segments[(*ours.flow[2:], *ours.flow[:2])]
            passing = any(abs(one.time_ns - ours.time_ns) <= CPU_RACE_NS for one in other_way)
            if differing <= {"sent_packets", "sent_bytes"} and passing:
                self.tally["the sent counts differ by a packet that passed in the other direction at that time"] += 1
            else:
                self.errors.append(f"{differing} differ: {json.dumps(ours.fields)} and {json.dumps(theirs.fields)}")

    # -- flows

    def compare_flows(self) -> None:
        """Checks that both programs report the same openings and closings of each flow, in the same order."""
        ours, theirs = by_flow(self.ours, "flow_event"), by_flow(self.theirs, "flow_event")
        for flow in ours.keys() | theirs.keys():
            our_story, their_story = self._story(ours[flow]), self._story(theirs[flow])
            if not self.has_timestamps(flow):
                self.tally["flow of ours only: the flow has no timestamps"] += 1
            elif our_story == their_story:
                self.tally["flow of both"] += 1
            elif our_story[:-1] == their_story[: len(our_story) - 1] and self._ends_in_bare_rst(flow, our_story):
                self.tally["flow of both, but only our program sees the last RST, which has no timestamps"] += 1
            else:
                self.errors.append(f"flow {flow}: ours {our_story}, ePPing's {their_story}")

    @staticmethod
    def _story(lines: list[Line]) -> list[tuple[str, str, str]]:
        return [(line.fields["flow_event"], line.fields["reason"], line.fields["triggered_by"]) for line in lines]

    def _ends_in_bare_rst(self, flow: Flow, story: list[tuple[str, str, str]]) -> bool:
        sent = [*self.segments[flow], *self.segments[(*flow[2:], *flow[:2])]]
        return story[-1][1] == "RST" and any(one.flags & dpkt.tcp.TH_RST and one.tsval is None for one in sent)

    # -- distributions

    def compare_distributions(self) -> Iterator[str]:
        """Yields one row for each subnet and side (internal or external). The deciles of both programs must be equal
        within one bucket.

        Each line without a partner shifts the ranks by one. match() has checked the reasons for these lines. Two
        deciles also count as equal if they differ by at most the 99th percentile of the differences between paired
        RTTs. The rule of the 99th percentile has an effect only if this percentile exceeds the width of a bucket.
        """
        blur_ns = quantiles(self.apart_ns(), n=100)[-1]
        ours, theirs = self._by_place(self.ours), self._by_place(self.theirs)
        paired = self._by_place([one for one, _ in self.pairs])
        for place in sorted(ours.keys() | theirs.keys()):
            left, right = sorted(ours[place]), sorted(theirs[place])
            alone = len(left) + len(right) - 2 * len(paired[place])
            fine = bool(left and right)
            for tenth in range(1, 10) if fine else ():
                rank = len(right) * tenth // 10
                span = right[max(0, rank - alone - 1)], right[min(len(right) - 1, rank + alone + 1)]
                fine = fine and is_near(left[len(left) * tenth // 10], *span, blur_ns)
            if not fine:
                self.errors.append(f"distributions of {place}: ours {left}, ePPing's {right}")
            medians = " ".join(f"{median(some) / 1e6:9.3f}" for some in (left, right) if some)
            verdict = "equal" if fine else "DIFFERENT"
            yield f"  {place[0]}  {place[1]:18} {len(left):5} {len(right):5}  {medians}  {verdict}"

    def _by_place(self, lines: list[Line]) -> dict[tuple[str, str], list[int]]:
        """Returns the RTTs of the flows that have timestamps: (side, server) -> RTTs."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for line in lines:
            if "rtt" in line.fields and self.has_timestamps(line.flow):
                source, _, destination, _ = line.flow
                internal = line.fields["match_on_egress"]
                found[("internal", destination) if internal else ("external", source)].append(line.rtt_ns)
        return found


def is_near(ns: int, low_ns: int, high_ns: int, blur_ns: float) -> bool:
    """Returns true if `ns` lies between `low_ns` and `high_ns`, or if `ns` is outside of this range by at most one
    bucket or at most `blur_ns`."""
    bucket, low, high = (math.floor(math.log2(time_ns / 1e9) * 2**SCALE) for time_ns in (ns, low_ns, high_ns))
    return low - 1 <= bucket <= high + 1 or low_ns - blur_ns <= ns <= high_ns + blur_ns


def main() -> int:
    """Runs the comparison. Returns 0 if all differences are explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pping", type=Path, help="a compiled pping; its pping_kern.o must be in the same folder")
    parser.add_argument("--seconds", type=float, default=10, help="how long the hosts communicate (default: 10)")
    arguments = parser.parse_args()
    pping = arguments.pping.resolve()
    if not pping.is_file():
        parser.error(f"{pping} is not a file")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            segments = observe(pping, arguments.seconds, folder)
        except LabError as error:
            print(f"epping.py: {error}", file=sys.stderr)
            return 2
        both = Comparison(lines_of(folder / "ours"), lines_of(folder / "epping"), segments)
    both.match()
    both.check_pairs()
    both.compare_flows()
    print("median RTT in ms     samples: ours ePPing     ours    ePPing")
    for row in both.compare_distributions():
        print(row)
    apart_us = [ns / 1e3 for ns in both.apart_ns()]
    print(f"RTTs of both differ by {median(apart_us):.1f} us in the median, {apart_us[-1]:.1f} us at most")
    for name, count in sorted(both.tally.items()):
        print(f"{count:7} {name}")
    for text in both.errors[:20]:
        print(f"ERROR {text}")
    print(f"{len(both.errors)} unexplained: {'FAILED' if both.errors else 'equal'}")
    return 1 if both.errors else 0


if __name__ == "__main__":
    sys.exit(main())
