# SPDX-License-Identifier: Apache-2.0
"""Tests the ring buffer. Events arrive complete and in order. Lost events are counted, and idle flows are reported."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet

from otel_epping.errors import EppingError
from otel_epping.events.idle_flows import IdleFlowCloser
from otel_epping.events.ring_buffer import CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION, OPENING, RTT, EventReader, Events
from otel_epping.kernel import map_array
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.methods import ALL
from tests.support.packets import ETHER, ETHERNET, IPV4
from tests.support.prog_test_run import EGRESS, INGRESS, MS, SECOND, START_NS, Bench

pytestmark = pytest.mark.parallel


WATCHED = EppingConfig(packet_clock=True, events=True, max_subnets=1024, max_flows=65536, sample_interval_ns=0)
DNS_ID = ETHERNET + IPV4 + 8


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(WATCHED)


@pytest.fixture
def reader(bench: Bench) -> EventReader:
    """A reader whose ring buffer is empty."""
    reader = EventReader(bench.collector)
    reader.read()
    return reader


def ask_dns(bench: Bench, count: int, begin_ns: int) -> None:
    """Feed DNS queries at intervals of 1 us, and one response for each query.

    The first response arrives 1 ns after its query, the second 2 ns after its query, and so on up to 1 us. Each
    response gives an event.
    """
    asker, answerer = "10.251.0.1", "10.251.1.1"
    query = UDP(sport=40000, dport=53) / DNS(id=0, qd=DNSQR(qname="example.org"))
    response = UDP(sport=53, dport=40000) / DNS(id=0, qr=1, qd=DNSQR(qname="example.org"))
    ask, answer = bench.feeders[EGRESS], bench.feeders[INGRESS]
    ask.set(bytes(ETHER / IP(src=asker, dst=answerer) / query))
    answer.set(bytes(ETHER / IP(src=answerer, dst=asker) / response))
    for number in range(count):
        struct.pack_into(">H", ask.data, DNS_ID, number)
        struct.pack_into(">H", answer.data, DNS_ID, number)
        ask.run(begin_ns + number * 1000)
        answer.run(begin_ns + number * 1000 + number % 1000 + 1)


def check_dns(events: Events, begin_ns: int) -> None:
    numbers = np.arange(len(events))
    assert (events["type"] == RTT).all()
    assert (events["method"] == ALL.index("dns")).all()
    assert (events["rtt_ns"] == numbers % 1000 + 1).all()
    assert (events["time_ns"] == begin_ns + numbers * 1000 + numbers % 1000 + 1).all()


def test_each_event_is_read_once(bench: Bench, reader: EventReader) -> None:
    assert len(reader.read()) == 0
    assert not reader.wait(0)
    ask_dns(bench, 3, START_NS)
    assert reader.wait(0)
    events = reader.read()
    assert len(events) == 3
    check_dns(events, START_NS)
    assert len(reader.read()) == 0
    assert not reader.wait(0)


def test_events_are_complete_and_in_order_when_the_ring_wraps_around(bench: Bench, reader: EventReader) -> None:
    """The size of the ring buffer is not a multiple of the size of an event.

    So one event is partly at the end of the ring buffer and partly at its start.
    """
    size = map_array.map_info(bench.collector.program.maps["events"].fd)["max_entries"]
    stride = reader.dtype.itemsize + 8
    assert size % stride
    batch = 5000
    for turn in range(2 * size // (batch * stride) + 1):
        begin_ns = START_NS + (turn + 1) * 100 * SECOND  # at this time, earlier queries with the same ID have expired
        ask_dns(bench, batch, begin_ns)
        events = reader.read()
        assert len(events) == batch
        check_dns(events, begin_ns)
    assert reader.lost == 0


def test_events_are_counted_as_lost_when_the_ring_is_full(bench: Bench, reader: EventReader) -> None:
    room = map_array.map_info(bench.collector.program.maps["events"].fd)["max_entries"] // (reader.dtype.itemsize + 8)
    begin_ns, lost = START_NS + 5000 * SECOND, reader.lost
    ask_dns(bench, room + 500, begin_ns)
    events = reader.read()
    # The kernel always leaves the last byte free, because a full ring buffer would look like an empty ring buffer.
    assert len(events) in (room, room - 1)
    check_dns(events, begin_ns)
    assert reader.lost - lost == room + 500 - len(events)
    ask_dns(bench, 10, begin_ns + 100 * SECOND)
    check_dns(reader.read(), begin_ns + 100 * SECOND)


def test_a_program_without_events_has_no_reader(every: Bench) -> None:
    with pytest.raises(EppingError, match="without events"):
        EventReader(every.collector)


# ---- idle flows


def tcp(sender: int, flags: str, tsval: int, tsecr: int, payload: bytes = b"") -> Packet:
    hosts = "10.252.0.1", "10.252.1.1"
    ports = 40000, 443
    options = [("Timestamp", (tsval, tsecr)), ("EOL", None), ("EOL", None)]
    segment = TCP(sport=ports[sender], dport=ports[1 - sender], flags=flags, options=options)
    return ETHER / IP(src=hosts[sender], dst=hosts[1 - sender]) / segment / payload


def echo(kind: str) -> Packet:
    hosts = ("10.253.0.1", "10.253.1.1") if kind == "echo-request" else ("10.253.1.1", "10.253.0.1")
    return ETHER / IP(src=hosts[0], dst=hosts[1]) / ICMP(type=kind, id=0x1234, seq=1)


def brief(events: Events) -> list[tuple[int, int, int, int, bytes, int]]:
    """Return the main fields of each event: type, reason, trigger, protocol, source address and source port.

    Of the source address, only the last four bytes are returned.
    """
    return [
        (
            *(int(event[name]) for name in ("type", "reason", "trigger", "protocol")),
            event["source"].tobytes()[12:],
            int(event["source_port"].byteswap()),
        )
        for event in events
    ]


def test_idle_flows_are_closed_after_the_timeouts_of_epping(bench: Bench, reader: EventReader) -> None:
    idle_flows = IdleFlowCloser(bench.collector, reader.dtype)
    start_ns = START_NS + 10_000 * SECOND
    idle_flows.close_idle(start_ns)  # closes the flows of earlier tests
    bench.feed(tcp(0, "PA", 1, 0, b"question"), start_ns, EGRESS)
    bench.feed(tcp(1, "PA", 9, 1, b"answer"), start_ns + 5 * MS, INGRESS)
    bench.feed(tcp(0, "A", 2, 9), start_ns + 10 * MS, EGRESS)
    bench.feed(echo("echo-request"), start_ns, EGRESS)
    bench.feed(echo("echo-reply"), start_ns + 7 * MS, INGRESS)
    opened = reader.read()
    assert sorted(brief(opened[opened["type"] == OPENING])) == [
        (OPENING, 3, 1, 1, bytes([10, 253, 1, 1]), 0x1234),
        (OPENING, 3, 1, 6, bytes([10, 252, 0, 1]), 40000),
        (OPENING, 3, 1, 6, bytes([10, 252, 1, 1]), 443),
    ]

    assert len(idle_flows.close_idle(start_ns + 29 * SECOND)) == 0
    now_ns = start_ns + 31 * SECOND
    closed = idle_flows.close_idle(now_ns)  # the timeout of ICMP echo flows is 30 s
    assert closed["time_ns"].tolist() == [now_ns]
    assert brief(closed) == [(CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION, 1, bytes([10, 253, 1, 1]), 0x1234)]

    assert len(idle_flows.close_idle(start_ns + 299 * SECOND)) == 0
    closed = idle_flows.close_idle(start_ns + 301 * SECOND)  # the timeout of all other flows is 300 s
    assert sorted(brief(closed)) == [
        (CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION, 6, bytes([10, 252, 0, 1]), 40000),
        (CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION, 6, bytes([10, 252, 1, 1]), 443),
    ]
    assert len(idle_flows.close_idle(start_ns + 302 * SECOND)) == 0  # the flow is no longer in the table

    bench.feed(tcp(0, "PA", 300_000, 9, b"question"), start_ns + 303 * SECOND, EGRESS)
    bench.feed(tcp(1, "PA", 300_009, 300_000, b"answer"), start_ns + 303 * SECOND + MS, INGRESS)
    assert OPENING in reader.read()["type"]  # the next packets open the flow again


def test_an_unanswered_flow_ends_without_an_event(bench: Bench, reader: EventReader) -> None:
    """A direction that was not reported as open is not reported as closed.

    The flow gets no response, and ends after the time that ePPing calls UNOPENED_FLOW_LIFETIME.
    """
    idle_flows = IdleFlowCloser(bench.collector, reader.dtype)
    start_ns = START_NS + 20_000 * SECOND
    idle_flows.close_idle(start_ns)
    bench.feed(tcp(0, "S", 1, 0), start_ns, EGRESS)
    assert len(idle_flows.close_idle(start_ns + 31 * SECOND)) == 0
    # The flow table entry was deleted. So the next segment opens the flow again, and the trigger is not a SYN.
    bench.feed(tcp(0, "PA", 60_000, 0, b"question"), start_ns + 60 * SECOND, EGRESS)
    bench.feed(tcp(1, "PA", 9, 60_000, b"answer"), start_ns + 60 * SECOND + MS, INGRESS)
    opened = reader.read()
    assert opened["reason"][opened["type"] == OPENING].tolist() == [3]
