# SPDX-License-Identifier: Apache-2.0
"""Tests pcapng: sections, interfaces and clocks of all kinds, and all types of packet blocks. dpkt is the reference."""

import io
import struct
from pathlib import Path

import dpkt
import pytest

from otel_epping.replay.capture.stream import WINDOW
from tests.support.captures import (
    SECOND,
    Packet,
    block,
    enhanced,
    in_microseconds,
    interface,
    obsolete,
    option,
    packet,
    pcapng,
    read_bytes,
    section,
    simple,
)

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


PACKETS = in_microseconds([packet(1, 60), packet(2, 1, 1400), packet(3, 0, 64), packet(4, 1514)])
NAME, TIME_RESOLUTION, FCS_LENGTH, TIME_OFFSET = 2, 9, 13, 14
END_OF_OPTIONS = option(0, b"")
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


@ORDERS
def test_enhanced_packet_blocks(tmp_path: Path, order: str) -> None:
    content = pcapng(PACKETS, order)
    assert read_bytes(tmp_path / "capture", content) == (PACKETS, "")
    oracle = dpkt.pcapng.Reader(io.BytesIO(content))
    times, contents = zip(*oracle, strict=True)
    assert [one.time_ns / 1e9 for one in PACKETS] == pytest.approx(times, abs=2e-6)
    assert [one.data for one in PACKETS] == list(contents)


@ORDERS
def test_all_kinds_of_packet_blocks(tmp_path: Path, order: str) -> None:
    """The file also has blocks of other types. A block of another type is longer than the window.

    A simple packet block has no time. The snap length limits the data of a simple packet block.
    """
    one, two, three, four = PACKETS
    parts = [
        section(order),
        block(0x0BAD, bytes(100), order),
        interface(1, order, snap_length=1000, options=option(NAME, b"eth0", order) + END_OF_OPTIONS),
        enhanced(one, order, options=option(1, b"a comment", order)),
        block(5, bytes(64), order),
        obsolete(two, order),
        simple(three._replace(data=b"xyz", original=3), order),
        simple(four._replace(data=four.data[:1000], original=1514), order),
        block(4, bytes(WINDOW + 100), order),
        enhanced(four, order),
        block(0x80000001, b"", order),
    ]
    found, error = read_bytes(tmp_path / "capture", b"".join(parts))
    assert not error
    untimed = [Packet(0, b"xyz", 3), Packet(0, four.data[:1000], 1514)]
    assert found == [one, two, *untimed, four]


def test_sections_of_both_byte_orders_with_their_own_interfaces(tmp_path: Path) -> None:
    parts = [
        section("<") + interface(1, "<") + interface(113, "<") + enhanced(PACKETS[0], "<", 1),
        section(">", length=0) + interface(101, ">") + enhanced(PACKETS[1], ">"),
        section("<") + interface(276, "<") + enhanced(PACKETS[2], "<") + interface(9, "<"),
        enhanced(PACKETS[3], "<", 1) + enhanced(PACKETS[0], "<", 0),
    ]
    found, error = read_bytes(tmp_path / "capture", b"".join(parts))
    assert not error
    assert [one.link for one in found] == [113, 101, 276, 9, 276]
    assert [one.data for one in found] == [PACKETS[number].data for number in (0, 1, 2, 3, 0)]


@ORDERS
@pytest.mark.parametrize(
    ("resolution", "per_second"),
    [*((digits, 10**digits) for digits in (0, 3, 6, 9, 12)), *((0x80 | bits, 2**bits) for bits in (10, 30, 33))],
)
def test_clocks(tmp_path: Path, order: str, resolution: int, per_second: int) -> None:
    """The units of time are powers of ten and powers of two. Times are relative to the time offset of the interface."""
    offset_s = -3_000
    options = option(TIME_RESOLUTION, bytes([resolution]), order)
    options += option(TIME_OFFSET, struct.pack(f"{order}q", offset_s), order)
    tick = 17_000_000 * per_second + per_second * 3 // 7 + 1  # shorter than 2^64 ps (213 days)
    parts = [
        section(order),
        interface(order=order),
        interface(order=order, options=options + END_OF_OPTIONS),
        enhanced(PACKETS[0], order, 1, tick) + enhanced(PACKETS[1], order, 0) + enhanced(PACKETS[2], order, 1, 0),
    ]
    found, error = read_bytes(tmp_path / "capture", b"".join(parts))
    assert not error
    expected_ns = tick * SECOND // per_second + offset_s * SECOND
    assert [one.time_ns for one in found] == [expected_ns, PACKETS[1].time_ns, 0]


def test_captures_larger_than_a_window(tmp_path: Path) -> None:
    sizes = [0, 1, 2, 3, 60, 1514, 65_536, 262_144] * 20 + [14] * 10_000
    packets = in_microseconds([packet(number, size) for number, size in enumerate(sizes)])
    content = pcapng(packets)
    assert len(content) > 5 * WINDOW
    assert read_bytes(tmp_path / "capture", content) == (packets, "")


@ORDERS
def test_truncated_at_every_byte(tmp_path: Path, order: str) -> None:
    blocks = [section(order), interface(order=order), *(enhanced(one, order) for one in PACKETS[:2])]
    blocks += [block(5, bytes(8), order), obsolete(PACKETS[2], order)]
    ends = [sum(map(len, blocks[: count + 1])) for count in range(len(blocks))]
    content = b"".join(blocks)
    for size in range(1, len(content) + 1):
        found, error = read_bytes(tmp_path / "capture", content[:size])
        whole = sum(end <= size for end in ends)
        assert found == PACKETS[: max(0, whole - 2) - (whole > 4)]
        if size in ends:
            assert not error
        elif size < 4:
            assert "is neither pcap nor pcapng" in error
        else:
            assert error.endswith(f"is truncated in the middle of a block, at byte {[0, *ends][whole]}")


