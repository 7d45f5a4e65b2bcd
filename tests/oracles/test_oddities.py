# SPDX-License-Identifier: Apache-2.0
"""Runs the checkers on unusual conversations. Tests how the checkers decide which packets are copies, which RTTs a
method may give, and which RTTs are missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP

from tests.oracles import coverage, dissect, frames, nichols, pping, sequence, tshark
from tests.oracles.dissect import Packet
from tests.oracles.known import fails
from tests.oracles.ours import Observed, Ours, Sample
from tests.oracles.report import Report
from tests.oracles.rules import Rule, Rules
from tests.oracles.wireshark import KINDS, Answer, Found
from tests.support.captures import SECOND
from tests.support.oddities import ODDITIES, SERVER, Talk
from tests.support.transcript import Transcript

pytestmark = pytest.mark.parallel


VERSIONS = pytest.mark.parametrize("version", [4, 6])


def packets_of(transcript: Transcript, folder: Path) -> list[Packet]:
    records = frames.read(transcript.write(folder))
    return [packet for packet in map(dissect.tcp_packet, records) if packet]


@VERSIONS
@pytest.mark.parametrize("name", ODDITIES)
def test_copies_are_known(tmp_path: Path, name: str, version: int) -> None:
    """All copies must be found, except copies of pure ACKs over IPv6: if two segments were lost, a host may send two
    equal ACKs. Retransmissions must not count as copies."""
    talk: Talk = ODDITIES[name](version=version)
    packets = packets_of(talk.transcript, tmp_path)
    copies = sequence.copies(packets)
    by_frame = {packet.frame: packet for packet in packets}
    firsts = [packet for packet in packets if talk.copies and packet.frame % 2]
    if version == 6:
        firsts = [packet for packet in firsts if sequence.end_of(packet) != packet.seq]
    assert copies == {packet.frame + 1: packet.frame for packet in firsts}
    again = sequence.sent_again([by_frame[frame] for frame in by_frame if frame not in copies])
    assert len(again) == talk.retransmitted
    assert len(sequence.refused(packets)) == ("refused" in name)


def segments(*said: tuple[float, int, str, tuple[int, int] | None, int, int, int]) -> Transcript:
    """Returns a transcript of segments: (ms, sender, flags, timestamps, bytes, sequence number, acknowledgement
    number)."""
    transcript = Transcript()
    for at_ms, sender, flags, times, size, seq, ack in said:
        transcript.segment(at_ms, sender, flags, times, size, seq=seq, ack=ack)
    return transcript


BEGUN = ((0, 0, "A", (1, 9), 0, 100, 500), (1, 1, "A", (1, 9), 0, 500, 100))


def test_a_retransmission_with_the_same_tsval_gives_no_rtt(tmp_path: Path) -> None:
    """The echo may be a reply to the first transmission or to the retransmission. A retransmission with a new TSval
    gives an RTT."""
    first = (10, 0, "PA", (10, 1), 50, 100, 500)
    lost = segments(*BEGUN, first, (15, 0, "PA", (10, 1), 50, 100, 500), (40, 1, "A", (2, 10), 0, 500, 150))
    rules = Rules(packets_of(lost, tmp_path))
    assert not rules.rtts
    reason = rules.why_not(3, 5)
    assert reason
    assert (reason.rule, reason.evidence) == (Rule.SENT_AGAIN, "in frame 4")
    other = segments(*BEGUN, first, (15, 0, "PA", (15, 1), 50, 100, 500), (40, 1, "A", (2, 15), 0, 500, 150))
    assert Rules(packets_of(other, tmp_path)).rtts == {5: (4, 25_000_000)}


def test_a_copy_is_not_a_retransmission(tmp_path: Path) -> None:
    transcript = segments(*BEGUN, (10, 0, "PA", (10, 1), 50, 100, 500))
    transcript.copy(10.06, 3)
    transcript.segment(40, 1, "A", (2, 10), 0, 500, 150)
    assert Rules(packets_of(transcript, tmp_path)).rtts == {5: (3, 30_000_000)}


def test_a_tsval_of_several_segments_may_give_an_rtt(tmp_path: Path) -> None:
    """Two segments have the same TSval, and the second segment is retransmitted. The echo is probably a reply to the
    first segment."""
    transcript = segments(
        *BEGUN,
        (10, 0, "PA", (10, 1), 50, 100, 500),
        (10.1, 0, "PA", (10, 1), 50, 150, 500),
        (10.5, 0, "PA", (10, 1), 50, 150, 500),
        (40, 1, "A", (2, 10), 0, 500, 200),
    )
    rules = Rules(packets_of(transcript, tmp_path))
    assert rules.rtts == {6: (3, 30_000_000)}
    assert rules.doubtful[6].rule == Rule.PERHAPS_SENT_AGAIN


def test_a_doubtful_sample_may_make_room_for_another(tmp_path: Path) -> None:
    """Samples of four TSvals are pending, and one of them is doubtful. The program may have discarded the doubtful
    sample and started a fifth sample."""
    asked = [(10 + place, 0, "PA", (10 + place, 1), 50, 100 + 50 * place, 500) for place in range(4)]
    again = (14.5, 0, "PA", (13, 1), 25, 275, 500)
    fifth = (20, 0, "PA", (20, 1), 50, 300, 500)
    transcript = segments(*BEGUN, *asked, again, fifth, (40, 1, "A", (2, 20), 0, 500, 350))
    rules = Rules(packets_of(transcript, tmp_path))
    assert not rules.rtts
    assert rules.possible == {9: (8, 20_000_000)}
    certain = segments(*BEGUN, *asked, fifth, (40, 1, "A", (2, 20), 0, 500, 350))
    assert not Rules(packets_of(certain, tmp_path)).possible


def test_a_late_copy_may_count_as_a_copy_or_as_a_retransmission(tmp_path: Path) -> None:
    """The program may treat the packet as a copy or as a retransmission. tshark treats the packet as a
    retransmission."""
    transcript = segments(*BEGUN, (10, 0, "PA", None, 50, 100, 500))
    transcript.copy(16, 3)
    records = list(frames.read(transcript.write(tmp_path)))
    kinds: dict[str, set[int]] = {kind: set() for kind in KINDS}
    kinds["retransmission"] = {4}
    for mine in (set(), {4}):
        observed = Observed(frames=len(records))
        observed.kinds["retransmitted"] = mine
        assert tshark.compare(records, observed, Found(kinds=kinds), "made").holds
    assert sequence.copies(packets_of(transcript, tmp_path)) == {}


RETURNING = {
    "timestamps stop and return": "no TSval",
    "timestamps freeze and return": "again",
    "timestamps of the client stop and return": "no",
}


@pytest.mark.parametrize("name", RETURNING)
def test_either_method_is_correct_after_timestamps_had_stopped(tmp_path: Path, ours: Ours, name: str) -> None:
    """When timestamps have returned, they may give RTTs at once, later, or never. The check must not report an error,
    whether or not timestamps give RTTs again."""
    capture = ODDITIES[name]().transcript.write(tmp_path)
    records = list(frames.read(capture))
    observed = ours.run(capture)
    rules = Rules(filter(None, map(dissect.tcp_packet, records)))
    assert len(rules.doubtful) >= 10
    assert all(RETURNING[name] in reason.evidence for reason in rules.doubtful.values())
    timed = [sample for sample in observed.samples if sample.method == pping.METHOD]
    kept = [sample for sample in timed if sample.frame not in rules.doubtful]
    assert len(kept) >= 20
    report = pping.compare(records, replace(observed, samples=kept), [], "made")
    assert report.tally[f"by the rules only: {Rule.LEFT_TO_SEQUENCE.value}"] == len(rules.doubtful)
    missing = {error.split(",")[0] for error in report.errors if "the rules give" in error}
    assert not missing
    fewer = replace(observed, samples=kept[1:])
    assert any("the rules give" in error for error in pping.compare(records, fewer, [], "made").errors)


def test_tshark_may_time_a_copy(tmp_path: Path) -> None:
    """Our RTT starts at the first packet, and tshark's RTT starts at the copy. Any other RTT is an error."""
    transcript = Transcript()
    transcript.segment(0, 0, "PA", None, 50, 100, 500)
    transcript.copy(0.06, 1)
    reply = transcript.segment(30, 1, "A", None, 0, 500, 150)
    records = list(frames.read(transcript.write(tmp_path)))
    observed = Observed([Sample(reply, "tcp_sequence", 30_000_000)], frames=len(records))
    kinds: dict[str, set[int]] = {kind: set() for kind in KINDS}
    kinds["retransmission"] = {2}
    report = tshark.compare(records, observed, Found({reply: [Answer(2, 29_940_000)]}, kinds=kinds), "made")
    assert report.holds, str(report)
    assert report.tally["tcp_sequence: ours and tshark's, but tshark's RTT starts at the copy"] == 1
    assert report.tally["retransmissions: tshark only (retransmission): a copy (packet captured twice)"] == 1
    fails(
        tshark.compare(records, observed, Found({reply: [Answer(2, 29_900_000)]}), "made"), "from frame 1: tshark has"
    )


