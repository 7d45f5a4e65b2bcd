# SPDX-License-Identifier: Apache-2.0
"""Tests histories of captures. tests/report/test_three_ways.py compares the sums with the table of `replay`."""

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.captures import read_captures
from otel_epping.history.total import Total
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.databases import Databases
from otel_epping.series.grouping import Grouping
from tests.support.captures import BEGIN_NS, ETHERNET, SECOND, Packet, pcap
from tests.support.conversation import CLIENT, SERVER, Conversation
from tests.support.databases import write_database

pytestmark = pytest.mark.parallel

MS = 1_000_000
HEADER = bytes(12)  # destination and source address of Ethernet
ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


def capture_of(path: Path, conversations: dict[int, Conversation]) -> Path:
    """Write a capture. The key of each conversation is the time of the first packet in ns."""
    packets = [
        Packet(begin_ns + time_ns, HEADER + ETHERTYPES[each.version] + data, len(data) + 14, ETHERNET)
        for begin_ns, each in conversations.items()
        for time_ns, data in each.ip
    ]
    path.write_bytes(pcap(sorted(packets), nanoseconds=True))
    return path


def conversation_history(tmp_path: Path, begins_ns: list[int], step_ns: int | None = None) -> History:
    conversations = {begin_ns: Conversation(number) for number, begin_ns in enumerate(begins_ns)}
    path = capture_of(tmp_path / "some.pcap", conversations)
    config = EppingConfig(max_subnets=256, max_flows=256, sample_interval_ns=0)
    return read_captures([str(path)], config, step_ns=step_ns)


def rtts_of_line(history: History, total: Total, subnet: str, method: str) -> int:
    """Return the number of RTTs of a subnet."""
    (number,) = (number for number, line in enumerate(history.lines) if line.subnet == subnet)
    return int(total.rtts([method]).counts[number])


def test_the_time_of_a_history_is_the_time_of_the_packets(tmp_path: Path) -> None:
    # The conversations last 307 ms each.
    history = conversation_history(tmp_path, [BEGIN_NS, BEGIN_NS + 5 * SECOND], step_ns=SECOND)
    assert (history.begin_ns, history.end_ns) == (BEGIN_NS, BEGIN_NS + 5_307 * MS)
    totals = list(history.over_time(SECOND))
    # The empty slice from the first to the fifth second is a part of the measurement.
    assert [(total.begin_ns - BEGIN_NS) // SECOND for total in totals] == [0, 1, 5]
    assert history.total().seconds == pytest.approx(5.307)
    for number, total in ((0, totals[0]), (1, totals[2])):
        for method in SERVER:
            found = [rtts_of_line(history, total, Conversation(each).server, method) for each in (0, 1)]
            assert found == [int(number == 0), int(number == 1)]
    for method in CLIENT:
        assert rtts_of_line(history, history.total(), Conversation(1).client, method) == 1


def test_a_long_time_without_packets_is_a_gap(tmp_path: Path) -> None:
    history = conversation_history(tmp_path, [BEGIN_NS, BEGIN_NS + 7_200 * SECOND])
    assert history.total().seconds < 60
    assert "gaps of more than one hour without packets, which do not count as measured time: 1" in history.notes


@pytest.mark.parametrize("packets_at_once", [4096, 40])
def test_the_length_of_slices_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packets_at_once: int) -> None:
    """If a capture is one batch, the length of slices is known before the first slice. So no slices are merged."""
    monkeypatch.setattr("otel_epping.replay.capture.pcap.MAX_PACKETS", packets_at_once)
    coarsen, lengths_ns = History.coarsen, list[int]()

    def noted(history: History, step_ns: int) -> None:
        lengths_ns.append(step_ns)
        coarsen(history, step_ns)

    monkeypatch.setattr(History, "coarsen", noted)
    history = conversation_history(tmp_path, [BEGIN_NS + number * 60 * SECOND for number in range(40)])
    assert 40 <= len(history) <= 200
    assert bool(lengths_ns) == (packets_at_once == 40)
    assert history.total().seconds == pytest.approx(39 * 60 + 0.307)
    assert rtts_of_line(history, history.total(), Conversation(39).server, "dns") == 1


def test_files_in_the_wrong_order_are_put_in_order(tmp_path: Path) -> None:
    later = capture_of(tmp_path / "later.pcap", {BEGIN_NS + 100 * SECOND: Conversation(1)})
    earlier = capture_of(tmp_path / "earlier.pcap", {BEGIN_NS: Conversation(2)})
    config = EppingConfig(max_subnets=256, max_flows=256, sample_interval_ns=0)
    history = read_captures([str(later), str(earlier)], config, step_ns=SECOND)
    first, second = list(history.over_time(SECOND))
    assert rtts_of_line(history, first, Conversation(2).server, "dns") == 1
    assert rtts_of_line(history, second, Conversation(1).server, "dns") == 1
    assert any("before an earlier file ends" in note for note in history.notes)


def test_a_capture_without_packets_and_a_file_that_is_no_capture(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty.pcap", tmp_path / "other.pcap"
    empty.write_bytes(pcap([]))
    other.write_text("text")
    config = EppingConfig(max_subnets=64, max_flows=256)
    history = read_captures([str(empty), str(other)], config)
    assert history.total().rtts().counts.sum() == 0
    assert any(str(other) in note for note in history.notes)
    with pytest.raises(EppingError, match=r"other\.pcap"):
        read_captures([str(other)], config)
    other.write_bytes(pcap([])[:20])
    with pytest.raises(EppingError, match="truncated in the file header"):
        read_captures([str(other)], config)


def test_subnets_that_never_answer_share_a_line_even_if_lines_are_groups(tmp_path: Path) -> None:
    records = {Conversation(0).server: {"asn": 64500, "as_name": "One"}, "12.0.0.0/8": {"asn": 64501}}
    databases = Databases([write_database(tmp_path / "as.mmdb", records)])
    one = Conversation(0)
    silent = Packet(BEGIN_NS, *frame(bytes(IP(src="12.0.0.1", dst="10.0.0.1") / UDP(sport=1, dport=2))))
    packets = [*(Packet(BEGIN_NS + at_ns, *frame(ip)) for at_ns, ip in one.ip), silent]
    path = tmp_path / "some.pcap"
    path.write_bytes(pcap(packets, nanoseconds=True))
    config = EppingConfig(max_subnets=256, max_flows=256, sample_interval_ns=0)
    history = read_captures([str(path)], config, grouping=Grouping("asn", databases=databases), step_ns=SECOND)
    labels = {
        line.label for line, is_present in zip(history.lines, history.total().present(), strict=True) if is_present
    }
    assert labels == {"AS64500 One", "unknown", "never answered"}


def frame(ip: bytes) -> tuple[bytes, int]:
    """Return an IPv4 packet with an Ethernet header, and the length of the packet."""
    data = HEADER + ETHERTYPES[4] + ip
    return data, len(data)
