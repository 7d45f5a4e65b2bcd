# SPDX-License-Identifier: Apache-2.0
"""What the program makes of bytes: kinds, headers, the timestamp option wherever it stands, sizes on the wire.

Packets are built by scapy or by hand from their RFCs. That a timestamp was read right shows in an RTT: a segment of the
form under test is sent and answered, and both its TSval and its TSecr have to be found.
"""

import ctypes
import itertools
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet, Raw
from testrun import EGRESS, EXTERNAL, INGRESS, INTERNAL, KINDS, MS, Bench, Flow

from otel_epping.kernel import libbpf
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.interfaces import Interface
from otel_epping.lab.namespaces import Namespace

CONFIG = KernelConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0)
ETHERNET, IPV4, IPV6, TCP_TIMESTAMP = 14, 20, 40, 32
LEAST_FRAME = ETHERNET + 1  # a test run takes none shorter
# With both addresses given, scapy looks none up by ARP.
MAC = "02:00:00:00:00:01"
ETHER = Ether(src=MAC, dst=MAC)
# IANA protocol numbers of the extension headers that the program goes past, and of two more
HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSIONS = (HOP_BY_HOP, ROUTING, AH, DESTINATION, MOBILITY)
NOP, EOL = b"\x01", b"\x00"
MSS, WINDOW_SCALE, SACK_PERMITTED = b"\x02\x04\x05\xb4", b"\x03\x03\x07", b"\x04\x02"

Transform = Callable[[bytes], bytes]


@pytest.fixture
def bench(bench_of: Callable[[KernelConfig], Bench]) -> Bench:
    return bench_of(CONFIG)


def fed(bench: Bench, frame: bytes | Packet, **how: int | str) -> tuple[str, int, int]:
    """Kind, packets and bytes for which a packet that comes in is counted; it must be counted exactly once."""
    with bench.counting() as counted:
        assert bench.feed(frame, **how) is None  # type: ignore[arg-type]
    ((name, tally),) = [(name, tally) for name, tally in counted.changes.items() if isinstance(tally, tuple)]
    direction, kind = name.split()
    assert direction == ("transmitted" if how.get("entry") == EGRESS else "received")
    return kind, *tally