@pytest.mark.parametrize("is_late", [True, False])
def test_the_identification_shows_which_segment_was_overtaken(tmp_path: Path, is_late: bool) -> None:
    """tshark uses the time between the two segments to decide which of them was sent first. Our checker uses the
    identification, because most senders increment it."""
    transcript = Transcript()
    transcript.segment(0, 0, "A", None, 50, 100, 500)
    if is_late:
        transcript.segment(1, 0, "A", None, 50, 200, 500)
        transcript.segment(2, 0, "A", None, 50, 150, 500)
    else:
        transcript.segment(1, 0, "A", None, 50, 150, 500)
        transcript.segment(2, 0, "A", None, 50, 200, 500)
        transcript.packets[1:3] = [
            transcript.packets[2]._replace(time_ns=transcript.packets[1].time_ns),
            transcript.packets[1]._replace(time_ns=transcript.packets[2].time_ns),
        ]
    packets = {packet.frame: packet for packet in packets_of(transcript, tmp_path)}
    assert packets[3].seq == 150
    assert sequence.was_sent_later(packets[3], packets) is is_late
    assert sequence.was_sent_later(packets[1], packets) is None
    records = list(frames.read(tmp_path / "made.pcap"))
    kinds: dict[str, set[int]] = {kind: set() for kind in KINDS}
    kinds["out_of_order" if is_late else "retransmission"] = {3}
    observed = Observed(frames=len(records))
    observed.kinds["retransmitted" if is_late else "out_of_order"] = {3}
    tally = tshark.compare(records, observed, Found(kinds=kinds), "made").tally
    assert tally == {
        "retransmissions: ours only (out of order in tshark): sent later, according to its IPv4 identification"
        if is_late
        else "retransmissions: tshark only (retransmission): overtaken, according to its IPv4 identification": 1
    }


