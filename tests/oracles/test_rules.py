# SPDX-License-Identifier: Apache-2.0
"""Tests that the checker for pping can report every rule. The captures are small, and pping's lines were written by
hand.

A packet is given as (ms, sender, flags, TSval, TSecr, bytes of payload). A capture without a SYN starts with two pure
ACKs with TSval 1, one from each endpoint, so that the flow is known. The TSecr 99 matches no TSval.
"""

import sys
from pathlib import Path

import pytest

from tests.oracles import pping
from tests.oracles.ours import Ours
from tests.oracles.rules import Rule
from tests.support.transcript import Transcript

pytestmark = pytest.mark.parallel


CLIENT, SERVER = 0, 1
Said = tuple[float, int, str, int, int, int]

BEGUN: list[Said] = [(0, CLIENT, "A", 1, 99, 0), (1, SERVER, "A", 1, 99, 0)]
ASKED: Said = (10, CLIENT, "PA", 10, 99, 100)
ANSWERED: Said = (30, SERVER, "A", 2, 10, 0)

# Each case has three parts: the packets; pping's lines, as (number of the reply, RTT in ms); and the expected tally.
SCENES: dict[str, tuple[list[Said], list[tuple[int, float]], dict[str, int]]] = {
    "an RTT": ([*BEGUN, ASKED, ANSWERED], [(4, 20)], {pping.BOTH: 1}),
    "SYN": (
        [(0, CLIENT, "S", 1, 0, 0), (20, SERVER, "SA", 5, 1, 0), (25, CLIENT, "A", 2, 5, 0)],
        [(3, 5)],
        {Rule.SYN.value: 1},
    ),
    "pure ACK": ([*BEGUN, (10, CLIENT, "A", 10, 99, 0), ANSWERED], [(4, 20)], {Rule.PURE_ACK.value: 1}),
    "first TSval": ([*BEGUN, (10, CLIENT, "PA", 10, 1, 100)], [(3, 9)], {Rule.FIRST.value: 1}),
    "does not advance": (
        [*BEGUN, ASKED, (12, CLIENT, "PA", 8, 99, 100), (30, SERVER, "A", 2, 8, 0)],
        [(5, 18)],
        {Rule.NOT_ADVANCING.value: 1},
    ),
    "new connection": (
        [*BEGUN, ASKED, (20_000, CLIENT, "PA", 5, 99, 100), (20_030, SERVER, "A", 2, 5, 0)],
        [(5, 30)],
        {Rule.NEW_CONNECTION.value: 1},
    ),
    "four waited": (
        [
            *BEGUN,
            *((10 + place, CLIENT, "PA", 10 + place, 99, 100) for place in range(5)),
            (40, SERVER, "A", 2, 14, 0),
        ],
        [(8, 26)],
        {Rule.NOT_BEGUN.value: 1},
    ),
    "RST": ([*BEGUN, ASKED, (30, SERVER, "RA", 2, 10, 0)], [(4, 20)], {Rule.RESET.value: 1}),
    "no ACK flag": ([*BEGUN, ASKED, (30, SERVER, "P", 2, 10, 0)], [(4, 20)], {Rule.NO_ACK.value: 1}),
    "superseded": (
        [*BEGUN, ASKED, (12, CLIENT, "PA", 11, 99, 100), (30, SERVER, "A", 2, 11, 0), (31, SERVER, "A", 2, 10, 0)],
        [(5, 18), (6, 21)],
        {pping.BOTH: 1, Rule.SUPERSEDED.value: 1},
    ),
    "begun anew": (
        [*BEGUN, ASKED, (20, CLIENT, "S", 15, 99, 0), ANSWERED],
        [(5, 20)],
        {Rule.BEGUN_ANEW.value: 1},
    ),
    "a SYN that was overtaken": (
        # After the late SYN, no TSval is known. So the next TSval is regarded as the first one, and gives no RTT. The
        # TSval after the first TSval gives an RTT.
        [
            *BEGUN,
            ASKED,
            (20, CLIENT, "S", 5, 99, 0),
            (21, CLIENT, "PA", 12, 99, 100),
            (22, SERVER, "A", 2, 12, 0),
            (30, CLIENT, "PA", 13, 99, 100),
            (37, SERVER, "A", 3, 13, 0),
        ],
        [(6, 1), (8, 7)],
        {Rule.FIRST.value: 1, pping.BOTH: 1},
    ),
    "too old": ([*BEGUN, ASKED, (10_500, SERVER, "A", 2, 10, 0)], [(4, 10_490)], {Rule.TOO_OLD.value: 1}),
    "time runs backwards": ([*BEGUN, ASKED, (5, SERVER, "A", 2, 10, 0)], [(4, -5)], {Rule.BACKWARDS.value: 1}),
    "answered before": (
        [*BEGUN, ASKED, (30, SERVER, "A", 0, 10, 0), (35, SERVER, "A", 2, 10, 0)],
        [(5, 25)],
        {"ours only, reason in pping: pping ignores a TSval of 0": 1, Rule.ANSWERED.value: 1},
    ),
    "no echo that pping reads": (
        [*BEGUN, (10, CLIENT, "PA", 10, 0, 100), ANSWERED],
        [],
        {"ours only, reason in pping: pping ignores a TSecr of 0": 1},
    ),
    "one direction first": (
        # Our program gives an RTT for the client's second TSval, but pping does not, because it has not seen the server
        # yet.
        [(0, CLIENT, "A", 1, 99, 0), ASKED, (30, SERVER, "A", 1, 10, 0)],
        [],
        {"ours only, reason in pping: pping had not seen the other direction of the flow yet": 1},
    ),
}


