# SPDX-License-Identifier: Apache-2.0
"""A capture that a test composes packet by packet. The test also specifies what other tools print for the capture.

There are two endpoints, the client (0) and the server (1). Times are in milliseconds since the start of the capture. A
method that adds a packet returns the packet's frame number, so that later calls can refer to this frame.
"""

from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet as ScapyPacket

from tests.support import captures
from tests.support.captures import BEGIN_NS, SECOND
from tests.support.link_types import LINKS

MS = 1_000_000
ADDRESSES = {4: ("10.0.0.1", "11.0.0.2"), 6: ("2001:db8::1", "2001:db9::2")}
PORTS = 40_000, 443


class Transcript:
    """A capture, and the lines and rows that pping and tshark should print for the capture. `link` is a key of
    LINKS."""

    def __init__(self, version: int = 4, link: str = "ethernet") -> None:
        self.packets: list[captures.Packet] = []
        self.pping: list[str] = []
        self.rows: dict[str, list[str]] = {"ack_rtt": [], "dns": [], "icmp": []}
        self.version = version
        self._link_type, self._frame = LINKS[link]
        self._at_ns: list[int] = []
        self._senders: list[int] = []
        self._ip: list[bytes] = []

    def sender(self, frame: int) -> int:
        """Return the sender of the packet in this frame: 0 is the client, 1 is the server."""
        return self._senders[frame - 1]

    def say(self, at_ms: float, sender: int, layer: ScapyPacket, length: int | None = None) -> int:
        """Add a packet with any transport layer. `length` replaces the length field in the IPv4 header."""
        source, destination = ADDRESSES[self.version][sender], ADDRESSES[self.version][1 - sender]
        network = IPv6 if self.version == 6 else IP
        packet = network(src=source, dst=destination) / layer
        if self.version == 4:
            # Hosts increment the IP identification for each packet. A copy has the identification of its original.
            packet.id = len(self.packets) + 1
        if length is not None:
            packet.len = length
        return self._capture(at_ms, sender, bytes(packet))

    def copy(self, at_ms: float, frame: int, hops: int = 0) -> int:
        """Add a copy of the IP packet of an earlier frame, as it looks after `hops` routers."""
        packet: ScapyPacket
        if self.version == 4:
            packet = IP(self._ip[frame - 1])
            packet.ttl -= hops
            del packet.chksum  # scapy computes the checksum
        else:
            packet = IPv6(self._ip[frame - 1])
            packet.hlim -= hops
        return self._capture(at_ms, self._senders[frame - 1], bytes(packet))

    def _capture(self, at_ms: float, sender: int, packet: bytes) -> int:
        frame = self._frame(packet)
        self._at_ns.append(BEGIN_NS + round(at_ms * MS))
        self._senders.append(sender)
        self._ip.append(packet)
        self.packets.append(captures.Packet(self._at_ns[-1], frame, len(frame), self._link_type))
        return len(self.packets)

    def segment(
        self,
        at_ms: float,
        sender: int,
        flags: str = "A",
        times: tuple[int, int] | None = None,
        size: int = 0,
        seq: int = 0,
        ack: int = 0,
        length: int | None = None,
        port: int = PORTS[0],
    ) -> int:
        """Add a TCP segment. `times` are TSval and TSecr, and `port` is the port of the client."""
        options: list[Any] = [] if times is None else [("NOP", None), ("NOP", None), ("Timestamp", times)]
        ports = (port, PORTS[1]) if sender == 0 else (PORTS[1], port)
        tcp = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, window=500, options=options)
        return self.say(at_ms, sender, tcp / bytes(size), length)

    def pping_says(self, reply: int, rtt_ms: float) -> None:
        """Add a line of `pping -m` for a reply and its RTT."""
        sender = self.sender(reply)
        ends = [f"{ADDRESSES[self.version][end]}:{PORTS[end]}" for end in (sender, 1 - sender)]
        seconds, ns = divmod(self._at_ns[reply - 1], SECOND)
        rtt = f"{rtt_ms / 1000:.6f}"
        self.pping.append(f"{seconds}.{ns // 1000:06d} {rtt} {rtt} 0 0 0 {ends[0]}+{ends[1]}")

    def tshark_says(self, kind: str, reply: int, asked: int, time: str) -> None:
        """Add a row to tshark's output: the reply, the packet to which it replies, and the time between the two packets
        in tshark's unit."""
        self.rows[kind].append(f"{reply},{self._at_ns[reply - 1] / SECOND:.9f},{asked},{time}")

    def write(self, folder: Path, name: str = "made") -> Path:
        """Write the capture. Write the output of the other tools to files in the same folder."""
        capture = folder / f"{name}.pcap"
        capture.write_bytes(captures.pcap(self.packets, nanoseconds=True, link=self._link_type))
        if self.pping:
            (folder / f"{name}.pping").write_text("\n".join(self.pping) + "\n")
        for kind, rows in self.rows.items():
            if rows:
                (folder / f"{name}.{kind}.csv").write_text("\n".join(rows) + "\n")
        return capture