def test_damage_at_every_byte(tmp_path: Path) -> None:
    """The test changes each byte in turn. The packets before the changed byte are read.

    From the changed byte on, the reader returns packets or an error.
    """
    head = section() + interface(options=option(TIME_RESOLUTION, b"\x06") + END_OF_OPTIONS) + enhanced(PACKETS[0])
    content = head + simple(PACKETS[1]) + obsolete(PACKETS[2]) + enhanced(PACKETS[3]._replace(data=b"data"))
    for place in range(len(content)):
        for value in (0x00, 0x7F, 0xFF):
            damaged = content[:place] + bytes([value]) + content[place + 1 :]
            found, _ = read_bytes(tmp_path / "capture", damaged)
            assert place < len(head) or found[0] == PACKETS[0]


GOOD = section() + interface() + enhanced(PACKETS[0])
AT = len(GOOD)
EMPTY = enhanced(PACKETS[2])


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (EMPTY[:-4] + b"\x00\x00\x00\x00", "a packet block with inconsistent fields"),
        (enhanced(PACKETS[0], number=1), "a packet block with inconsistent fields"),
        (EMPTY[:20] + b"\x01\x00\x00\x00" + EMPTY[24:], "a packet block with inconsistent fields"),
        (struct.pack("<II", 6, 0) + bytes(20), "a block of 0 bytes"),
        (struct.pack("<II", 6, 33) + bytes(40), "a block of 33 bytes"),
        (struct.pack("<III", 6, 16, 0) + bytes(40), "a block of 16 bytes"),
        (struct.pack("<III", 3, 12, 12) + bytes(40), "a block of 12 bytes"),
        (struct.pack("<II", 5, 8) + bytes(20), "a block of 8 bytes"),
        (struct.pack("<II", 6, WINDOW + 4) + bytes(20), f"a block of {WINDOW + 4} bytes"),
        (section()[:8] + bytes(20), "a section without byte-order magic"),
    ],
)
def test_damaged(tmp_path: Path, bad: bytes, cause: str) -> None:
    found, error = read_bytes(tmp_path / "capture", GOOD + bad)
    assert found == PACKETS[:1]
    assert error.endswith(f"capture: is damaged: {cause}, at byte {AT}")


def test_another_version(tmp_path: Path) -> None:
    content = section()[:12] + b"\x02" + section()[13:]
    assert read_bytes(tmp_path / "capture", content)[1].endswith("has unsupported pcapng version 2, at byte 0")


@ORDERS
@pytest.mark.parametrize("resolution", [0, 3, 6, 9, 12, 0x80 | 10, 0x80 | 33])
@pytest.mark.parametrize("offset_s", [0, -3_000, 1_700_000_000, -(2**63), 2**63 - 1])
def test_invalid_times_are_missing_times(tmp_path: Path, order: str, resolution: int, offset_s: int) -> None:
    """A time counts as missing if it is zero or negative, or if it is 2^63 ns or later.

    All other times are read exactly.
    """
    per_second = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
    options = option(TIME_RESOLUTION, bytes([resolution]), order)
    options += option(TIME_OFFSET, struct.pack(f"{order}q", offset_s), order)
    limit = (2**63 - offset_s * SECOND) * per_second // SECOND
    begin = -offset_s * per_second
    near = [tick + more for tick in (begin, limit) for more in (-2, -1, 0, 1, 2)]
    ticks = [tick for tick in (0, 1, *near, 10**18, 2**63 - 1, 2**63, 2**64 - 1) if 0 <= tick < 2**64]
    parts = [section(order), interface(order=order, options=options + END_OF_OPTIONS)]
    parts += [enhanced(PACKETS[2], order, 0, tick) for tick in ticks]
    found, error = read_bytes(tmp_path / "capture", b"".join(parts))
    assert not error
    exact = [tick * SECOND // per_second + offset_s * SECOND for tick in ticks]
    assert [one.time_ns for one in found] == [time_ns if 0 < time_ns < 2**63 else 0 for time_ns in exact]


@ORDERS
def test_the_fcs_is_removed_from_packets(tmp_path: Path, order: str) -> None:
    """The FCS is removed only if the interface declares the length of the FCS."""
    parts = [
        section(order),
        interface(order=order, options=option(FCS_LENGTH, b"\x04", order) + END_OF_OPTIONS),
        interface(order=order),
        *(enhanced(one, order, number) for one in (packet(1, 64), packet(2, 20, 44)) for number in (0, 1)),
    ]
    found, error = read_bytes(tmp_path / "capture", b"".join(parts))
    assert not error
    assert [(len(one.data), one.original) for one in found] == [(60, 60), (64, 64), (20, 60), (20, 64)]


def test_other_blocks_are_skipped(tmp_path: Path) -> None:
    """The file has blocks that the reader skips.

    The skipped blocks contain names, statistics, custom blocks, journal entries of systemd, decryption secrets and
    unspecified types.
    """
    others = [block(kind, bytes(range(40))) for kind in (4, 5, 7, 8, 9, 0xA, 0xBAD, 0x4000_0BAD, 0x204, 0x7FFF_0000)]
    content = section() + interface()
    for one, other in zip(PACKETS, [b"".join(others[i::4]) for i in range(4)], strict=True):
        content += other + enhanced(one)
    assert read_bytes(tmp_path / "capture", content) == (PACKETS, "")
