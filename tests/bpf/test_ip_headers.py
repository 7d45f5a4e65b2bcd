# SPDX-License-Identifier: Apache-2.0
"""Tests that the program finds the TCP header after IP options, extension headers and link headers. Also tests that the
program finds the end of the TCP payload."""

import itertools

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from tests.support.packets import (
    DESTINATION,
    ETHERNET,
    EXTENSIONS,
    HOP_BY_HOP,
    IPV6,
    NOP,
    ROUTING,
    Conversation,
    fed,
    set_byte,
    timestamp,
    with_extensions,
    with_ip_options,
    with_length,
    without_link_header,
)
from tests.support.prog_test_run import EGRESS, MS, Bench

pytestmark = pytest.mark.parallel


@pytest.mark.parametrize("size", range(0, 41, 4))
def test_ipv4_options_are_skipped(bench: Bench, size: int) -> None:
    conversation = Conversation(bench.flow())
    frame = with_ip_options(size)(conversation.segment(0, b""))
    assert IP(frame[ETHERNET:])[TCP].dport == 443
    assert conversation.rtt(with_ip_options(size)) == 5 * MS


def test_ipv6_extension_headers_are_skipped_in_any_order(bench: Bench) -> None:
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


def test_at_most_2048_bytes_of_extension_headers(bench: Bench) -> None:
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
    # According to the IPv6 length field, the packet ends before the end of the extension header. But the frame has
    # enough bytes for the extension header.
    segment = set_byte(segment, at, fits + 1)
    end = ETHERNET + IPV6 + (fits + 2) * 8
    beyond = segment + bytes(end - len(segment)) + conversation.segment(0, b"")[ETHERNET + IPV6 :]
    assert fed(bench, beyond)[0] == "malformed"
    assert fed(bench, with_length(beyond))[0] == "tcp"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("padding", [1, 6, 46])
def test_a_padded_pure_ack_counts_as_a_pure_ack(bench: Bench, version: int, padding: int) -> None:
    flow = bench.flow(version).begun(1000)
    ack, data = flow.frame(0, "A", 1001, 0, b""), flow.frame(0, "PA", 1020, 0, b"x")
    bench.feed(ack + bytes(padding), flow.start_ns + 1 * MS, EGRESS)
    assert flow.server(11 * MS, 5, tsecr=1001) is None
    bench.feed(data + bytes(padding), flow.start_ns + 20 * MS, EGRESS)
    assert flow.server(21 * MS, 5, tsecr=1020) == 1 * MS


def test_an_interface_without_link_header(bench: Bench) -> None:
    def form(frame: bytes) -> bytes:
        return frame[ETHERNET:]

    with without_link_header(bench) as ifindex:
        row = bench.row_of(ifindex)
        for version in (4, 6):
            conversation = Conversation(bench.flow(version))  # Bench.flow() starts the flow on the loopback interface
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
