# SPDX-License-Identifier: Apache-2.0
"""Creates a capture with known RTTs, and its reference files (what pping and tshark would print). Runs the checkers of
tests/oracles on this capture."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, UDP

from tests.oracles import frames, nichols, pping, tshark, wireshark
from tests.oracles.ours import Observed, Ours, Sample
from tests.oracles.report import Report
from tests.oracles.wireshark import Found
from tests.support.transcript import Transcript

CLIENT, SERVER = 0, 1
PLAIN_PORT = 40_001  # the client's port in the flow without timestamps


def _known() -> Transcript:
    """Returns a transcript: a flow with timestamps, a flow without timestamps and with a retransmission, a DNS query
    and a ping."""
    said = Transcript()
    said.segment(0, CLIENT, "S", (1, 0))
    said.tshark_says("ack_rtt", said.segment(20, SERVER, "SA", (50, 1), ack=1), 1, "0.020000000")
    accepted = said.segment(21, CLIENT, "A", (2, 50), seq=1, ack=1)
    said.pping_says(accepted, 1)
    said.tshark_says("ack_rtt", accepted, 2, "0.001000000")
    asked = said.segment(50, CLIENT, "PA", (10, 50), 100, seq=1, ack=1)
    answered = said.segment(80.25, SERVER, "PA", (60, 10), 200, seq=1, ack=101)
    said.pping_says(answered, 30.25)
    said.tshark_says("ack_rtt", answered, asked, "0.030250000")
    again = said.segment(90, CLIENT, "PA", (20, 60), 100, seq=101, ack=201)
    said.pping_says(again, 9.75)
    said.tshark_says("ack_rtt", again, answered, "0.009750000")
    answered = said.segment(110.5, SERVER, "PA", (70, 20), 200, seq=201, ack=201)
    said.pping_says(answered, 20.5)
    said.tshark_says("ack_rtt", answered, again, "0.020500000")

    def plain(at_ms: float, sender: int, flags: str, seq: int, ack: int, size: int = 0) -> int:
        return said.segment(at_ms, sender, flags, size=size, seq=seq, ack=ack, port=PLAIN_PORT)

    syn = plain(200, CLIENT, "S", 100, 0)
    syn_ack = plain(220, SERVER, "SA", 500, 101)
    said.tshark_says("ack_rtt", syn_ack, syn, "0.020000000")
    said.tshark_says("ack_rtt", plain(225, CLIENT, "A", 101, 501), syn_ack, "0.005000000")
    asked = plain(300, CLIENT, "PA", 101, 501, 50)
    answered = plain(330, SERVER, "PA", 501, 151, 70)
    said.tshark_says("ack_rtt", answered, asked, "0.030000000")
    said.tshark_says("ack_rtt", plain(332, CLIENT, "A", 151, 571), answered, "0.002000000")
    plain(400, CLIENT, "PA", 151, 571, 50)
    again = plain(700, CLIENT, "PA", 151, 571, 50)
    said.tshark_says("ack_rtt", plain(730, SERVER, "A", 571, 201), again, "0.030000000")

    question = DNS(id=7, rd=1, qd=DNSQR(qname="example.org"))
    asked = said.say(800, CLIENT, UDP(sport=5353, dport=53) / question)
    reply = DNS(id=7, qr=1, qd=DNSQR(qname="example.org"))
    said.tshark_says("dns", said.say(815.125, SERVER, UDP(sport=53, dport=5353) / reply), asked, "0.015125000")
    asked = said.say(900, CLIENT, ICMP(id=9, seq=1))
    said.tshark_says("icmp", said.say(907, SERVER, ICMP(type=0, id=9, seq=1)), asked, "7.000")
    return said


class Check:
    """The known capture, the program's results for it, and the checkers."""

    def __init__(self, folder: Path, ours: Ours) -> None:
        self.folder, self.ours = folder, ours
        self.capture = _known().write(folder)
        self.records = list(frames.read(self.capture))
        self.observed = ours.run(self.capture)

    def reference(self, suffix: str) -> Path:
        return self.folder / f"made.{suffix}"

    def change(self, suffix: str, old: str, new: str) -> None:
        """Changes a reference file."""
        text = self.reference(suffix).read_text()
        assert text.count(old) == 1
        self.reference(suffix).write_text(text.replace(old, new))

    def found(self) -> Found:
        return wireshark.read(self.reference("ack_rtt.csv"), self.reference("dns.csv"), self.reference("icmp.csv"))

    def pping(self, observed: Observed | None = None) -> Report:
        return pping.compare(self.records, observed or self.observed, nichols.read(self.reference("pping")), "made")

    def tshark(self, observed: Observed | None = None, found: Found | None = None) -> Report:
        return tshark.compare(self.records, observed or self.observed, found or self.found(), "made")

    def with_samples(self, change: Callable[[Sample], Sample | None], *more: Sample) -> Observed:
        """Returns the program's results with changed samples."""
        samples = [*filter(None, map(change, self.observed.samples)), *more]
        return replace(self.observed, samples=samples)


def fails(report: Report, *texts: str) -> None:
    """Checks that the report has exactly one error for each text in `texts`, in the same order."""
    assert len(report.errors) == len(texts), str(report)
    for error, text in zip(report.errors, texts, strict=True):
        assert text in error


@pytest.fixture(scope="session")
def ours() -> Iterator[Ours]:
    """Our RTT samples for any capture. The programs are loaded once per session."""
    with closing(Ours()) as ours:
        yield ours


@pytest.fixture
def check(tmp_path: Path, ours: Ours) -> Check:
    """The checkers for the known capture."""
    return Check(tmp_path, ours)
