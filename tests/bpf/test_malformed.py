# SPDX-License-Identifier: Apache-2.0
"""Tests packets that are broken, truncated or random. Each packet must be counted once, with the right kind, and must
give no RTT."""

import ctypes
import random
import struct
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.replay.replayer import MALFORMED_MARK, ProgTestRuns
from tests.support.packets import (
    AH,
    ETHERNET,
    FRAGMENT,
    HOP_BY_HOP,
    IPV4,
    IPV6,
    LEAST_FRAME,
    NOP,
    Conversation,
    Transform,
    fed,
    plain,
    set_byte,
    timestamp,
    with_extensions,
    with_ip_options,
    without_link_header,
)
from tests.support.prog_test_run import KINDS, MS, Bench, Flow

pytestmark = pytest.mark.parallel


def broken_headers() -> Iterator[tuple[str, int, Transform]]:
    """Yields a description, the IP version, and a function that breaks the header. All offsets are relative to the
    start of the frame."""

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
    """Truncates the frame to each length from `least` up, and returns the kinds of the truncated frames. Checks that
    each truncated frame is counted exactly once."""
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
def test_a_truncated_packet_is_malformed(bench: Bench, version: int, form: Transform) -> None:
    """The packet is shorter than the IP header says.

    After an Ethernet header, BPF_PROG_TEST_RUN requires a complete IP header. Without an Ethernet header,
    BPF_PROG_TEST_RUN accepts every frame of at least 15 bytes.
    """
    segment = form(Conversation(bench.flow(version)).segment(0, 2 * NOP + timestamp(1, 0)))
    least = ETHERNET + (IPV4 if version == 4 else IPV6)
    assert kinds_when_cut(bench, segment, least) == ["malformed"] * (len(segment) - least) + ["tcp"]
    with without_link_header(bench) as ifindex:
        segment = segment[ETHERNET:]
        kinds = kinds_when_cut(bench, segment, LEAST_FRAME, ifindex=ifindex)
        assert kinds == ["malformed"] * (len(segment) - LEAST_FRAME) + ["tcp"]


@pytest.mark.parametrize(("version", "form"), FORMS)
def test_a_packet_truncated_by_its_capture_needs_only_its_headers(bench: Bench, version: int, form: Transform) -> None:
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


def test_every_random_packet_is_counted_once(bench: Bench) -> None:
    """The test changes random bytes of the headers. The program must count each packet with all its bytes in exactly
    one kind. If the packet has IP addresses, the program must also count the packet for the subnets of the
    addresses."""
    chance = random.Random(9)
    forms = [(4, plain), (4, with_ip_options(8)), (6, plain), (6, with_extensions((HOP_BY_HOP, 1), (FRAGMENT, 0)))]
    seen = set()

    def packets() -> tuple[int, int]:
        return int(bench.traffic["classes"]["from"]["packets"].sum()), int(
            bench.traffic["classes"]["to"]["packets"].sum()
        )

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


def test_on_an_interface_a_malformed_packet_is_not_marked() -> None:
    """The program marks malformed packets only if `packet_clock` is set (bpf/config.h)."""
    frame = struct.pack(">12xH", 0x0800) + b"\x44" + bytes(60)
    data = ctypes.create_string_buffer(frame, len(frame))
    for packet_clock in (False, True):
        config = EppingConfig(max_subnets=64, max_flows=64, packet_clock=packet_clock)
        with closing(EppingCollector(config)) as collector:
            for entry_point in collector.program.entry_points.values():
                runs = ProgTestRuns(entry_point, 1)
                runs.options["data_in"], runs.options["data_size_in"] = ctypes.addressof(data), len(frame)
                runs.request_marks(np.array([True]))
                runs.run()
                assert int(runs.marked["mark"][0]) == (MALFORMED_MARK if packet_clock else 0)