class Conversation:
    """A flow whose segments take a form of our choice: `rtt(form)` sends data of that form, and such a reply."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow.begun(0)
        self.tsval = 0
        self.now_ns = flow.start_ns

    def rtt(self, form: Transform, options: Callable[[int, int], bytes] | None = None, **how: int) -> int | None:
        """The RTT of 5 ms, or None. `options` makes TCP options of (TSval, TSecr)."""
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
        """A segment with 4 bytes of payload and TCP options given as bytes."""
        assert len(options) % 4 == 0
        frame = self.flow.frame(sender, "PA", None, 0, b"data")
        frame = set_byte(frame, len(frame) - 4 - 20 + 12, (20 + len(options)) // 4 << 4)
        return with_length(frame[:-4] + options + frame[-4:])


@contextmanager
def without_link_header(bench: Bench) -> Iterator[int]:
    """The index of an interface whose packets begin with the IP header, in a namespace that we are in meanwhile."""
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
    """The frame with the length field of its IP header made true."""
    if frame[12:14] == b"\x08\x00":
        return frame[:16] + struct.pack(">H", len(frame) - ETHERNET) + frame[18:]
    return frame[:18] + struct.pack(">H", len(frame) - ETHERNET - IPV6) + frame[20:]


def with_ip_options(size: int) -> Transform:
    def form(frame: bytes) -> bytes:
        frame = set_byte(frame, ETHERNET, 0x45 + size // 4)
        return with_length(frame[: ETHERNET + IPV4] + bytes([1]) * size + frame[ETHERNET + IPV4 :])

    return form


def with_extensions(*headers: tuple[int, int]) -> Transform:
    """Puts extension headers (protocol number, units of length beyond the least) behind the IPv6 header."""

    def form(frame: bytes) -> bytes:
        chain = b""
        protocols = [number for number, _ in headers] + [frame[20]]
        for (number, units), following in zip(headers, protocols[1:], strict=True):
            # RFC 4302 2.2: 4-byte words minus 2; RFC 8200 4.2: 8-byte units, the first one not counted
            size = (units + 2) * 4 if number == AH else (units + 1) * 8
            chain += bytes([following, units]) + bytes(size - 2)
        frame = set_byte(frame, 20, protocols[0])
        return with_length(frame[: ETHERNET + IPV6] + chain + frame[ETHERNET + IPV6 :])

    return form


# ---- network headers


@pytest.mark.parametrize("size", range(0, 41, 4))
def test_ipv4_options_are_gone_past(bench: Bench, size: int) -> None:
    conversation = Conversation(bench.flow())
    frame = with_ip_options(size)(conversation.segment(0, b""))
    assert IP(frame[ETHERNET:])[TCP].dport == 443
    assert conversation.rtt(with_ip_options(size)) == 5 * MS


def test_ipv6_extension_headers_are_gone_past_in_any_order(bench: Bench) -> None:
    conversation = Conversation(bench.flow(6))
    for length in range(4):
        for numbers in itertools.product(EXTENSIONS, repeat=length):
            form = with_extensions(*((number, place) for place, number in enumerate(numbers)))
            assert conversation.rtt(form) == 5 * MS, numbers


@pytest.mark.parametrize("number", [HOP_BY_HOP, ROUTING, DESTINATION])
def test_scapy_reads_our_extension_headers_as_the_program_does(number: int, bench: Bench) -> None:
    conversation = Conversation(bench.flow(6))
    form = with_extensions((number, 2), (DESTINATION, 1))
    segment = form(conversation.segment(0, 2 * NOP + timestamp(77, 88)))
    assert dict(IPv6(segment[ETHERNET:])[TCP].options[2:])["Timestamp"] == (77, 88)
    assert conversation.rtt(form) == 5 * MS


@pytest.mark.parametrize("count", range(1, 9))
def test_up_to_eight_extension_headers(bench: Bench, count: int) -> None:
    assert Conversation(bench.flow(6)).rtt(with_extensions(*[(DESTINATION, 0)] * count)) == 5 * MS


def test_nine_extension_headers_are_malformed(bench: Bench) -> None:
    conversation = Conversation(bench.flow(6))
    form = with_extensions(*[(DESTINATION, 0)] * 9)
    assert conversation.rtt(form) is None
    assert fed(bench, form(conversation.segment(0, b"")))[0] == "malformed"


def test_2048_bytes_of_extension_headers_and_not_more(bench: Bench) -> None:
    conversation = Conversation(bench.flow(6))
    assert conversation.rtt(with_extensions((DESTINATION, 255))) == 5 * MS
    assert conversation.rtt(with_extensions((DESTINATION, 254), (ROUTING, 0))) == 5 * MS
    longer = with_extensions((DESTINATION, 255), (ROUTING, 0))
    assert conversation.rtt(longer) is None
    assert fed(bench, longer(conversation.segment(0, b"")))[0] == "malformed"


def test_an_extension_header_longer_than_the_packet_is_malformed(bench: Bench) -> None:
    conversation = Conversation(bench.flow(6))
    segment = with_extensions((DESTINATION, 0))(conversation.segment(0, b""))
    at = ETHERNET + IPV6 + 1
    fits = (len(segment) - ETHERNET - IPV6) // 8 - 1
    assert fed(bench, set_byte(segment, at, 0))[0] == "tcp"
    assert fed(bench, set_byte(segment, at, fits + 1))[0] == "malformed"
    # By the packet's own idea of its length, though the frame goes on.
    segment = set_byte(segment, at, fits + 1)
    end = ETHERNET + IPV6 + (fits + 2) * 8
    beyond = segment + bytes(end - len(segment)) + conversation.segment(0, b"")[ETHERNET + IPV6 :]
    assert fed(bench, beyond)[0] == "malformed"
    assert fed(bench, with_length(beyond))[0] == "tcp"


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_are_counted_and_never_matched(bench: Bench, version: int) -> None:
    def v4(field: int) -> Transform:
        return lambda frame: frame[:20] + struct.pack(">H", field) + frame[22:]

    def v6(field: int) -> Transform:
        return lambda frame: with_extensions((FRAGMENT, 0))(frame).replace(
            b"\x06" + bytes(7), b"\x06\x00" + struct.pack(">H", field) + bytes(4), 1
        )

    # More fragments; the last one of 16 bytes' offset; both. Version 6 also has "atomic" fragments, neither.
    forms = [v4(0x2000), v4(2), v4(0x2002)] if version == 4 else [v6(1), v6(16), v6(17), v6(0)]
    conversation = Conversation(bench.flow(version))
    for form in forms:
        assert conversation.rtt(form) is None
        kind, packets, _ = fed(bench, form(conversation.segment(0, b"")))
        assert (kind, packets) == ("fragment", 1)
        assert conversation.rtt(v4(0x4000) if version == 4 else plain) == 5 * MS  # don't fragment
    if version == 6:
        assert conversation.rtt(with_extensions((DESTINATION, 0), (FRAGMENT, 0))) is None


def broken_headers() -> Iterator[tuple[str, int, Transform]]:
    """(what is broken, IP version, how); all offsets are from the frame's begin."""

    def setting(at: int, value: int) -> Transform:
        return lambda frame: set_byte(frame, at, value)

    yield "ihl 4", 4, setting(14, 0x44)
    yield "ihl 0", 4, setting(14, 0x40)
    yield "version 6 in an IPv4 frame", 4, setting(14, 0x65)
    yield "version 4 in an IPv6 frame", 6, setting(14, 0x40)
    yield "total length < IP header", 4, lambda frame: frame[:16] + struct.pack(">H", 19) + frame[18:]
    yield "total length = IP header", 4, lambda frame: frame[:16] + struct.pack(">H", 20) + frame[18:]
    yield "total length < TCP header", 4, lambda frame: frame[:16] + struct.pack(">H", 20 + 31) + frame[18:]
    yield "total length > packet", 4, lambda frame: frame[:16] + struct.pack(">H", len(frame) - 13) + frame[18:]
    yield "payload length < TCP header", 6, lambda frame: frame[:18] + struct.pack(">H", 31) + frame[20:]
    yield "payload length > packet", 6, lambda frame: frame[:18] + struct.pack(">H", len(frame) - 53) + frame[20:]
    for version, at in ((4, 46), (6, 66)):
        yield "doff 4", version, setting(at, 0x40)
        yield "doff 0", version, setting(at, 0x00)
        yield "doff beyond the packet", version, setting(at, 0xF0)


