# SPDX-License-Identifier: Apache-2.0
"""Tests pcap. dpkt is the reference.

The tests cover every form of the file header, records of every length, and truncated and damaged files.
"""

import io
import random
import struct
from pathlib import Path

import dpkt
import pytest

from otel_epping.replay.capture.stream import WINDOW
from tests.support.captures import BEGIN_NS, in_microseconds, packet, pcap, read, read_bytes, records
from tests.support.split_reads import delivered

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


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


def test_captures_larger_than_a_window(tmp_path: Path) -> None:
    """Some records cross the end of a window. Some windows have more records than a batch."""
    chance = random.Random(1)
    sizes = [chance.choice([0, 1, 60, 1514, 9000, 65_536, 262_144]) for _ in range(300)] + [14] * 10_000
    packets = [packet(number, size) for number, size in enumerate(sizes)]
    content = pcap(packets, nanoseconds=True)
    assert len(content) > 5 * WINDOW
    assert read_bytes(tmp_path / "capture", content) == (packets, "")


def test_no_packets(tmp_path: Path) -> None:
    assert read_bytes(tmp_path / "capture", pcap([])) == ([], "")


def test_the_fcs_length_is_not_part_of_the_link_type(tmp_path: Path) -> None:
    found, _ = read_bytes(tmp_path / "capture", pcap(PACKETS, link=0x2400_0001))
    assert {one.link for one in found} == {1}


def test_invalid_times_are_missing_times(tmp_path: Path) -> None:
    """A time is invalid if it is zero, or if the field for the fraction of a second contains one second or more.

    In a file with microseconds, 1,000,000 is the first invalid fraction. In a file with nanoseconds, 1,000,000,000 is
    the first invalid fraction.
    """
    for nanoseconds, unit_ns in ((False, 1000), (True, 1)):
        per_second = 10**9 // unit_ns
        times = [(0, 0), (0, 1), (5, per_second - 1), (5, per_second), (5, 2**32 - 1), (2**32 - 1, 0)]
        content = pcap([], nanoseconds=nanoseconds)
        content += b"".join(struct.pack("<IIII", *time, 4, 4) + b"data" for time in times)
        found, error = read_bytes(tmp_path / "capture", content)
        assert not error
        expected_ns = [0, unit_ns, 6 * 10**9 - unit_ns, 0, 0, (2**32 - 1) * 10**9]
        assert [one.time_ns for one in found] == expected_ns


def test_truncated_at_every_byte(tmp_path: Path) -> None:
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
            assert error.endswith(f"is truncated in the file header, at byte {size}")
        else:
            assert error.endswith(f"is truncated in the middle of a packet, at byte {ends[whole]}")


