# SPDX-License-Identifier: Apache-2.0
"""Tests that the checkers report an error if a reference file was changed, or if a sample is missing, surplus or
wrong."""

from dataclasses import replace

import pytest

from otel_epping.errors import EppingError
from tests.oracles import pping, wireshark
from tests.oracles.known import Check, fails
from tests.oracles.ours import Sample
from tests.oracles.wireshark import COLUMNS, KINDS, RETRANSMISSIONS

pytestmark = pytest.mark.parallel


MS = 1_000_000


def same(sample: Sample) -> Sample:
    return sample


# ---- comparison with pping: each wrong value must give an error


def test_a_line_of_another_rtt(check: Check) -> None:
    check.change("pping", "0.030250 0.030250", "0.030252 0.030252")
    fails(check.pping(), "frames 4 and 5 are 30250 us apart", "pping has no such RTT (frames 4 to 5)")


def test_a_line_that_is_a_microsecond_off(check: Check) -> None:
    check.change("pping", "0.030250 0.030250", "0.030251 0.030251")
    assert check.pping().holds


def test_a_line_without_a_packet(check: Check) -> None:
    check.change("pping", "1700000000.080250", "1700000000.080350")
    fails(check.pping(), "the capture has no such packet and reply", "pping has no such RTT")


def test_a_line_that_is_missing(check: Check) -> None:
    lines = check.reference("pping").read_text().splitlines(keepends=True)
    check.reference("pping").write_text("".join(lines[:-1]))
    fails(check.pping(), "frame 7, 11.0.0.2:443 > 10.0.0.1:40000, 20500000 ns: pping has no such RTT (frames 6 to 7)")


def test_a_file_that_is_not_of_pping(check: Check) -> None:
    check.reference("pping").write_text("RTT 3\n")
    with pytest.raises(EppingError, match=r"made\.pping, line 1 is not a line of pping"):
        check.pping()


def test_a_sample_that_is_missing(check: Check) -> None:
    observed = check.with_samples(lambda sample: None if sample.frame == 5 else sample)
    fails(
        check.pping(observed),
        "the rules give 30250000 ns, but the program has no RTT",
        "frames 4 to 5, we have no RTT",
    )


def test_a_sample_with_a_wrong_rtt(check: Check) -> None:
    observed = check.with_samples(
        lambda sample: replace(sample, rtt_ns=sample.rtt_ns + 2000) if sample.frame == 5 else sample
    )
    fails(check.pping(observed), "but frames 4 and 5 are 30250000 ns apart", "ours, frame 5")


def test_a_surplus_sample(check: Check) -> None:
    observed = check.with_samples(same, Sample(3, pping.METHOD, MS))
    fails(check.pping(observed), "the rules give no sample")


def test_frames_that_were_not_replayed(check: Check) -> None:
    observed = replace(check.observed, frames=len(check.records) - 1)
    fails(check.pping(observed), f"{observed.frames} frames were replayed, but scapy finds {len(check.records)}")


def test_a_truncated_capture_is_compared_up_to_its_end(check: Check) -> None:
    """pping's lines for packets after the truncation are ignored. The lines for earlier packets are checked."""
    check.capture.write_bytes(check.capture.read_bytes()[:700])
    observed = check.ours.run(check.capture)
    report = check.pping(observed)
    assert report.holds
    assert report.tally["pping only: after the last frame that our program can read"] >= 1
    assert "is truncated in the middle of a packet" in report.notes[0]


# ---- comparison with tshark: each wrong value must give an error


def test_a_row_of_another_time(check: Check) -> None:
    check.change("ack_rtt.csv", ",11,0.030000000", ",11,0.030002000")
    fails(check.tshark(), "30000000 ns from frame 11: tshark has 30002000 ns from frame 11")


@pytest.mark.parametrize(("suffix", "method"), [("dns.csv", "dns, frame 18"), ("icmp.csv", "icmp_echo, frame 20")])
def test_an_answer_of_another_time(check: Check, suffix: str, method: str) -> None:
    text = check.reference(suffix).read_text()
    check.reference(suffix).write_text(text.replace("15125000", "15127000").replace("7.000", "7.002"))
    fails(check.tshark(), method)


def test_an_answer_that_tshark_does_not_have(check: Check) -> None:
    check.reference("dns.csv").write_text("")
    fails(check.tshark(), "dns, frame 18, 15125000 ns: tshark has no time for this frame")