def test_tshark_may_time_the_copy_of_a_request(tmp_path: Path) -> None:
    transcript = Transcript()
    transcript.say(0, 0, ICMP(id=9, seq=1))
    transcript.copy(0.03, 1, hops=1)
    reply = transcript.say(4, 1, ICMP(type=0, id=9, seq=1))
    records = list(frames.read(transcript.write(tmp_path)))
    observed = Observed([Sample(reply, "icmp_echo", 4_000_000)], frames=len(records))
    found = Found(icmp={reply: [Answer(2, 3_970_000)]})
    assert tshark.compare(records, observed, found, "made").tally == {
        "icmp_echo: ours and tshark's, but tshark's RTT starts at the copy": 1
    }
    observed = Observed([Sample(reply, "icmp_echo", 4_010_000)], frames=len(records))
    fails(tshark.compare(records, observed, found, "made"), "tshark has 3970000 ns from frame 2")


def test_an_rtt_that_the_capture_shows_and_tshark_does_not(tmp_path: Path) -> None:
    """An RTT that tshark does not have is accepted if the segment was sent only once and the RTT ends at the first
    acknowledgement of exactly the segment's end. An RTT that ends at a later acknowledgement is an error."""
    transcript = Transcript()
    transcript.segment(0, 0, "PA", None, 50, 100, 500)
    first = transcript.segment(30, 1, "A", None, 0, 500, 150)
    second = transcript.segment(40, 1, "A", None, 0, 500, 150)
    records = list(frames.read(transcript.write(tmp_path)))

    def compared(reply: int, rtt_ns: int) -> Report:
        observed = Observed([Sample(reply, "tcp_sequence", rtt_ns)], frames=len(records))
        return tshark.compare(records, observed, Found({}), "made")

    assert compared(first, 30_000_000).tally == {
        "tcp_sequence: ours only: tshark has no RTT, but the capture shows the RTT": 1
    }
    fails(compared(second, 40_000_000), "from frame 1: tshark has no time for this frame")
    fails(compared(first, 31_000_000), "acknowledges no segment from the start of the RTT")