@pytest.mark.parametrize(("what", "version", "form"), list(broken_headers()))
def test_broken_headers_are_malformed(bench: Bench, what: str, version: int, form: Transform) -> None:
    conversation = Conversation(bench.flow(version))
    whole = conversation.segment(0, 2 * NOP + timestamp(1, 0))
    assert form(whole) != whole
    with bench.counting() as counted:
        bench.feed(form(whole))
    assert counted.changes == {"received malformed": (1, len(whole))}
    assert conversation.rtt(form) is None, what
    assert conversation.rtt(plain) == 5 * MS


FORMS = [(4, plain), (4, with_ip_options(12)), (6, plain), (6, with_extensions((HOP_BY_HOP, 1), (AH, 4)))]


def kinds_when_cut(bench: Bench, frame: bytes, least: int, wire_len: int = 0, ifindex: int = 1) -> list[str]:
    """The kind of the frame's first bytes, for every number of them; each must be counted exactly once."""
    row = bench.row if ifindex == 1 else bench.row_of(ifindex)
    kinds = []
    for size in range(least, len(frame) + 1):
        with bench.counting(row) as counted:
            assert bench.feed(frame[:size], ifindex=ifindex, wire_len=wire_len) is None
        ((kind, tally),) = [(name, tally) for name, tally in counted.changes.items() if isinstance(tally, tuple)]
        assert tally == (1, wire_len or size)
        kinds.append(kind.removeprefix("received "))
    return kinds


@pytest.mark.parametrize(("version", "form"), FORMS)
def test_a_packet_cut_off_anywhere_is_malformed(bench: Bench, version: int, form: Transform) -> None:
    """What the IP header promises is not there. Behind an Ethernet header, a test run takes no part of an IP header;
    without one it does, from the 15th byte on."""
    segment = form(Conversation(bench.flow(version)).segment(0, 2 * NOP + timestamp(1, 0)))
    least = ETHERNET + (IPV4 if version == 4 else IPV6)
    assert kinds_when_cut(bench, segment, least) == ["malformed"] * (len(segment) - least) + ["tcp"]
    with without_link_header(bench) as ifindex:
        segment = segment[ETHERNET:]
        kinds = kinds_when_cut(bench, segment, LEAST_FRAME, ifindex=ifindex)
        assert kinds == ["malformed"] * (len(segment) - LEAST_FRAME) + ["tcp"]


