# SPDX-License-Identifier: Apache-2.0
"""The packets of a conversation with known RTTs, and the table that `replay` prints for the conversation.

A client exchanges TCP, DNS and ICMP packets with a server, over IPv4 or IPv6, in subnets that no other conversation
uses.
"""

from collections.abc import Callable
from typing import Any

from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet as ScapyPacket

from tests.support.captures import BEGIN_NS, Packet

MS = 1_000_000
# The RTTs to the server, by method. NEAR_MS is the RTT to the client. NEAR_MS is shorter because the capture is made
# near the client.
HANDSHAKE_MS, DATA_MS, DNS_MS, ECHO_MS, NEAR_MS = 20.5, 30.25, 15.125, 7.0, 1.5

# For the server and for the client: method -> RTT in ms that the program must record for this endpoint
SERVER = {"tcp_timestamp": DATA_MS, "tcp_handshake": HANDSHAKE_MS, "icmp_echo": ECHO_MS, "dns": DNS_MS}
CLIENT = {"tcp_timestamp": NEAR_MS, "tcp_handshake": NEAR_MS}


class Conversation:
    """Conversation `number`, 0 to 255. `client` and `server` are its subnets."""

    def __init__(self, number: int, version: int = 4) -> None:
        self.version = version
        if version == 4:
            self._addresses = f"10.{number}.0.1", f"11.{number}.0.1"
            self.client, self.server = f"10.{number}.0.0/24", f"11.{number}.0.0/24"
        else:
            self._addresses = f"2001:db8:{number + 1:x}::1", f"2001:db9:{number + 1:x}::1"
            self.client, self.server = f"2001:db8:{number + 1:x}::/48", f"2001:db9:{number + 1:x}::/48"
        self.ip = list(self._packets())

    def _packet(self, sender: int, layer: ScapyPacket) -> bytes:
        source, destination = self._addresses[sender], self._addresses[1 - sender]
        network = IP if self.version == 4 else IPv6
        return bytes(network(src=source, dst=destination) / layer)

    def _segment(
        self, sender: int, flags: str, seq: int, ack: int, times: tuple[int, int], payload: bytes = b""
    ) -> bytes:
        options: list[Any] = [("NOP", None), ("NOP", None), ("Timestamp", times)]
        ports = (40_000, 443) if sender == 0 else (443, 40_000)
        tcp = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, options=options)
        return self._packet(sender, tcp / payload)

    def _packets(self) -> list[tuple[int, bytes]]:
        """Yield (time since the beginning in ns, packet)."""
        ping, pong = (
            (ICMPv6EchoRequest, ICMPv6EchoReply) if self.version == 6 else (ICMP, lambda **its: ICMP(type=0, **its))
        )
        question = DNS(id=7, rd=1, qd=DNSQR(qname="example.org"))
        exchanges = [
            (0, self._segment(0, "S", 100, 0, (1, 0))),
            (HANDSHAKE_MS, self._segment(1, "SA", 500, 101, (50, 1))),
            (HANDSHAKE_MS + NEAR_MS, self._segment(0, "A", 101, 501, (2, 50))),
            (100, self._segment(0, "PA", 101, 501, (100, 50), b"request")),
            (100 + DATA_MS, self._segment(1, "PA", 501, 108, (80, 100), bytes(5000))),
            (100 + DATA_MS + NEAR_MS, self._segment(0, "A", 108, 5501, (132, 80))),
            (200, self._packet(0, UDP(sport=5353, dport=53) / question)),
            (200 + DNS_MS, self._packet(1, UDP(sport=53, dport=5353) / DNS(id=7, qr=1, qd=DNSQR(qname="example.org")))),
            (300, self._packet(0, ping(id=9, seq=1))),
            (300 + ECHO_MS, self._packet(1, pong(id=9, seq=1))),
        ]
        return [(round(at_ms * MS), ip) for at_ms, ip in exchanges]

    def packets(
        self, link: int, make: Callable[[bytes], bytes], snap_length: int = 65_535, begin_ns: int = BEGIN_NS
    ) -> list[Packet]:
        """Return the packets with the link headers that `make` adds. Each packet is captured up to `snap_length`
        bytes."""
        frames = [(begin_ns + at_ns, make(ip)) for at_ns, ip in self.ip]
        return [Packet(time_ns, frame[:snap_length], len(frame), link) for time_ns, frame in frames]


def rows_of(table: str) -> dict[tuple[str, str], list[str]]:
    """Parse a printed table. Return a dictionary from (subnet, method) to the other columns of the row.

    Each row has the number of RTTs and the RTT statistics. The first row of a subnet also has packets and bytes.
    """
    rows = {}
    subnet = ""
    for line in table.splitlines()[1:]:
        cells = line.split()
        if not cells:
            break
        if not line.startswith(" "):
            subnet, *cells = cells
        rows[subnet, cells[0]] = cells[1:]
    return rows


def check(table: str, conversation: Conversation, link_header: int = 14) -> None:
    """Check that the table has the RTTs of the conversation, and no other RTTs for the conversation's subnets."""
    rows = rows_of(table)
    for subnet, methods in ((conversation.server, SERVER), (conversation.client, CLIENT)):
        assert {method for name, method in rows if name == subnet} == set(methods)
        for method, rtt_ms in methods.items():
            assert rows[subnet, method][:6] == ["1", *[f"{rtt_ms:.3f}"] * 5], (subnet, method)
        traffic = next(cells[6:] for (name, _), cells in rows.items() if name == subnet)
        size = sum(len(ip) + link_header for _, ip in conversation.ip)
        assert traffic == [str(len(conversation.ip)), f"{size:,}"]