def test_a_line_of_pping_for_a_packet_without_a_time(tmp_path: Path) -> None:
    """pping accepts any value as a time. So a line of pping is accepted if the line's flow has a packet without a valid
    time. If the line belongs to another flow, it is still an error."""
    transcript = Transcript()
    transcript.segment(0, 0, "A", (1, 9))
    transcript.segment(1, 1, "A", (1, 9))
    transcript.segment(10, 0, "PA", (10, 1), 50)
    transcript.pping_says(transcript.segment(30, 1, "A", (2, 10)), 12)
    transcript.packets[2] = transcript.packets[2]._replace(time_ns=0)
    capture = transcript.write(tmp_path)
    records, lines = list(frames.read(capture)), nichols.read(tmp_path / "made.pping")
    observed = Observed(frames=len(records))
    report = pping.compare(records, observed, lines, "made")
    assert report.tally == {"pping only: pping accepts an invalid time": 1}
    other = [line._replace(source=(line.source[0], 1)) for line in lines]
    fails(pping.compare(records, observed, other, "made"), "the capture has no such packet and reply")


class Silenced(Ours):
    """A program that gives only some of the RTTs."""

    def __init__(self, ours: Ours, keeps: Callable[[Sample], bool]) -> None:
        self.methods, self._ours, self._keeps = ours.methods, ours, keeps

    def run(self, path: Path) -> Observed:
        observed = self._ours.run(path)
        return replace(observed, samples=list(filter(self._keeps, observed.samples)))


def test_a_direction_that_is_not_measured(tmp_path: Path, ours: Ours) -> None:
    """Each direction has 30 clean exchanges. It is an error if no exchange gives an RTT, or if many successive
    exchanges give no RTT. It is correct if only a few successive exchanges give no RTT."""
    talk = ODDITIES["no timestamps"]()
    capture = talk.transcript.write(tmp_path)
    report = coverage.check([capture], ours)
    assert report.holds, str(report)
    assert report.tally["directions with 3 or more clean exchanges"] == 2
    assert report.tally["of these directions, measured without a long gap"] == 2

    def of_server(sample: Sample) -> bool:
        return sample.method == "tcp_sequence" and talk.transcript.sender(sample.frame) == SERVER

    silent = coverage.check([capture], Silenced(ours, lambda sample: not of_server(sample)))
    fails(silent, "11.0.0.2:443 answered 30 clean exchanges but has no RTT")
    begin_ns = talk.transcript.packets[0].time_ns

    def heard_again(after_s: int) -> Callable[[Sample], bool]:
        def keeps(sample: Sample) -> bool:
            since_ns = talk.transcript.packets[sample.frame - 1].time_ns - begin_ns
            return not of_server(sample) or not SECOND < since_ns < (1 + after_s) * SECOND

        return keeps

    silent = coverage.check([capture], Silenced(ours, heard_again(2)))
    fails(silent, "11.0.0.2:443 answered 10 clean exchanges in a row without an RTT, frames 20 to 47")
    assert coverage.check([capture], Silenced(ours, heard_again(1))).holds


def test_flows_with_a_handshake_but_without_an_rtt(tmp_path: Path, ours: Ours) -> None:
    capture = ODDITIES["plain"]().transcript.write(tmp_path)
    report = coverage.check([capture], Silenced(ours, lambda sample: False))
    assert report.tally["TCP flows whose handshake is in the capture"] == 1
    assert "0 of 1 flows with a handshake have an RTT: less than 99.5%" in report.errors