def test_an_answer_that_tshark_cannot_pair(check: Check) -> None:
    check.reference("dns.csv").write_text("")
    check.reference("icmp.csv").write_text("")
    odd = {
        "tshark calls the response malformed": {18},
        "tshark matches echoes by their checksum, but the checksum is wrong": {20},
    }
    report = check.tshark(found=replace(check.found(), odd=odd))
    assert report.holds
    assert report.tally["dns: ours only: tshark calls the response malformed"] == 1
    assert report.tally["icmp_echo: ours only: tshark matches echoes by their checksum, but the checksum is wrong"] == 1


def test_the_parser_of_the_output_of_tshark() -> None:
    """A frame that contains another frame has two values of each field. tshark 4.0 prints both values, separated by a
    comma, with occurrence=a and aggregator=,"""

    def line(frame: int, **fields: str) -> str:
        return "\t".join([str(frame), *(fields.get(name.replace(".", "_"), "") for name in COLUMNS)])

    found = wireshark.parse(
        "\n".join(
            [
                line(5, tcp_analysis_acks_frame="3,4", tcp_analysis_ack_rtt="0.030250000,0.001000000"),
                line(6, tcp_analysis_retransmission="1", tcp_analysis_spurious_retransmission="1"),
                line(18, dns_response_to="17", dns_time="0.015125000"),
                line(20, icmp_resp_to="19", icmp_resptime="7.000", icmp_checksum_status="1"),
                line(22, icmp_checksum_status="0"),
                line(24, _ws_malformed="[Malformed Packet: DNS],_ws.malformed"),
                line(26, _ws_short="[Packet size limited during capture: DNS truncated]"),
            ]
        )
    )
    assert found.ack_rtt == {5: [(3, 30_250_000), (4, MS)]}
    assert found.dns == {18: [(17, 15_125_000)]}
    assert found.icmp == {20: [(19, 7 * MS)]}
    assert found.kinds == {kind: {6} if kind in RETRANSMISSIONS[::2] else set() for kind in KINDS}
    assert found.odd == {
        "tshark calls the response malformed": {24},
        "tshark matches echoes by their checksum, but the checksum is wrong": {22},
        "tshark does not read a response that the snap length truncated": {26},
    }


def test_a_file_that_is_not_of_tshark(check: Check) -> None:
    check.reference("dns.csv").write_text("1,2\n18,soon\n")
    with pytest.raises(EppingError, match=r"made\.dns\.csv, line 2 is not a line of tshark"):
        check.tshark()


def test_an_rtt_of_a_retransmission_is_an_error(check: Check) -> None:
    observed = check.with_samples(same, Sample(16, "tcp_sequence", 30 * MS))
    fails(check.tshark(observed), "the origin contains only data that was sent before, frame 15")
    kinds: dict[str, set[int]] = {kind: set() for kind in KINDS}
    kinds["retransmission"] = {15}
    found = replace(check.found(), kinds=kinds)
    fails(check.tshark(observed, found), "the origin is a retransmission, frame 15")


def test_an_rtt_without_a_segment(check: Check) -> None:
    observed = check.with_samples(same, Sample(13, "tcp_sequence", 3 * MS), Sample(17, "tcp_handshake", MS))
    handshake, sequence = "tcp_handshake, frame 17, None, 1000000 ns: is not a TCP packet", "acknowledges no segment"
    fails(check.tshark(observed), handshake, sequence)


def test_a_handshake_without_a_syn(check: Check) -> None:
    observed = check.with_samples(same, Sample(12, "tcp_handshake", 30 * MS))
    fails(check.tshark(observed), "the origin is not a SYN or SYN-ACK, frame 11")


def test_retransmissions_are_counted(check: Check) -> None:
    kinds: dict[str, set[int]] = {kind: set() for kind in KINDS}
    kinds["retransmission"] = {15}
    assert check.tshark(found=replace(check.found(), kinds=kinds)).tally["retransmissions: ours and tshark's"] == 1
    kinds["retransmission"] = {4, 5, 6, 7, 15}
    fails(check.tshark(found=replace(check.found(), kinds=kinds)), "we have 1 retransmissions, but tshark has 5")
    kinds["retransmission"] = set()
    mine = replace(check.observed, kinds=check.observed.kinds | {"retransmitted": {4, 5, 6, 7, 15}})
    fails(check.tshark(mine, replace(check.found(), kinds=kinds)), "5 retransmissions, but tshark has 0")