@pytest.mark.parametrize(("version", "form"), FORMS)
def test_a_packet_cut_off_by_its_capture_needs_its_headers_only(bench: Bench, version: int, form: Transform) -> None:
    conversation = Conversation(bench.flow(version))
    segment = form(conversation.segment(0, 2 * NOP + timestamp(1, 0)))
    headers, least = len(segment) - 4, ETHERNET + (IPV4 if version == 4 else IPV6)
    kinds = kinds_when_cut(bench, segment, least, wire_len=len(segment))
    assert kinds == ["malformed"] * (headers - least) + ["tcp"] * 5
    assert conversation.rtt(lambda frame: form(frame)[:headers], wire_len=len(segment)) == 5 * MS
    assert conversation.rtt(lambda frame: form(frame)[: headers - 1], wire_len=len(segment)) is None
    with without_link_header(bench) as ifindex:
        kinds = kinds_when_cut(bench, segment[ETHERNET:], LEAST_FRAME, wire_len=len(segment), ifindex=ifindex)
        assert kinds == ["malformed"] * (headers - ETHERNET - LEAST_FRAME) + ["tcp"] * 5


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("padding", [1, 6, 46])
def test_padding_does_not_make_data_of_a_pure_ack(bench: Bench, version: int, padding: int) -> None:
    flow = bench.flow(version).begun(1000)
    ack, data = flow.frame(0, "A", 1001, 0, b""), flow.frame(0, "PA", 1020, 0, b"x")
    bench.feed(ack + bytes(padding), flow.start_ns + 1 * MS, EGRESS)
    assert flow.server(11 * MS, 5, tsecr=1001) is None
    bench.feed(data + bytes(padding), flow.start_ns + 20 * MS, EGRESS)
    assert flow.server(21 * MS, 5, tsecr=1020) == 1 * MS


# ---- the timestamp option


def padded(options: bytes, fill: bytes = EOL) -> bytes:
    return options + fill * (-len(options) % 4)


@pytest.mark.parametrize("version", [4, 6])
def test_the_timestamp_is_found_at_every_place(bench: Bench, version: int) -> None:
    conversation = Conversation(bench.flow(version))
    for nops in range(31):
        assert conversation.rtt(plain, lambda *values: padded(nops * NOP + timestamp(*values))) == 5 * MS, nops  # noqa: B023


@pytest.mark.parametrize("length", range(2, 31))
def test_the_timestamp_is_found_behind_an_option_of_every_length(bench: Bench, length: int) -> None:
    conversation = Conversation(bench.flow())
    for kind in (2, 3, 4, 5, 9, 19, 30, 34, 253, 255):
        option = bytes([kind, length]) + b"\x08" * (length - 2)  # its bytes look like a timestamp's beginning
        assert conversation.rtt(plain, lambda *values: padded(option + timestamp(*values))) == 5 * MS, kind  # noqa: B023


