# SPDX-License-Identifier: Apache-2.0
"""pcap: every form of the header, records of every length, files that are cut or damaged; dpkt reads the same."""

import io
import random
import struct
from pathlib import Path

import dpkt
import pytest
from captures import BEGIN_NS, Packet, in_microseconds, packet, pcap, read_bytes

from otel_epping.capture.stream import WINDOW

FILE_HEADER, RECORD_HEADER = 24, 16
PACKETS = [packet(1, 60), packet(2, 1, 1400), packet(3, 0, 64), packet(4, 1514)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_every_header(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    packets = [one._replace(time_ns=one.time_ns + 123_456_789) for one in PACKETS]
    content = pcap(packets, order, nanoseconds)
    found, error = read_bytes(tmp_path / "capture", content)
    assert found == (packets if nanoseconds else in_microseconds(packets))
    assert not error
    oracle = dpkt.pcap.Reader(io.BytesIO(content))
    times, contents = zip(*oracle, strict=True)
    assert [one.time_ns / 1e9 for one in found] == pytest.approx([float(time) for time in times], abs=2e-6)
    assert [one.data for one in found] == list(contents)


def test_more_than_a_window(tmp_path: Path) -> None:
    """Records across the ends of windows, and more in one than make a batch."""
    chance = random.Random(1)
    sizes = [chance.choice([0, 1, 60, 1514, 9000, 65_536, 262_144]) for _ in range(300)] + [14] * 10_000
    packets = [packet(number, size) for number, size in enumerate(sizes)]
    content = pcap(packets, nanoseconds=True)
    assert len(content) > 5 * WINDOW
    assert read_bytes(tmp_path / "capture", content) == (packets, "")


def test_no_packets(tmp_path: Path) -> None:
    assert read_bytes(tmp_path / "capture", pcap([])) == ([], "")


def test_the_length_of_the_check_sequence_is_no_link_type(tmp_path: Path) -> None:
    found, _ = read_bytes(tmp_path / "capture", pcap(PACKETS, link=0x2400_0001))
    assert {one.link for one in found} == {1}


def test_times_before_1970_and_of_1970(tmp_path: Path) -> None:
    """The kernel program takes 0 for "never"."""
    packets = [Packet(0, b"data", 4), Packet(2_000, b"data", 4)]
    found, _ = read_bytes(tmp_path / "capture", pcap(packets))
    assert [one.time_ns for one in found] == [1, 2_000]


def test_torn_at_every_byte(tmp_path: Path) -> None:
    content = pcap(PACKETS[:3], nanoseconds=True)
    ends = [FILE_HEADER]
    for one in PACKETS[:3]:
        ends.append(ends[-1] + RECORD_HEADER + len(one.data))
    for size in range(1, len(content) + 1):
        found, error = read_bytes(tmp_path / "capture", content[:size])
        whole = sum(end <= size for end in ends) - 1
        assert found == PACKETS[: max(0, whole)]
        if size in ends:
            assert not error
        elif size < 4:
            assert "is neither pcap nor pcapng" in error
        elif size < FILE_HEADER:
            assert error.endswith(f"is cut short in the header of the file, at byte {size}")
        else:
            assert error.endswith(f"is cut short in the middle of a packet, at byte {ends[whole]}")


def test_any_byte_damaged(tmp_path: Path) -> None:
    """Whatever a byte is turned into: packets, or an error, and as many packets as before it."""
    content = pcap(PACKETS[:3], nanoseconds=True)
    intact = FILE_HEADER + RECORD_HEADER + len(PACKETS[0].data)
    for place in range(len(content)):
        for value in (0x00, 0x7F, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            found, _ = read_bytes(tmp_path / "capture", damaged)
            assert place < intact or found[0] == PACKETS[0]


def test_a_record_too_long_to_be_one(tmp_path: Path) -> None:
    record = struct.pack("<IIII", BEGIN_NS // 10**9, 0, 262_145, 262_145)
    found, error = read_bytes(tmp_path / "capture", pcap(PACKETS[:1], nanoseconds=True) + record + bytes(300_000))
    assert found == PACKETS[:1]
    assert error.endswith(f"is damaged: a packet of 262145 bytes, at byte {FILE_HEADER + RECORD_HEADER + 60}")


def test_another_version(tmp_path: Path) -> None:
    content = bytearray(pcap(PACKETS))
    content[4] = 3
    assert read_bytes(tmp_path / "capture", bytes(content))[1].endswith("version 3 of pcap is not known, at byte 4")
