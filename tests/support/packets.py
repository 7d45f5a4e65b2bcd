# SPDX-License-Identifier: Apache-2.0
"""Packets in every form that the program must read, and a conversation that shows whether the program can read a given
form.

Packets are built by scapy, or by hand from their RFCs. To test a form, a
conversation sends a segment and its reply in this form. The program counts an RTT only if it finds the TSval of the
segment and the TSecr of the reply. A form is a function that changes a plain segment of `Flow.frame()`.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from otel_epping.kernel.attach.interfaces import Interface
from otel_epping.lab.namespaces import Namespace
from tests.support.prog_test_run import EGRESS, INGRESS, MS, Bench, Flow

ETHERNET, IPV4, IPV6, TCP_TIMESTAMP = 14, 20, 40, 32
LEAST_FRAME = ETHERNET + 1  # The shortest frame that BPF_PROG_TEST_RUN accepts.
# If both addresses are set, scapy sends no ARP request.
MAC = "02:00:00:00:00:01"
ETHER = Ether(src=MAC, dst=MAC)
# IANA's protocol numbers of IPv6 extension headers. EXTENSIONS lists the extension headers that the program skips.
HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSIONS = (HOP_BY_HOP, ROUTING, AH, DESTINATION, MOBILITY)
NOP, EOL = b"\x01", b"\x00"
MSS, WINDOW_SCALE, SACK_PERMITTED = b"\x02\x04\x05\xb4", b"\x03\x03\x07", b"\x04\x02"

Transform = Callable[[bytes], bytes]


def fed(bench: Bench, frame: bytes | Packet, **how: int | str) -> tuple[str, int, int]:
    """Feed a received packet, check that it is counted once, and return its kind and the counted packets and bytes."""
    with bench.counting() as counted:
        assert bench.feed(frame, **how) is None  # type: ignore[arg-type]
    ((name, tally),) = [(name, tally) for name, tally in counted.changes.items() if isinstance(tally, tuple)]
    direction, kind = name.split()
    assert direction == ("transmitted" if how.get("entry") == EGRESS else "received")
    return kind, *tally


class Conversation:
    """A flow whose segments have a chosen form. `rtt(form)` sends data in that form and a reply in that form."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow.begun(0)
        self.tsval = 0
        self.now_ns = flow.start_ns

    def rtt(self, form: Transform, options: Callable[[int, int], bytes] | None = None, **how: int) -> int | None:
        """Return the RTT, or None if the program found none. An RTT must be 5 ms. `options` is a function from (TSval,
        TSecr) to TCP options."""
        self.tsval += 10
        self.now_ns += 10 * MS
        options = options or (lambda tsval, tsecr: 2 * NOP + timestamp(tsval, tsecr))
        bench = self.flow.bench
        data = form(self.segment(0, options(self.tsval, 0)))
        reply = form(self.segment(1, options(7, self.tsval)))
        assert bench.feed(data, self.now_ns, EGRESS, **how) is None
        rtt = bench.feed(reply, self.now_ns + 5 * MS, INGRESS, **how)
        assert rtt is None or rtt.ns == 5 * MS
        return None if rtt is None else rtt.ns

    def segment(self, sender: int, options: bytes) -> bytes:
        """Return a segment with 4 bytes of payload and these TCP options."""
        assert len(options) % 4 == 0
        frame = self.flow.frame(sender, "PA", None, 0, b"data")
        frame = set_byte(frame, len(frame) - 4 - 20 + 12, (20 + len(options)) // 4 << 4)
        return with_length(frame[:-4] + options + frame[-4:])


@contextmanager
def without_link_header(bench: Bench) -> Iterator[int]:
    """Enter a namespace, and yield the index of an interface whose packets start with the IP header."""
    with Namespace("no link header") as namespace:
        namespace.ip("link add plain index 5000 type veth peer name right", "link set plain up")
        bench.register(Interface("plain", 5000, 0))
        with namespace.entered():
            yield 5000


def plain(frame: bytes) -> bytes:
    return frame


def timestamp(tsval: int, tsecr: int) -> bytes:
    return struct.pack(">BBII", 8, 10, tsval, tsecr)


def set_byte(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes([value]) + frame[at + 1 :]


def with_length(frame: bytes) -> bytes:
    """Return the frame with the correct length field in its IP header."""
    if frame[12:14] == b"\x08\x00":
        return frame[:16] + struct.pack(">H", len(frame) - ETHERNET) + frame[18:]
    return frame[:18] + struct.pack(">H", len(frame) - ETHERNET - IPV6) + frame[20:]


def with_ip_options(size: int) -> Transform:
    def form(frame: bytes) -> bytes:
        frame = set_byte(frame, ETHERNET, 0x45 + size // 4)
        return with_length(frame[: ETHERNET + IPV4] + bytes([1]) * size + frame[ETHERNET + IPV4 :])

    return form


def with_extensions(*headers: tuple[int, int]) -> Transform:
    """Return a form that inserts extension headers after the IPv6 header. Each header is given as (protocol number,
    value of its length field)."""

    def form(frame: bytes) -> bytes:
        chain = b""
        protocols = [number for number, _ in headers] + [frame[20]]
        for (number, units), following in zip(headers, protocols[1:], strict=True):
            # For AH, the value of the length field is the number of 4-byte words minus 2 (RFC 4302 section 2.2). For
            # other headers, the value is the number of 8-byte units minus 1 (RFC 8200 section 4.2).
            size = (units + 2) * 4 if number == AH else (units + 1) * 8
            chain += bytes([following, units]) + bytes(size - 2)
        frame = set_byte(frame, 20, protocols[0])
        return with_length(frame[: ETHERNET + IPV6] + chain + frame[ETHERNET + IPV6 :])

    return form


def v4_kind(packet: Packet) -> Packet:
    return ETHER / IP(src="10.250.0.1", dst="10.250.1.1") / packet


def v6_kind(packet: Packet) -> Packet:
    return ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1") / packet


# The version numbers, and the type bits of an Initial packet (RFC 9000 section 17.2.2, RFC 9369 section 3.2).
QUIC_VERSIONS = {1: (0x00000001, 0x00), 2: (0x6B3343CF, 0x10)}


def quic(kind: int, version: int = 1) -> Packet:
    """Return a packet with a long header (RFC 9000 section 17.2). The types in version 1 are 0 Initial, 2 Handshake, 3
    Retry."""
    number, initial = QUIC_VERSIONS[version]
    types = ((kind << 4) + initial) & 0x30
    return Raw(struct.pack("!BI", 0xC0 | types, number) + bytes(1195))
