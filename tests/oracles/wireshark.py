# SPDX-License-Identifier: Apache-2.0
"""Reads tshark's results for a capture: runs tshark, or reads CSV files that tshark wrote earlier.

NAME.ack_rtt.csv    frame, time, source (IPv4, IPv6, port), destination (likewise), acknowledged frame, RTT in s
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

# tshark's flags for the kinds of segments, without the prefix "tcp.analysis.".
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


_FLAGS = ("ip.flags.mf", "ipv6.fraghdr.more")  # every IPv4 packet has ip.flags.mf, so the filter tests its value

# The reasons why tshark does not match a reply: the text, the field in which tshark reports the reason, and the value
# of this field.
ODDITIES = (
    ("tshark calls the response malformed", "_ws.malformed", "DNS"),
    ("tshark calls the acknowledgement malformed", "_ws.malformed", "TCP"),
    ("tshark does not read a response that the snap length truncated", "_ws.short", "DNS"),
    ("tshark matches echoes by their checksum, but the checksum is wrong", "icmp.checksum.status", "0"),
    ("tshark matches echoes by their checksum, but the checksum is wrong", "icmpv6.checksum.status", "0"),
    *(
        ("tshark matches a fragmented packet at its last fragment", name, value)
        for name in _FLAGS
        for value in ("1", "True")
    ),
)
COLUMNS = (
    *(name for pairs in _TIMES.values() for pair in pairs for name in pair),
    *(f"tcp.analysis.{kind}" for kind in KINDS),
    *dict.fromkeys(name for _, name, _ in ODDITIES),
)
_FILTER = " or ".join(f"{name} == 1" if name in _FLAGS else name for name in COLUMNS)


class Answer(NamedTuple):
    """The frame of the request, and the time from the request to the reply."""

    frame: int
    rtt_ns: int


Answers = dict[int, list[Answer]]  # frame of the reply -> its answers


@dataclass
class Found:
    """tshark's results. A field is None if its values were not requested from tshark."""

    ack_rtt: Answers | None = None
    dns: Answers | None = None
    icmp: Answers | None = None
    kinds: dict[str, set[int]] | None = None
    odd: dict[str, set[int]] = field(default_factory=dict)  # text in ODDITIES -> frames


def ask(capture: Path) -> Found:
    """Runs tshark over a capture. Raises EppingError if tshark is not installed or cannot read the file."""
    tshark = shutil.which("tshark")
    if not tshark:
        raise EppingError(
            "tshark is not installed: apt-get install tshark, or pass CSV files that tshark wrote elsewhere"
        )
    fields = [part for name in ("frame.number", *COLUMNS) for part in ("-e", name)]
    # Print all occurrences of a field: with tunnels, a frame has several headers of the same protocol.
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
    """Parses tshark's output: one line per frame with the frame's number and the COLUMNS, separated by tabs."""
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
    """Reads CSV files. Raises EppingError if a line does not have tshark's format."""
    return Found(
        ack_rtt=_answers(ack_rtt, _NS["ack_rtt"]) if ack_rtt else None,
        dns=_answers(dns, _NS["dns"]) if dns else None,
        icmp=_answers(icmp, _NS["icmp"]) if icmp else None,
    )


def _answers(path: Path, ns: int) -> Answers:
    """Reads answers. The first column is the frame of the reply; the last two columns are the frame of the request and
    the RTT."""
    found: Answers = defaultdict(list)
    with path.open(newline="") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                found[int(row[0])].append(Answer(int(row[-2]), _ns(row[-1], ns)))
            except (ValueError, IndexError, InvalidOperation):
                raise EppingError(f"{path}, line {number} is not a line of tshark -T fields -E separator=,") from None
    return found


def _ns(printed: str, unit_ns: int) -> int:
    return int(Decimal(printed) * unit_ns)