def test_damage_at_every_byte(tmp_path: Path) -> None:
    """The test changes each byte in turn. The packets before the changed byte are read.

    From the changed byte on, the reader returns packets or an error.
    """
    content = pcap(PACKETS[:3], nanoseconds=True)
    intact = FILE_HEADER + RECORD_HEADER + len(PACKETS[0].data)
    for place in range(len(content)):
        for value in (0x00, 0x7F, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            found, _ = read_bytes(tmp_path / "capture", damaged)
            assert place < intact or found[0] == PACKETS[0]


def test_a_record_that_is_too_long_is_damage(tmp_path: Path) -> None:
    record = struct.pack("<IIII", BEGIN_NS // 10**9, 0, 262_145, 262_145)
    found, error = read_bytes(tmp_path / "capture", pcap(PACKETS[:1], nanoseconds=True) + record + bytes(300_000))
    assert found == PACKETS[:1]
    assert error.endswith(f"is damaged: a packet of 262145 bytes, at byte {FILE_HEADER + RECORD_HEADER + 60}")


def test_another_version(tmp_path: Path) -> None:
    content = bytearray(pcap(PACKETS))
    content[4] = 3
    assert read_bytes(tmp_path / "capture", bytes(content))[1].endswith("has unsupported pcap version 3.4, at byte 4")


ORDERS = pytest.mark.parametrize("order", ["<", ">"])
TIMED = in_microseconds([packet(1, 60), packet(2, 10, 1400), packet(4, 1514), packet(5, 60)])


def header(
    magic: int, order: str = "<", version: tuple[int, int] = (2, 4), link: int = 1, snap_length: int = 0
) -> bytes:
    return struct.pack(f"{order}IHHiIII", magic, *version, 0, 0, snap_length, link)


@ORDERS
@pytest.mark.parametrize(
    ("magic", "more"),
    [
        (0xA1B2CD34, 8),  # Red Hat 6 used this format of Kuznetzov's patch.
        (0xA1B2CD34, 12),  # SuSE 6.3 used this format for several processors.
        (0xA1B2C3D4, 8),  # At first, the format of the patch had no magic number of its own.
        (0xA1B2C3D4, 4),  # Nokia used this format.
    ],
)
def test_longer_record_headers(tmp_path: Path, order: str, magic: int, more: int) -> None:
    """The test reads a file with several packets and a file with two packets.

    The test reads each file again without the last byte, so that the last packet is truncated.
    """
    extra = bytes(range(0x80, 0x80 + more))
    for packets in (TIMED, TIMED[:2]):
        content = header(magic, order) + records(packets, order, extra)
        assert read_bytes(tmp_path / "capture", content) == (packets, "")
        found, error = read_bytes(tmp_path / "capture", content[:-1])
        assert found == packets[:-1]
        assert "is truncated in the middle of a packet" in error


@ORDERS
def test_the_modified_format_through_a_pipe(order: str) -> None:
    with delivered(header(0xA1B2CD34, order) + records(TIMED, order, bytes(8)), 50) as pipe:
        assert read(pipe) == (TIMED, "")


@ORDERS
@pytest.mark.parametrize("version", [(2, 0), (2, 1), (2, 2), (2, 3), (543, 0)])
def test_lengths_in_the_old_order(tmp_path: Path, order: str, version: tuple[int, int]) -> None:
    content = header(0xA1B2C3D4, order, version) + records(TIMED, order, swapped=True)
    assert read_bytes(tmp_path / "capture", content) == (TIMED, "")


def test_lengths_of_version_2_3_in_the_new_order(tmp_path: Path) -> None:
    """A record has two length fields. In some files of version 2.3, the original length comes first; in other files,
    the captured length comes first."""
    assert read_bytes(tmp_path / "capture", header(0xA1B2C3D4, "<", (2, 3)) + records(TIMED)) == (TIMED, "")


@ORDERS
def test_aix(tmp_path: Path, order: str) -> None:
    """In AIX files, the fraction of a second is in nanoseconds. The link types are the interface types of RFC 1573."""
    parts = [struct.pack(f"{order}IIII", 9, 999_999_999, len(one.data), len(one.data)) + one.data for one in TIMED]
    for theirs, link in ((6, 1), (24, 0)):
        content = header(0xA1B2C3D4, order, (2, 2), theirs) + b"".join(parts)
        found, error = read_bytes(tmp_path / "capture", content)
        assert not error
        assert [(one.time_ns, one.data, one.link) for one in found] == [
            (9_999_999_999, one.data, link) for one in TIMED
        ]


@ORDERS
def test_ixia(tmp_path: Path, order: str) -> None:
    """The test reads two formats of Ixia: lcap files of Ixia hardware, and lcap files of Ixia software.

    Both formats have a field after the file header: the total length of all records.
    """
    body = records(TIMED, order)
    content = header(0x1C0001AB, order) + struct.pack(f"{order}I", len(body)) + body
    assert read_bytes(tmp_path / "capture", content) == (TIMED, "")
    content = header(0x1C0001AC, order) + struct.pack(f"{order}I", len(body)) + body
    found, _ = read_bytes(tmp_path / "capture", content)
    assert [one.time_ns for one in found] == [
        one.time_ns // 10**9 * 10**9 + one.time_ns % 10**9 // 1000 for one in TIMED
    ]


def test_packets_may_be_longer_than_the_snap_length(tmp_path: Path) -> None:
    """Some writers set the snap length to zero. Other writers write packets that are longer than the snap length."""
    for snap_length in (0, 10, 0xFFFF_FFFF):
        content = header(0xA1B2C3D4, snap_length=snap_length) + records(TIMED)
        assert read_bytes(tmp_path / "capture", content) == (TIMED, "")


def test_the_fcs_is_removed_from_packets(tmp_path: Path) -> None:
    """The link type field of the file says that packets end with an FCS of four bytes.

    A truncated packet ends with a part of the FCS, or without FCS.
    """
    packets = [packet(1, 64), packet(2, 63, 1), packet(3, 60, 4), packet(4, 20, 44)]
    found, error = read_bytes(tmp_path / "capture", pcap(packets, nanoseconds=True, link=0x2400_0001))
    assert not error
    assert [(len(one.data), one.original) for one in found] == [(60, 60), (60, 60), (60, 60), (20, 60)]


def test_zeros_are_not_packets(tmp_path: Path) -> None:
    """After a crash, a file may already have its full size, although data is missing.

    In place of the missing data, the file has zeros.
    """
    content = pcap(PACKETS, nanoseconds=True)
    found, error = read_bytes(tmp_path / "capture", content + bytes(1 << 20))
    assert found == PACKETS
    assert error.endswith(f"is damaged: zeros in place of a packet, at byte {len(content)}")
