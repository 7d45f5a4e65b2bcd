# SPDX-License-Identifier: Apache-2.0
"""Creates arrays of thousands of packets. The packets belong to flows from one client to servers in many subnets.

Each row of an array is a packet with an Ethernet header, an IP header, and a TCP, UDP or ICMP header. Checksums are 0,
because no measured program checks them.
"""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Indexes

Bytes = npt.NDArray[np.uint8]

DATA, ACK = "TCP data", "TCP ACK"
DATA_NO_TS, ACK_NO_TS = "TCP data, no timestamps", "TCP ACK, no timestamps"
UDP, ECHO = "UDP", "ICMP"
PAYLOAD = 100

# The position of the addresses and ports in an IPv4 frame. The addresses and ports identify a flow.
FLOW_BYTES = slice(26, 38)

_ETHERNET = 14
_PROTOCOLS = {4: {DATA: 6, ACK: 6, DATA_NO_TS: 6, ACK_NO_TS: 6, UDP: 17, ECHO: 1}}
_PROTOCOLS[6] = _PROTOCOLS[4] | {ECHO: 58}
_CLIENT = {4: bytes((10, 0, 0, 1)), 6: bytes.fromhex("20010db80001") + bytes(9) + b"\x01"}
# The address of the server in the first of 2^20 consecutive subnets: a /24 for IPv4, and a /48 for IPv6.
_SERVERS = {4: bytes((16, 0, 0, 1)), 6: bytes.fromhex("200110000000") + bytes(9) + b"\x01"}
_SERVER_PORT = {DATA: 443, ACK: 443, DATA_NO_TS: 443, ACK_NO_TS: 443, UDP: 443}
_FIRST_PORT, _PORTS, _HOSTS = 0x4000, 0x8000, 250


def _transport(form: str) -> bytes:
    """Returns the bytes after the IP header.

    Fields whose value depends on the flow or the packet have default values.
    """
    if form == UDP:  # the payload starts with a QUIC short header (RFC 9000 section 17.3)
        return struct.pack("!HHHH", 0, 0, 8 + PAYLOAD, 0) + b"\x40".ljust(PAYLOAD, b"\0")
    if form == ECHO:
        return struct.pack("!BBHHH", 0, 0, 0, 0, 0) + bytes(56)
    # The TSecr is not 0, because 0 means that the packet echoes no TSval: see note_missing_echo() in
    # bpf/tcp_method_choice.h.
    options = bytes.fromhex("0101080a") + struct.pack("!II", 1000, 1000) if form in (DATA, ACK) else b""
    data = form in (DATA, DATA_NO_TS)
    flags = 0x18 if data else 0x10
    head = struct.pack("!HHIIBBHHH", 0, 0, 1, 1, (20 + len(options)) << 2, flags, 500, 0, 0)
    return head + options + bytes(PAYLOAD if data else 0)


def _frame(form: str, family: int, source: bytes, destination: bytes) -> bytes:
    transport, protocol = _transport(form), _PROTOCOLS[family][form]
    if family == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0)
        return bytes(12) + b"\x08\x00" + head + source + destination + transport
    head = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64)
    return bytes(12) + b"\x86\xdd" + head + source + destination + transport


@dataclass(frozen=True)
class Fields:
    """Offsets of headers and header fields in a frame."""

    network: int
    transport: int

    @staticmethod
    def of(family: int) -> "Fields":
        """Returns the offsets for an IP version."""
        return Fields(_ETHERNET, _ETHERNET + (20 if family == 4 else 40))

    sequence = property(lambda self: self.transport + 4)
    acknowledgement = property(lambda self: self.transport + 8)
    tsval = property(lambda self: self.transport + 24)
    tsecr = property(lambda self: self.transport + 28)


def put(rows: Bytes, offset: int, values: Indexes | int, size: int = 4) -> None:
    """Writes a number into each row at `offset`, in network byte order."""
    wide = np.broadcast_to(np.asarray(values, ">u8"), len(rows)).copy().view(np.uint8).reshape(-1, 8)
    rows[:, offset : offset + size] = wide[:, 8 - size :]


def server_addresses(flows: Indexes, subnets: int) -> Indexes:
    """Returns the IPv4 address of each flow's server, as a number. `flows` are flow numbers."""
    first = int.from_bytes(_SERVERS[4], "big") & ~0xFF
    return first + (flows % subnets << 8) + 1 + flows // subnets % _HOSTS


def rows_of(form: str, flows: Indexes, subnets: int, egress: bool, family: int = 4) -> Bytes:
    """Returns a packet for each flow number in `flows`. If `egress` is true, the client sends the packets. Otherwise
    the servers send the packets.

    The servers are in `subnets` subnets. The flow number determines the subnet of the server.
    """
    source, destination = (_CLIENT, _SERVERS) if egress else (_SERVERS, _CLIENT)
    frame = _frame(form, family, source[family], destination[family])
    rows = np.tile(np.frombuffer(frame, np.uint8), (len(flows), 1))
    fields = Fields.of(family)
    bytes_of_address = 4 if family == 4 else 16
    server = fields.transport - bytes_of_address * (1 if egress else 2)
    subnet, nth = flows % subnets, flows // subnets
    if family == 4:
        put(rows, server, server_addresses(flows, subnets))
    else:
        put(rows, server + 2, int.from_bytes(_SERVERS[6][2:6], "big") + subnet)
        put(rows, server + 15, 1 + nth % _HOSTS, 1)
    port = _FIRST_PORT + nth % _PORTS
    if form == ECHO:
        put(rows, fields.transport + 4, port, 2)
        return rows
    put(rows, fields.transport + (0 if egress else 2), port, 2)
    put(rows, fields.transport + (2 if egress else 0), _SERVER_PORT[form], 2)
    return rows


@dataclass(frozen=True)
class Packets:
    """Packets in the order in which they are sent.

    `rows` contains the frames, and `sizes` contains the lengths of the frames. `egress` is true for packets that leave
    the host.
    """

    rows: Bytes
    sizes: npt.NDArray[np.uint32]
    egress: npt.NDArray[np.bool_]

    @staticmethod
    def one_way(rows: Bytes, egress: bool) -> "Packets":
        """Returns packets that all have the same length and direction."""
        count, size = rows.shape
        return Packets(rows, np.full(count, size, np.uint32), np.full(count, egress))