def tally_of(
    said: list[Said], lines: list[tuple[int, float]], folder: Path, ours: Ours, **how: object
) -> dict[str, int]:
    transcript = Transcript(**how)  # type: ignore[arg-type]
    for at_ms, sender, flags, tsval, tsecr, size in said:
        transcript.segment(at_ms, sender, flags, (tsval, tsecr), size)
    for reply, rtt_ms in lines:
        transcript.pping_says(reply, rtt_ms)
    return _tally(transcript, folder, ours)


def _tally(transcript: Transcript, folder: Path, ours: Ours) -> dict[str, int]:
    (folder / "made.pping").touch()
    capture = transcript.write(folder)
    report = pping.check(capture, folder / "made.pping", ours)
    assert report.holds, str(report)
    return {what.removeprefix("pping only: "): count for what, count in report.tally.items()}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("version", [4, 6])
def test_a_rule(scene: str, version: int, tmp_path: Path, ours: Ours) -> None:
    said, lines, tally = SCENES[scene]
    assert tally_of(said, lines, tmp_path, ours, version=version) == tally


def test_a_packet_that_is_not_whole(tmp_path: Path, ours: Ours) -> None:
    transcript = Transcript()
    for at_ms, sender, flags, tsval, tsecr, size in [*BEGUN, ASKED]:
        transcript.segment(at_ms, sender, flags, (tsval, tsecr), size)
    reply = transcript.segment(30, SERVER, "A", (2, 10), length=1000)
    transcript.pping_says(reply, 20)
    assert _tally(transcript, tmp_path, ours) == {Rule.NOT_WHOLE.value: 1}


def test_more_flows_than_the_program_remembers(tmp_path: Path) -> None:
    few = Ours(max_flows=256)
    transcript = Transcript()
    for at_ms, sender, flags, tsval, tsecr, size in [*BEGUN, ASKED]:
        transcript.segment(at_ms, sender, flags, (tsval, tsecr), size)
    for port in range(1, 3001):
        for speaker in (CLIENT, SERVER):
            transcript.segment(1100, speaker, "A", (1, 99), port=port)
    transcript.pping_says(transcript.segment(1200, SERVER, "A", (2, 10)), 1190)
    try:
        assert _tally(transcript, tmp_path, few) == {Rule.EVICTED.value: 1}
    finally:
        few.close()


def test_every_rule_has_a_test() -> None:
    """Each rule that is not in SCENES must have a test of its own."""
    named = {what for _, _, tally in SCENES.values() for what in tally}
    doubts = {Rule.SENT_AGAIN, Rule.PERHAPS_SENT_AGAIN, Rule.LEFT_TO_SEQUENCE}  # tested in oracles/test_oddities.py
    assert {rule for rule in Rule if rule.value not in named} == {Rule.NOT_WHOLE, Rule.EVICTED, *doubts}


def test_links_that_pping_does_not_read(tmp_path: Path, ours: Ours) -> None:
    said, _, _ = SCENES["an RTT"]
    tagged = tally_of(said, [], tmp_path, ours, link="802.1Q")
    assert tagged == {"ours only, reason in pping: pping's filter ignores packets with 802.1Q": 1}
    for link in ("cooked v2", "PPP", "Cisco HDLC", "PPPoE", "PPP with direction", "pppd", "loop"):
        tally = tally_of(said, [], tmp_path, ours, link=link)
        assert tally == {"ours only, reason in pping: libtins does not read this link type": 1}, link


def test_links_that_pping_reads(tmp_path: Path, ours: Ours) -> None:
    for link in ("ethernet", "cooked", "raw", "raw as DLT 12", "null of Linux"):
        assert tally_of(*SCENES["an RTT"][:2], tmp_path, ours, link=link) == {pping.BOTH: 1}, link


def test_null_links_that_only_some_builds_of_pping_read(tmp_path: Path, ours: Ours) -> None:
    """In null link headers, libtins expects the address families and the byte order of the machine on which it runs."""
    said, lines, _ = SCENES["an RTT"]
    foreign = "null, big-endian, macOS" if sys.byteorder == "little" else "null, little-endian, FreeBSD"
    own_order_only = "ours only, reason in pping: libtins reads null links only in the host's byte order"
    expected = "pping's filter expects the BSD number of IPv6, but libtins expects the Linux number"
    of_linux_only = f"ours only, reason in pping: {expected}"
    for link, version, reason in ((foreign, 4, own_order_only), ("null of Linux", 6, of_linux_only)):
        for printed, tally in (([], {reason: 1}), (lines, {pping.BOTH: 1})):
            folder = tmp_path / f"{version}{bool(printed)}"
            folder.mkdir()
            assert tally_of(said, printed, folder, ours, link=link, version=version) == tally
