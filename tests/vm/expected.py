# SPDX-License-Identifier: Apache-2.0
"""Captures with packets for every method, and the events that `otel-epping replay` finds in the captures with the
host's kernel."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Raw

from tests.long.fuzz import builders
from tests.support.transcript import Transcript
from tests.vm.cache import VmError
from tests.vm.guest.replaying import ARGUMENTS
from tests.vm.images import ROOT

# A folder with further captures (*.pcap) for the comparison.
CAPTURES = os.environ.get("CAPTURES", "")
_TALKS = (("ethernet", 4), ("802.1Q", 6), ("PPPoE", 4), ("raw", 6))
_FLOWS = 200
CLIENT, SERVER = 0, 1


def make(target: Path) -> None:
    """Write captures into the folder `target`. Next to each capture, write a file NAME.events with the events that
    `otel-epping replay` finds in the capture on this machine."""
    target.mkdir()
    for link, version in _TALKS:
        name = f"{link} IPv{version}"
        _talk(Transcript(version, link), random.Random(name)).write(target, name)
    if CAPTURES:
        found = sorted(Path(CAPTURES).glob("*.pcap"))
        if not found:
            raise VmError(f"CAPTURES={CAPTURES}: there is no *.pcap in this folder")
        for path in found:
            shutil.copy(path, target)
    command = [sys.executable, "-m", "otel_epping", *ARGUMENTS]
    for capture in target.glob("*.pcap"):
        done = subprocess.run([*command, str(capture)], capture_output=True, text=True, cwd=ROOT)
        if done.returncode or not done.stdout:
            raise VmError(f"replay of {capture.name} fails on this machine: {done.stderr.strip()}")
        capture.with_suffix(".events").write_text(done.stdout)


def _talk(said: Transcript, chance: random.Random) -> Transcript:
    """Add many TCP flows, with and without timestamps, and requests of each kind, in the order of their times."""
    for flow in range(_FLOWS):
        port, at_ms = 20_000 + flow, 200.0 * flow
        stamped = flow % 3 > 0
        rtt_ms = chance.uniform(1, 80)

        def times(value: int, echo: int, stamped: bool = stamped) -> tuple[int, int] | None:
            return (value, echo) if stamped else None

        said.segment(at_ms, CLIENT, "S", times(100, 0), port=port)
        said.segment(at_ms + rtt_ms, SERVER, "SA", times(900, 100), ack=1, port=port)
        said.segment(at_ms + rtt_ms + 0.5, CLIENT, "A", times(101, 900), seq=1, ack=1, port=port)
        asked_ms = at_ms + rtt_ms + 1
        said.segment(asked_ms, CLIENT, "PA", times(110, 900), 100, seq=1, ack=1, port=port)
        if chance.random() < 0.2:  # a retransmission
            said.segment(asked_ms + 0.7, CLIENT, "PA", times(111, 900), 100, seq=1, ack=1, port=port)
        said.segment(asked_ms + rtt_ms, SERVER, "PA", times(910, 110), 300, seq=1, ack=101, port=port)
        end = "FA" if chance.random() < 0.5 else "RA"
        said.segment(asked_ms + rtt_ms + 1, CLIENT, end, times(120, 910), seq=101, ack=301, port=port)
        _ask(said, chance, at_ms + 190, flow)
    return said


def _ask(said: Transcript, chance: random.Random, at_ms: float, number: int) -> None:
    """Add a request and its reply. Depending on `number`, the request is a DNS query, a QUIC Initial packet or an echo
    request."""
    rtt_ms = chance.uniform(1, 9)
    kind = number % 3
    if kind == 0:
        names = DNS(id=number, rd=1, qd=DNSQR(qname="example.org"))
        said.say(at_ms, CLIENT, UDP(sport=30_000 + number, dport=53) / names)
        names = DNS(id=number, qr=1, qd=DNSQR(qname="example.org"))
        said.say(at_ms + rtt_ms, SERVER, UDP(sport=53, dport=30_000 + number) / names)
    elif kind == 1:
        first, reply = Raw(builders.quic(1, 0)), Raw(builders.quic(1, 2))
        said.say(at_ms, CLIENT, UDP(sport=30_000 + number, dport=443) / first)
        said.say(at_ms + rtt_ms, SERVER, UDP(sport=443, dport=30_000 + number) / reply)
    elif said.version == 4:
        said.say(at_ms, CLIENT, ICMP(id=9, seq=number))
        said.say(at_ms + rtt_ms, SERVER, ICMP(type="echo-reply", id=9, seq=number))
    else:
        said.say(at_ms, CLIENT, ICMPv6EchoRequest(id=9, seq=number))
        said.say(at_ms + rtt_ms, SERVER, ICMPv6EchoReply(id=9, seq=number))