def test_the_timestamp_is_found_among_the_options_of_real_stacks(bench: Bench) -> None:
    sack = b"\x05\x0a" + bytes(range(8))
    conversation = Conversation(bench.flow())
    forms: list[Callable[[int, int], bytes]] = [
        lambda *values: MSS + SACK_PERMITTED + timestamp(*values) + NOP + WINDOW_SCALE,
        lambda *values: MSS + NOP + WINDOW_SCALE + 2 * NOP + timestamp(*values) + SACK_PERMITTED + 2 * EOL,
        lambda *values: 2 * NOP + timestamp(*values) + 2 * NOP + sack,
        lambda *values: 2 * NOP + sack + 2 * NOP + timestamp(*values),
        lambda *values: timestamp(*values) + 2 * EOL,
    ]
    for form in forms:
        options = form(77, 88)
        header = TCP(bytes(TCP(dataofs=5 + len(options) // 4) / Raw(options)))
        assert dict(header.options)["Timestamp"] == (77, 88)
        assert conversation.rtt(plain, form) == 5 * MS


BROKEN = {
    "length 0": b"\x02\x00",
    "length 1": b"\x02\x01",
    "end of options": EOL,
    "beyond the end": b"\x02\x29",
    "far beyond the end": b"\x02\xff",
    "a short timestamp": b"\x08\x09",
    "a long timestamp": b"\x08\x0b",
    "a timestamp of length 0": b"\x08\x00",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("nops", [0, 1, 2, 20])
def test_a_broken_option_list_has_no_timestamp(bench: Bench, what: str, nops: int) -> None:
    conversation = Conversation(bench.flow())
    broken = conversation.segment(0, padded(nops * NOP + BROKEN[what] + timestamp(1, 0)))
    assert fed(bench, broken) == ("tcp", 1, len(broken))
    assert conversation.rtt(plain, lambda *values: padded(nops * NOP + BROKEN[what] + timestamp(*values))) is None
    assert conversation.rtt(plain, lambda *values: padded(nops * NOP + timestamp(*values))) == 5 * MS


def test_a_timestamp_that_does_not_fit_is_none(bench: Bench) -> None:
    """Cut off by the data offset: its bytes are there, as payload."""
    conversation = Conversation(bench.flow())

    def cut(frame: bytes) -> bytes:
        return set_byte(frame, 46, frame[46] - 0x10)

    for nops in range(31):
        options = padded(nops * NOP + timestamp(1, 0), NOP)
        fits = nops + 10 <= len(options) - 4
        found = conversation.rtt(cut, lambda *values: padded(nops * NOP + timestamp(*values), NOP))  # noqa: B023
        assert (found is not None) == fits


ENDS = (EOL, b"\x02\x00", b"\x02\x01")


def test_random_option_lists(bench: Bench) -> None:
    """Whoever made the list knows whether there is a timestamp in it: the first, unless the list ends before it."""
    conversation = Conversation(bench.flow())
    chance = random.Random(6)
    found = 0
    for _ in range(2000):
        pieces: list[bytes | None] = []  # None stands for the timestamp
        size = 0
        while True:
            length = chance.randrange(2, 20)
            unknown = bytes([chance.choice((5, 9, 253)), length]) + chance.randbytes(length - 2)
            piece = chance.choice(
                [NOP, NOP, MSS, WINDOW_SCALE, SACK_PERMITTED, None, None, unknown, chance.choice(ENDS)]
            )
            if size + len(piece or timestamp(0, 0)) > 40:
                break
            size += len(piece or timestamp(0, 0))
            pieces.append(piece)
        before = next((place for place, piece in enumerate(pieces) if piece is None), None)
        ends = before is None or any(piece in ENDS for piece in pieces[:before])

        def options(*values: int) -> bytes:
            return padded(b"".join(timestamp(*values) if piece is None else piece for piece in pieces))  # noqa: B023

        assert conversation.rtt(plain, options) == (None if ends else 5 * MS), options(0, 0).hex()
        found += not ends
    assert 500 < found < 1900


# ---- interfaces, kinds, sizes


def test_an_interface_without_link_header(bench: Bench) -> None:
    def form(frame: bytes) -> bytes:
        return frame[ETHERNET:]

    with without_link_header(bench) as ifindex:
        row = bench.row_of(ifindex)
        for version in (4, 6):
            conversation = Conversation(bench.flow(version))  # joined on the loopback interface
            assert conversation.rtt(form, ifindex=ifindex) is None
            assert conversation.rtt(form, ifindex=ifindex) == 5 * MS
            segment = form(conversation.segment(0, b""))
            header = len(segment) - 4
            with bench.counting(row) as counted:
                bench.feed(segment, ifindex=ifindex)
                bench.feed(segment, ifindex=ifindex, segments=3)
            assert counted["received tcp"] == (4, 2 * len(segment) + 2 * header)
        for first in range(0, 256, 16):
            with bench.counting(row) as counted:
                bench.feed(bytes([first]) + bytes(40), ifindex=ifindex)
            kind = "malformed" if first in (0x40, 0x60) else "non_ip"
            assert counted.changes == {f"received {kind}": (1, 41)}


def v4_kind(packet: Packet) -> Packet:
    return ETHER / IP(src="10.250.0.1", dst="10.250.1.1") / packet


def v6_kind(packet: Packet) -> Packet:
    return ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1") / packet


SUBNETS = {4: ("10.250.0.0/24", "10.250.1.0/24"), 6: ("2001:dba::/48", "2001:dbb::/48")}
KIND_FRAMES = [
    ("tcp", "tcp_other", v4_kind(TCP(flags="S"))),
    ("tcp", "tcp_other", v6_kind(TCP(flags="A"))),
    ("tcp", "tcp_timestamp", v4_kind(TCP(flags="S", options=[("Timestamp", (1, 0)), ("NOP", None), ("NOP", None)]))),
    ("tcp", "tcp_timestamp", v6_kind(TCP(flags="A", options=[("Timestamp", (1, 0)), ("NOP", None), ("NOP", None)]))),
    ("udp", "udp", v4_kind(UDP() / Raw(b"x"))),
    ("udp", "udp", v6_kind(UDP() / Raw(b"x"))),
    ("icmp", "icmp", v4_kind(ICMP())),
    ("icmp", "icmp", v6_kind(ICMPv6EchoRequest())),
    ("other", "other", v4_kind(GRE())),
    ("other", "other", ETHER / IP(src="10.250.0.1", dst="10.250.1.1", proto=132) / Raw(bytes(20))),
    ("other", "other", ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", nh=50) / Raw(bytes(20))),
    ("other", "other", ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", nh=59)),
    ("fragment", "other", ETHER / IP(src="10.250.0.1", dst="10.250.1.1", flags="MF") / UDP()),
    ("non_ip", None, ETHER / ARP()),
    ("non_ip", None, Ether(src=MAC, dst=MAC, type=0x88CC) / Raw(bytes(30))),
    ("non_ip", None, ETHER / Dot1Q(vlan=5) / IP() / TCP()),
    ("malformed", None, Ether(src=MAC, dst=MAC, type=0x0800) / Raw(bytes(30))),
]


@pytest.mark.parametrize("entry", [INGRESS, EGRESS])
@pytest.mark.parametrize(("kind", "traffic_class", "frame"), KIND_FRAMES)
def test_kinds_are_counted_for_interface_and_subnets(
    bench: Bench, entry: str, kind: str, traffic_class: str | None, frame: Packet
) -> None:
    version = 6 if IPv6 in frame else 4
    subnets = [ip_network(name) for name in SUBNETS[version]]
    sides = (EXTERNAL, INTERNAL) if entry == INGRESS else (INTERNAL, EXTERNAL)

    def counted() -> list[dict[str, tuple[int, int]]]:
        slots = [bench.slot_of(subnet, side) for subnet, side in zip(subnets, sides, strict=True)]
        return [bench.traffic_of(slot) if slot else {} for slot in slots]

    size = len(bytes(frame))
    before = counted()
    assert fed(bench, frame, entry=entry) == (kind, 1, size)
    for direction, was, now in zip(("from", "to"), before, counted(), strict=True):
        changed = {name: tally for name, tally in now.items() if tally != was.get(name)}
        if traffic_class is None:
            assert changed == {}
        else:
            name = f"{direction} {traffic_class}"
            packets, length = was.get(name, (0, 0))
            assert changed == {name: (packets + 1, length + size)}


@pytest.mark.parametrize("codepoint", range(4))
def test_ecn_code_points(bench: Bench, codepoint: int) -> None:
    v4 = ETHER / IP(src="10.250.0.1", dst="10.250.1.1", tos=0xFC | codepoint) / UDP()
    v6 = ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", tc=0xFC | codepoint, fl=0xFFFFF) / UDP()
    plain_v6 = ETHER / IPv6(src="2001:dba::1", dst="2001:dbb::1", tc=codepoint) / UDP()
    with bench.counting() as counted:
        bench.feed(v4)
        bench.feed(v6, entry=EGRESS)
        bench.feed(plain_v6, segments=5)
    assert {name for name in counted.changes if name.startswith("ecn")} == {f"ecn {codepoint}"}
    assert counted[f"ecn {codepoint}"] == 7


@pytest.mark.parametrize("entry", [INGRESS, EGRESS])
def test_what_a_capture_left_off_is_counted(bench: Bench, entry: str) -> None:
    frame = bytes(v4_kind(UDP(len=1480) / Raw(bytes(1472))))
    assert fed(bench, frame, entry=entry) == ("udp", 1, 1514)
    assert fed(bench, frame[:96], entry=entry, wire_len=1514) == ("udp", 1, 1514)


AGGREGATES = [
    (4, TCP(options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 0))]), IPV4 + TCP_TIMESTAMP, "tcp"),
    (6, TCP(options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 0))]), IPV6 + TCP_TIMESTAMP, "tcp"),
    (4, TCP(), IPV4 + 20, "tcp"),
    (4, UDP(), IPV4 + 8, "udp"),
    (6, UDP(), IPV6 + 8, "udp"),
]


