# SPDX-License-Identifier: Apache-2.0
"""Reads what tshark finds in a capture: runs tshark, or reads CSV files that tshark made earlier.

NAME.ack_rtt.csv    frame, time, source (IPv4, IPv6, port), destination (likewise), frame acknowledged, RTT in s
NAME.dns.csv        frame of the response, its time, frame of the query, dns.time in s
NAME.icmp.csv       frame of the reply, its time, frame of the request, response time in ms
"""

import csv
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from otel_epping.errors import EppingError

# Kinds of segments, by the names of tshark's flags behind tcp.analysis.
RETRANSMISSIONS = ("retransmission", "fast_retransmission", "spurious_retransmission")
KINDS = (
    *RETRANSMISSIONS,
    "out_of_order",
    "keep_alive",
    "zero_window",
    "zero_window_probe",
    "reused_ports",
)
_TIMES = {
    "ack_rtt": (("tcp.analysis.acks_frame", "tcp.analysis.ack_rtt"),),
    "dns": (("dns.response_to", "dns.time"),),
    "icmp": (("icmp.resp_to", "icmp.resptime"), ("icmpv6.resp_to", "icmpv6.resptime")),
}
_NS = {"ack_rtt": 10**9, "dns": 10**9, "icmp": 10**6}


_FLAGS = ("ip.flags.mf", "ipv6.fraghdr.more")  # each packet has them

# Why tshark pairs a reply with nothing, the field by which it says so itself, and what is in that field.
ODDITIES = (
    ("calls the response malformed", "_ws.malformed", "DNS"),
    ("calls the acknowledgement malformed", "_ws.malformed", "TCP"),
    ("reads no response that the snap length cut", "_ws.short", "DNS"),
    ("pairs echoes by their checksum, which is bad", "icmp.checksum.status", "0"),
    ("pairs echoes by their checksum, which is bad", "icmpv6.checksum.status", "0"),
    *(("reads a packet in fragments where the last one is", name, value) for name in _FLAGS for value in ("1", "True")),
)
COLUMNS = (
    *(name for pairs in _TIMES.values() for pair in pairs for name in pair),
    *(f"tcp.analysis.{kind}" for kind in KINDS),
    *dict.fromkeys(name for _, name, _ in ODDITIES),
)
_FILTER = " or ".join(f"{name} == 1" if name in _FLAGS else name for name in COLUMNS)


class Answer(NamedTuple):
    """The frame that was answered, and after what time."""

    frame: int
    rtt_ns: int


Answers = dict[int, list[Answer]]  # by the frame of the reply


@dataclass
class Found:
    """What tshark found; None is what it was not asked for."""

    ack_rtt: Answers | None = None
    dns: Answers | None = None
    icmp: Answers | None = None
    kinds: dict[str, set[int]] | None = None
    odd: dict[str, set[int]] = field(default_factory=dict)  # frames, by what ODDITIES say of them


def ask(capture: Path) -> Found:
    """Runs tshark over a capture. Raises EppingError if it isn't there or cannot read the file."""
    tshark = shutil.which("tshark")
    if not tshark:
        raise EppingError("tshark is not installed: apt-get install tshark, or give the CSV files it made elsewhere")
    fields = [part for name in ("frame.number", *COLUMNS) for part in ("-e", name)]
    # All occurrences of a field, for a frame may have headers within headers.
    form = ["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]
    done = subprocess.run(
        [tshark, "-n", "-r", str(capture), "-Y", _FILTER, *form, *fields],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode and not done.stdout:
        raise EppingError(f"tshark cannot read {capture}: {done.stderr.strip().splitlines()[-1]}")
    return parse(done.stdout)


def parse(output: str) -> Found:
    """What tshark prints: a line per frame, the frame's number and COLUMNS, tabs between them."""
    kinds: dict[str, set[int]] = {kind: set() for kind in KINDS}
    found = Found(defaultdict(list), defaultdict(list), defaultdict(list), kinds, defaultdict(set))
    for line in output.splitlines():
        number, *values = line.split("\t")
        row = dict(zip(COLUMNS, values, strict=True))
        for method, pairs in _TIMES.items():
            for answered, time in pairs:
                for frame, rtt in zip(row[answered].split(","), row[time].split(","), strict=False):
                    if frame and rtt:
                        getattr(found, method)[int(number)].append(Answer(int(frame), _ns(rtt, _NS[method])))
        for kind in KINDS:
            if row[f"tcp.analysis.{kind}"]:
                kinds[kind].add(int(number))
        for oddity, name, value in ODDITIES:
            if value in row[name]:
                found.odd[oddity].add(int(number))
    return found


def read(ack_rtt: Path | None = None, dns: Path | None = None, icmp: Path | None = None) -> Found:
    """Reads CSV files. Raises EppingError for a line that is not of tshark."""
    return Found(
        ack_rtt=_answers(ack_rtt, _NS["ack_rtt"]) if ack_rtt else None,
        dns=_answers(dns, _NS["dns"]) if dns else None,
        icmp=_answers(icmp, _NS["icmp"]) if icmp else None,
    )


def _answers(path: Path, ns: int) -> Answers:
    """The first column is the frame, the last two are the frame that it answers and the time."""
    found: Answers = defaultdict(list)
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                found[int(row[0])].append(Answer(int(row[-2]), _ns(row[-1], ns)))
            except (ValueError, IndexError, InvalidOperation):
                raise EppingError(f"{path}, line {number} is not what tshark -T fields -E separator=, prints") from None
    return found


def _ns(printed: str, unit_ns: int) -> int:
    return int(Decimal(printed) * unit_ns)
