# SPDX-License-Identifier: Apache-2.0
"""Tests that packets of every link type are converted to Ethernet frames.

Scapy finds the original packet in each frame.
"""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.ppp import PPPoE
from scapy.packet import Packet as ScapyPacket

from otel_epping.replay.capture import Capture, CaptureError, PacketBatch, link_types
from tests.support.captures import BEGIN_NS, Packet, packet, pcap, pcapng
from tests.support.link_types import LINKS

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


ETHERNET_HEADER = 14
MORE_HEADERS = re.compile("PPPoE|802.1Q|MPLS")  # the kernel program itself parses these headers
HAS_TRAILER = re.compile("NFLOG|netANALYZER|802.3br|DOCSIS|checksum")
PACKETS = (
    IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=1, dport=2) / b"data",
    IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=3, dport=4) / b"more data",
)


def frames(path: Path) -> tuple[list[tuple[bytes, int]], str]:
    """Return the frames of a capture as (bytes, original length), and the error at the end of the capture.

    If there is no error, the error is ''.
    """
    found: list[tuple[bytes, int]] = []
    try:
        with Capture(str(path)) as capture:
            for batch in capture.ethernet_batches():
                for start, size, original in zip(batch.starts, batch.captured, batch.original, strict=True):
                    found.append((batch.buffer[start : start + max(size, 0)].tobytes(), int(original)))
    except CaptureError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("name", LINKS)
def test_every_link_type(tmp_path: Path, name: str) -> None:
    link, make = LINKS[name]
    made = [make(bytes(each)) for each in PACKETS]
    cut = 0 if HAS_TRAILER.search(name) else 100
    content = pcap([Packet(BEGIN_NS, frame, len(frame) + cut, link) for frame in made], link=link)
    (tmp_path / "capture").write_bytes(content)
    found, error = frames(tmp_path / "capture")
    assert not error
    for (frame, original), given, put_in in zip(found, PACKETS, made, strict=True):
        seen: ScapyPacket = Ether(frame)
        assert bytes(seen[type(given)]) == bytes(given)
        assert original == len(frame) + cut
        if link == 1:
            assert frame == put_in
        elif set(frame[:12]) == {0} and not MORE_HEADERS.search(name):
            assert len(frame) == ETHERNET_HEADER + len(given)
        assert (MPLS in seen) == (name == "MPLS")
        assert (PPPoE in seen) == name.startswith("PPPoE")


def test_the_tests_cover_every_supported_link_type() -> None:
    assert {link for link, _ in LINKS.values()} == set(link_types.LINK_TYPES)
    assert not set(link_types.LINK_TYPES) & set(link_types.UNSUPPORTED)


def test_packets_of_different_link_types_in_turn(tmp_path: Path) -> None:
    """The capture has packets of several interfaces in alternation.

    A conversion does not change the neighbouring packets.
    """
    ip = bytes(PACKETS[0])
    packets = [Packet(BEGIN_NS, make(ip), len(make(ip)), link) for _ in range(3) for link, make in LINKS.values()]
    (tmp_path / "capture").write_bytes(pcapng(packets))
    found, error = frames(tmp_path / "capture")
    assert not error
    assert [bytes(Ether(frame)[IP]) for frame, _ in found] == [ip] * len(packets)


@pytest.mark.parametrize("name", LINKS)
def test_packets_truncated_within_the_link_header(tmp_path: Path, name: str) -> None:
    """If a packet is truncated within its link header, its frame has no IP header.

    The next packet is complete, no matter how short the truncated packet is.
    """
    link, make = LINKS[name]
    frame = make(bytes(PACKETS[1]))
    header = len(frame) - len(PACKETS[1])
    short = [Packet(BEGIN_NS, frame[:size], len(frame), link) for size in range(header + 1)]
    whole = Packet(BEGIN_NS, frame, len(frame), link)
    packets = [each for one in short for each in (one, whole)]
    (tmp_path / "capture").write_bytes(pcap(packets, link=link))
    found, error = frames(tmp_path / "capture")
    assert not error
    assert len(found) == len(packets)
    assert {bytes(Ether(each)[IPv6]) for each, _ in found[1::2]} == {bytes(PACKETS[1])}
    for each, _ in found[::2]:
        assert len(each) <= ETHERNET_HEADER + 4 or each[12:14] not in (b"\x08\0", b"\x86\xdd")


def test_packets_that_are_not_ip(tmp_path: Path) -> None:
    """The frame of a packet that is not IP has the EtherType of the packet, or an unknown EtherType."""
    others = {
        101: b"\x55" * 40,
        0: bytes(4) + b"\x45" * 40,
        9: b"\xff\x03\xc0\x21" + bytes(40),
        113: bytes(14) + b"\x08\x06" + bytes(40),
    }
    for link, data in others.items():
        (tmp_path / "capture").write_bytes(pcap([Packet(BEGIN_NS, data, len(data))], link=link))
        ((frame, _),), error = frames(tmp_path / "capture")
        assert not error
        assert frame[12:14] == (b"\x08\x06" if link == 113 else bytes(2))


def test_an_unsupported_link_type(tmp_path: Path) -> None:
    """In pcapng, packets of supported link types are still read.

    A pcap file has only one link type, so no packet is read.
    """
    packets = [packet(1), packet(2), packet(3)._replace(link=220), packet(4)]
    (tmp_path / "capture").write_bytes(pcapng(packets))
    found, error = frames(tmp_path / "capture")
    assert [frame for frame, _ in found] == [packets[number].data for number in (0, 1, 3)]
    assert error.startswith(f"{tmp_path}/capture: has 1 packets of unsupported link type 220 (Linux USB): ")
    assert "tcpdump -y" in error
    assert "editcap" in error
    (tmp_path / "capture").write_bytes(pcap(packets, link=147))
    assert ": has packets of unsupported link type 147 (USER0): " in frames(tmp_path / "capture")[1]
    assert link_types.describe(9999) == "9999"


@pytest.mark.parametrize("name", LINKS)
def test_random_link_headers(name: str) -> None:
    """The headers are random bytes. Some headers have a valid beginning.

    A conversion changes no bytes outside the record of the packet.
    """
    link, make = LINKS[name]
    chance = random.Random(name)
    guard, record, count = 8, 16, 300
    good = make(bytes(PACKETS[0]))
    size = record + len(good) + guard
    buffer = np.frombuffer(chance.randbytes(count * size), np.uint8).reshape(count, size).copy()
    lengths = np.array([chance.randrange(len(good) + 1) for _ in range(count)])
    for row in buffer:
        kept = chance.randrange(len(good))
        row[record : record + kept] = np.frombuffer(good[:kept], np.uint8)
    before = buffer.copy()
    starts = np.arange(count) * size + record
    batch = PacketBatch(buffer.reshape(-1), 0, starts, lengths, lengths + 10, starts, np.full(count, link))
    found = link_types.to_ethernet(batch)
    for row, old, start, length in zip(buffer, before, starts, lengths, strict=True):
        end = start % size + length
        assert (row[end:] == old[end:]).all()
        assert (row[: record - ETHERNET_HEADER] == old[: record - ETHERNET_HEADER]).all()
    whole = found.captured >= ETHERNET_HEADER
    assert (found.starts[whole] >= starts[whole] - ETHERNET_HEADER).all()
    assert (found.starts[whole] + found.captured[whole] <= starts[whole] + lengths[whole]).all()
    assert (found.captured <= found.original).all()
    assert (found.original - found.captured <= 10).all()