@pytest.mark.parametrize(("version", "transport", "headers", "kind"), AGGREGATES)
def test_an_aggregate_counts_as_its_segments_with_their_headers(
    bench: Bench, version: int, transport: Packet, headers: int, kind: str
) -> None:
    """As qdisc_pkt_len_init() of the kernel has it: link, network and transport header of each segment."""
    payload = bytes(3 * 1000)
    frame = bytes((v4_kind if version == 4 else v6_kind)(transport / Raw(payload)))
    on_the_wire = 3 * (ETHERNET + headers + 1000)
    assert fed(bench, frame, segments=1) == (kind, 1, len(frame))
    # What comes in was put together by GRO: the headers of all but one are gone.
    assert fed(bench, frame, segments=3) == (kind, 3, on_the_wire)
    # What goes out has them counted in wire_len already.
    assert fed(bench, frame, entry=EGRESS, segments=3, wire_len=on_the_wire) == (kind, 3, on_the_wire)


@pytest.mark.parametrize("version", [4, 6])
def test_an_aggregate_too_long_for_the_length_field(bench: Bench, version: int) -> None:
    """Length 0: BIG TCP (kernel's iph_totlen(), RFC 2675)."""
    conversation = Conversation(bench.flow(version))
    at = 16 if version == 4 else 18

    def big(frame: bytes) -> bytes:
        return frame[:at] + bytes(2) + frame[at + 2 :]

    assert conversation.rtt(big) == 5 * MS
    assert conversation.rtt(big, wire_len=65_536) == 5 * MS


