# SPDX-License-Identifier: Apache-2.0
"""Every link type becomes Ethernet; scapy finds in it the packet that was put in."""

from pathlib import Path

import pytest
from captures import BEGIN_NS, Packet, packet, pcap, pcapng
from linktypes import LINKS
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.ppp import PPPoE
from scapy.packet import Packet as ScapyPacket

from otel_epping.capture import Capture, CaptureError

ETHERNET_HEADER = 14
PACKETS = (
    IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=1, dport=2) / b"data",
    IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=3, dport=4) / b"more data",
)


def frames(path: Path) -> tuple[list[tuple[bytes, int]], str]:
    """The frames of a capture as (bytes, original length), and the error that it ends with, or ''."""
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
    content = pcap([Packet(BEGIN_NS, frame, len(frame) + 100, link) for frame in made], link=link)
    (tmp_path / "capture").write_bytes(content)
    found, error = frames(tmp_path / "capture")
    assert not error
    for (frame, original), given, put_in in zip(found, PACKETS, made, strict=True):
        seen: ScapyPacket = Ether(frame)
        inner = seen[type(given)]
        assert bytes(inner) == bytes(given)
        assert original == len(frame) + 100
        if name.startswith(("ethernet", "802.1Q")):
            assert frame == put_in
        elif name != "PPPoE" and "802.1Q" not in name:
            assert len(frame) == ETHERNET_HEADER + len(given)
        assert (PPPoE in seen) == (name == "PPPoE")


def test_links_side_by_side(tmp_path: Path) -> None:
    """Packets of many interfaces, one after the other; each is turned without touching its neighbours."""
    ip = bytes(PACKETS[0])
    packets = [Packet(BEGIN_NS, make(ip), len(make(ip)), link) for _ in range(3) for link, make in LINKS.values()]
    (tmp_path / "capture").write_bytes(pcapng(packets))
    found, error = frames(tmp_path / "capture")
    assert not error
    assert [bytes(Ether(frame)[IP]) for frame, _ in found] == [ip] * len(packets)


@pytest.mark.parametrize("name", LINKS)
def test_cut_within_the_link_header(tmp_path: Path, name: str) -> None:
    """However little of a packet there is, the next one is whole, and what is left is too short for a frame."""
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
    if "802.1Q" not in name and name != "PPPoE":
        assert max(len(each) for each, _ in found[::2]) == ETHERNET_HEADER


def test_what_a_link_may_carry_besides_ip(tmp_path: Path) -> None:
    """It stays what it is, or becomes of no known type."""
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


def test_a_link_that_is_not_known(tmp_path: Path) -> None:
    """What comes before its first packet is read; its mere presence in the file is no error."""
    packets = [packet(1), packet(2), packet(3)._replace(link=127), packet(4)]
    content = pcapng(packets)
    (tmp_path / "capture").write_bytes(content)
    found, error = frames(tmp_path / "capture")
    assert [frame for frame, _ in found] == [one.data for one in packets[:2]]
    at = content.index(packets[2].data)
    assert error == (
        f"{tmp_path}/capture: has packets of link type 127 (IEEE 802.11 with radiotap header), which is not supported, "
        f"at byte {at}"
    )
    (tmp_path / "capture").write_bytes(pcap(packets, link=147))
    assert ": has packets of link type 147, which is not supported, at byte 40" in frames(tmp_path / "capture")[1]
