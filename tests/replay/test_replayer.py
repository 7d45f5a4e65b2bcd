# SPDX-License-Identifier: Apache-2.0
"""Feeds captures of every link type and format to the program. All captures give the same results.

Every packet is counted.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from otel_epping.kernel.config import EppingConfig
from otel_epping.replay import counts
from otel_epping.replay import subnet_table as subnet_table
from otel_epping.replay.capture import Capture, PacketBatch
from otel_epping.replay.replayer import MAX_WIRE_LENGTH, Replayer
from otel_epping.series.grouping import Grouping
from tests.support.captures import BEGIN_NS, SECOND, Packet, compressed, interface, pcap, pcapng, section, simple
from tests.support.conversation import Conversation, check, rows_of
from tests.support.link_types import LINKS

pytestmark = pytest.mark.parallel


MORE_HEADERS = {"802.1Q": 4, "cooked 802.1Q": 4, "PPPoE": 8, "PPPoE with a short protocol": 7, "MPLS": 4}
IPV4_HEADER = 20
_numbers = count()


@pytest.fixture(scope="module")
def replayer() -> Iterator[Replayer]:
    """A replayer for all tests. All tests share the program of the replayer, but each test has its own
    conversations."""
    with closing(Replayer(EppingConfig(max_subnets=8192, max_flows=4096, sample_interval_ns=0))) as replayer:
        yield replayer


def fresh(version: int = 4) -> Conversation:
    return Conversation(next(_numbers), version)


def table(replayer: Replayer) -> str:
    """Read the counts with a new reader, and return them as a table.

    A reader returns minima and maxima only for the time since its previous reading.
    """
    reader = replayer.reader()
    return subnet_table.table(reader.read(), reader, replayer, Grouping())


def unanswered(replayer: Replayer) -> int:
    """Return the packets of the subnets that have never answered."""
    (line,) = re.findall(r"^never answered \(.* subnets\) .*$", table(replayer), re.MULTILINE) or ["0 0"]
    return int(line.split()[-2].replace(",", ""))


def ethernet(packets: list[tuple[int, bytes]]) -> list[Packet]:
    _, make = LINKS["ethernet"]
    return [Packet(time_ns, make(ip), len(make(ip))) for time_ns, ip in packets]


Replay = Callable[[bytes], None]


@pytest.fixture
def replay(replayer: Replayer, tmp_path: Path) -> Replay:
    """Return a function that feeds a capture to the program.

    The argument of the function is the content of the capture.
    """

    def replay(content: bytes) -> None:
        (tmp_path / "capture").write_bytes(content)
        with Capture(str(tmp_path / "capture")) as capture:
            for batch in capture.ethernet_batches():
                replayer.feed(batch)

    return replay


@pytest.mark.parametrize("name", LINKS)
def test_every_link_type(replayer: Replayer, replay: Replay, name: str) -> None:
    """For every link type, a packet is counted with its length as an Ethernet frame."""
    for version in (4, 6):
        conversation = fresh(version)
        packets = conversation.packets(*LINKS[name])
        replay(pcap(packets, link=packets[0].link))
        check(table(replayer), conversation, 14 + MORE_HEADERS.get(name, 0))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["pcap", "pcap of ns", "pcapng", "gzip", "snapped"])
def test_every_format(replayer: Replayer, replay: Replay, order: str, name: str) -> None:
    conversation = fresh()
    packets = conversation.packets(*LINKS["ethernet"], snap_length=96 if name == "snapped" else 65_535)
    if name == "pcapng":
        replay(pcapng(packets, order))
    else:
        content = pcap(packets, order, nanoseconds=name == "pcap of ns")
        replay(compressed(content) if name == "gzip" else content)
    check(table(replayer), conversation)


def test_both_directions_on_different_links(replayer: Replayer, replay: Replay) -> None:
    """In the pcapng file, each direction has its own interface. If each direction has its own tap, a capture has two
    interfaces."""
    conversation = fresh()
    packets = conversation.packets(*LINKS["ethernet"])
    raw = conversation.packets(*LINKS["raw"])
    replay(pcapng([raw[i] if i % 2 else packets[i] for i in range(len(packets))]))
    check(table(replayer), conversation)


def test_captures_one_after_the_other(replayer: Replayer, replay: Replay) -> None:
    """Each file has a request. The reply to each request is in the next file."""
    conversation = fresh()
    for one in conversation.packets(*LINKS["cooked v2"]):
        replay(pcap([one], link=one.link))
    check(table(replayer), conversation)


def test_conversations_over_many_windows(replayer: Replayer, replay: Replay) -> None:
    """Other packets fill at least one window between two packets of the same conversation."""
    conversation = fresh()
    packets = conversation.packets(*LINKS["raw"])
    others = [Packet(one.time_ns, b"\x00" * 1000, 1000) for one in packets for _ in range(1100)]
    before = kinds(replayer)
    replay(
        pcap([each for i, one in enumerate(packets) for each in (one, *others[i * 1100 : (i + 1) * 1100])], link=101)
    )
    check(table(replayer), conversation)
    assert kinds(replayer)["non_ip"] - before["non_ip"] == len(others)


def kinds(replayer: Replayer) -> dict[str, int]:
    return counts.packets(replayer.reader().read())


def test_every_packet_is_counted_once(replayer: Replayer, replay: Replay) -> None:
    """The test truncates a packet to every length, even to zero."""
    frame = ethernet(fresh().ip)[3].data
    sizes = [*range(80), len(frame)]
    for name in ("ethernet", "raw"):
        too_short, before = replayer.too_short, kinds(replayer)
        link, skip = (1, 0) if name == "ethernet" else (101, 14)
        replay(pcap([Packet(BEGIN_NS, frame[skip : skip + size], len(frame) - skip) for size in sizes], link=link))
        counted = sum(kinds(replayer).values()) - sum(before.values())
        assert replayer.too_short - too_short == (14 if name == "ethernet" else 0) + IPV4_HEADER
        assert counted + replayer.too_short - too_short == len(sizes)


def test_impossible_lengths(replayer: Replayer, replay: Replay) -> None:
    """Some packets have an original length below the captured length.

    Other packets have an original length above the limit of the kernel.
    """
    conversation = fresh()
    replay(pcap([one._replace(original=3) for one in conversation.packets(*LINKS["ethernet"])]))
    check(table(replayer), conversation)
    too_long = replayer.too_long
    _, make = LINKS["ethernet"]
    other = fresh()
    packets = [one._replace(original=2**32 - 1) for one in other.packets(1, make)]
    replay(pcap(packets))
    assert replayer.too_long - too_long == len(packets)
    traffic = next(cells[6:] for (name, _), cells in rows_of(table(replayer)).items() if name == other.server)
    assert traffic == [str(len(packets)), f"{MAX_WIRE_LENGTH * len(packets):,}"]


def test_packets_without_a_time(replayer: Replayer, replay: Replay) -> None:
    """Packets without a time count as traffic, even in new subnets. Packets without a time give no RTTs."""
    conversation, untimed = fresh(), replayer.untimed
    frames = conversation.packets(*LINKS["ethernet"])
    before = unanswered(replayer)
    replay(section() + interface() + b"".join(simple(one) for one in frames))
    assert replayer.untimed - untimed == len(frames)
    # Each packet is counted for both subnets, and neither of the two subnets has answered.
    assert unanswered(replayer) - before == 2 * len(frames)
    names = {name for name, _ in rows_of(table(replayer))}
    assert not names & {conversation.client, conversation.server}


def test_times_that_go_back(replayer: Replayer, replay: Replay) -> None:
    """A reply that is earlier than its request gives no RTT.

    Packets in the right order give RTTs, even after the times have stepped back.
    """
    conversation, steps_back = fresh(), replayer.steps_back
    packets = conversation.packets(*LINKS["ethernet"])
    begin_ns = packets[0].time_ns
    backwards = [one._replace(time_ns=2 * begin_ns + SECOND - one.time_ns) for one in packets]
    replay(pcap(backwards))
    assert replayer.steps_back - steps_back >= len(packets) - 1
    # The subnet of the server has no RTT, so it has never answered.
    assert conversation.server not in {name for name, _ in rows_of(table(replayer))}
    other = fresh()
    replay(pcap([one._replace(time_ns=one.time_ns - 3600 * SECOND) for one in other.packets(*LINKS["ethernet"])]))
    check(table(replayer), other)
    assert replayer.step_back_ns >= 3600 * SECOND


def test_readings_have_the_time_of_the_capture(replayer: Replayer) -> None:
    """A reading has the latest time of all packets so far. The counts start at the earliest time of all packets."""
    later_ns = 2 * BEGIN_NS
    buffer, sizes = np.zeros(100, np.uint8), np.full(5, 60)
    untimed, steps_back = replayer.untimed, replayer.steps_back
    times_ns = np.array([later_ns, later_ns - 7, later_ns + 9 * SECOND, 0, 3])
    replayer.feed(PacketBatch(buffer, 0, np.zeros(5, np.int64), sizes, sizes, times_ns, np.ones(5, np.int64)))
    assert (replayer.started_ns, replayer.latest_ns) == (3, later_ns + 9 * SECOND)
    assert (replayer.untimed - untimed, replayer.steps_back - steps_back) == (1, 2)
    assert replayer.step_back_ns == later_ns + 9 * SECOND - 3
    assert replayer.reader().read().time_ns == later_ns + 9 * SECOND