def test_whatever_comes_is_counted_once(bench: Bench) -> None:
    """Header bytes changed at random: one kind, all bytes, and a subnet's traffic exactly if there are addresses."""
    chance = random.Random(9)
    forms = [(4, plain), (4, with_ip_options(8)), (6, plain), (6, with_extensions((HOP_BY_HOP, 1), (FRAGMENT, 0)))]
    seen = set()

    def packets() -> tuple[int, int]:
        return int(bench.traffic["from"]["packets"].sum()), int(bench.traffic["to"]["packets"].sum())

    for _ in range(3000):
        version, form = chance.choice(forms)
        flow = Flow(bench, 1, *(("10.251.0.1", "10.251.1.1") if version == 4 else ("2001:dbc::1", "2001:dbd::1")))
        frame = bytearray(form(flow.frame(0, "PA", 1, 0, b"data")))
        for _ in range(chance.randrange(1, 4)):
            frame[chance.randrange(12, len(frame))] = chance.choice((0, 1, 4, 6, 17, 0x40, 0x45, 0x60, 0xFF))
        before = packets()
        kind, count, size = fed(bench, bytes(frame))
        assert (count, size) == (1, len(frame))
        more = 0 if kind in ("non_ip", "malformed") else 1
        assert packets() == (before[0] + more, before[1] + more)
        seen.add(kind)
    assert seen == set(KINDS)


# ---- from addresses to slots

V4_LENGTHS = (0, 1, 8, 15, 16, 17, 24, 31, 32)
V6_LENGTHS = (0, 1, 32, 48, 56, 63, 64, 65, 96, 127, 128)
# One version 4 length with one version 6 length, as each pair costs a compilation.
LENGTHS = list(itertools.zip_longest(V4_LENGTHS, V6_LENGTHS, fillvalue=24))


@pytest.mark.parametrize(("v4_length", "v6_length"), LENGTHS)
def test_a_slot_has_the_subnet_of_the_address(v4_length: int, v6_length: int) -> None:
    chance = random.Random(v6_length)
    bench = Bench(
        KernelConfig(packet_clock=True, prefix_v4=v4_length, prefix_v6=v6_length, max_subnets=256, max_flows=64)
    )
    expected: dict[tuple[str, int], int] = {}
    for _ in range(25):
        base = chance.randbytes(16)
        # The same address twice, and neighbours: the last bit of the prefix, and the first behind it, flipped.
        for bits in ((), (v4_length, v6_length), (v4_length - 1, v6_length - 1)):
            for version, width, length in ((4, 32, v4_length), (6, 128, v6_length)):
                number = int.from_bytes(base[: width // 8], "big")
                bit = bits[version == 6] if bits else -1
                if 0 <= bit < width:
                    number ^= 1 << (width - 1 - bit)
                address = ip_address(number) if version == 4 else IPv6Address(number)
                here = "192.0.2.1" if version == 4 else "2001:db8::1"
                layer = IP if version == 4 else IPv6
                bench.feed(ETHER / layer(src=str(address), dst=here) / UDP())
                for end, side in ((str(address), EXTERNAL), (here, INTERNAL)):
                    key = str(ip_network(f"{end}/{length}", strict=False)), side
                    expected[key] = expected.get(key, 0) + 1
    found: dict[tuple[str, int], int] = {}
    for slot in range(1, 257):
        if bench.slots["live"][slot]:
            subnet, side, row = bench.describe(slot)
            assert row == bench.row
            assert bench.slot_of(subnet, side) == slot
            found[str(subnet), side] = sum(packets for packets, _ in bench.traffic_of(slot).values())
    assert found == expected
    bench.close()


def test_a_mapped_address_on_the_wire_is_not_version_4() -> None:
    bench = Bench(KernelConfig(packet_clock=True, prefix_v4=32, prefix_v6=128, max_subnets=64, sample_interval_ns=0))
    v4 = bench.flow(client="10.1.2.3", server="10.4.5.6").begun(1000)
    v6 = bench.flow(6, client="::ffff:10.1.2.3", server="::ffff:10.4.5.6")
    v4.client(1 * MS, 1001)
    with bench.counting() as counted:
        assert v6.server(2 * MS, 5, tsecr=1001) is None
    assert counted["flows_created"] == 1
    assert v4.server(3 * MS, 5, tsecr=1001) == 2 * MS
    slots = [bench.slot_of(ip_network(server), EXTERNAL) for server in ("10.4.5.6/32", "::ffff:10.4.5.6/128")]
    assert None not in slots
    assert slots[0] != slots[1]
    bench.close()


def test_a_known_flow_does_not_count_into_a_slot_that_was_given_away() -> None:
    bench = Bench(KernelConfig(packet_clock=True, max_subnets=64, sample_interval_ns=0))
    maps = bench.collector.program.maps
    flow = bench.flow().begun(1000)
    subnet = ip_network(f"{flow.addresses[1]}/24", strict=False)
    flow.client(1 * MS, 1001)
    assert flow.server(2 * MS, 5000, tsecr=1001) == 1 * MS
    slot = bench.slot_of(subnet, EXTERNAL)
    assert slot
    was = bench.traffic_of(slot)

    # User space takes the slot back and gives it to another subnet ...
    key = bench.slots["key"][slot].tobytes()
    other = bytearray(key)
    other[14] ^= 1
    assert libbpf.map_lookup(maps["subnets"].fd, key, 4) == slot.to_bytes(4, "little")
    delete(maps["subnets"].fd, key)
    libbpf.map_update(maps["subnets"].fd, bytes(other), slot.to_bytes(4, "little"))
    assert bench.slot_of(subnet, EXTERNAL) is None
    # ... which a flow that has it cached does not notice,
    flow.server(3 * MS, 5001, tsecr=1001)
    assert bench.traffic_of(slot)["from tcp_timestamp"][0] == was["from tcp_timestamp"][0] + 1
    was = bench.traffic_of(slot)
    # until the epoch is raised.
    epoch, interval = struct.unpack("=II", libbpf.map_lookup(maps["control"].fd, bytes(4), 8) or b"")
    libbpf.map_update(maps["control"].fd, bytes(4), struct.pack("=II", epoch + 1, interval))
    flow.client(4 * MS, 1004)
    frame = flow.frame(1, "PA", 5002, 1004, b"data")
    rtt = bench.feed(frame, flow.start_ns + 6 * MS)
    assert rtt == (2 * MS, subnet, EXTERNAL, bench.row)
    assert bench.traffic_of(slot) == was
    new = bench.slot_of(subnet, EXTERNAL)
    assert new not in (None, slot)
    assert bench.traffic_of(new or 0)["from tcp_timestamp"] == (1, len(frame))
    bench.close()


def delete(map_fd: int, key: bytes) -> None:
    assert ctypes.CDLL("libbpf.so.1").bpf_map_delete_elem(map_fd, key) == 0
