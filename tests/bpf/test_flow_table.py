# SPDX-License-Identifier: Apache-2.0
"""Tests the flow table: its entries, eviction from a full set, and two CPUs that process packets at the same time."""

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from otel_epping.kernel import libbpf
from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz import builders
from tests.long.fuzz.meaning import ACK, RST
from tests.long.pressure import DESTINATION_PORT, FIRST_PORT, SOURCE_PORT, TSVAL, rtts
from tests.support.flow_table import forget_flows
from tests.support.prog_test_run import EGRESS, INGRESS, MS, SECOND, START_NS, Bench, Feeder

pytestmark = pytest.mark.parallel


PLACES, WAYS = 4096, 16  # the setting max_flows of the bench, and the size of a set in bpf/flow_maps.h
CONFIG = EppingConfig(packet_clock=True, max_subnets=512, max_flows=PLACES, sample_interval_ns=0)
TOO_MANY = 4 * PLACES
TAKEN, ANSWERED = 1, 2  # bits of a tag, bpf/flow_table.h
CLOSED = 3
BYTES = range(0, 256, 16)
INSIDE, OUTSIDE = bytes((192, 0, 2, 250)), bytes((198, 51, 100, 250))


class Speakers:
    """Two hosts, and the flows between these hosts. The flows differ only by a port. `data` is transmitted; `reply` and
    `reset` are received."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._data = self._feeder(EGRESS, INSIDE, OUTSIDE, ACK, b"data")
        self._reply = self._feeder(INGRESS, OUTSIDE, INSIDE, ACK)
        self._reset = self._feeder(INGRESS, OUTSIDE, INSIDE, RST)

    def _feeder(self, entry: str, source: bytes, destination: bytes, flags: int, payload: bytes = b"") -> Feeder:
        feeder = Feeder(self.bench.collector.program.entry_points[entry])
        segment = builders.tcp((443, 443), 0, 1, flags, builders.timestamp(1, 1), payload)
        feeder.set(builders.link((), 4) + builders.ip(source, destination, 6, segment))
        return feeder

    def data(self, flow: int, now_ns: int, tsval: int = 1) -> None:
        struct.pack_into(">H", self._data.data, SOURCE_PORT, FIRST_PORT + flow)
        struct.pack_into(">I", self._data.data, TSVAL, tsval)
        self._data.run(now_ns)

    def reply(self, flow: int, now_ns: int, tsval: int = 1) -> None:
        struct.pack_into(">H", self._reply.data, DESTINATION_PORT, FIRST_PORT + flow)
        struct.pack_into(">II", self._reply.data, TSVAL, tsval, tsval)
        self._reply.run(now_ns)

    def both(self, flows: range, now_ns: int, tsval: int = 1) -> None:
        for flow in flows:
            self.data(flow, now_ns, tsval)
            self.reply(flow, now_ns + 5 * MS, tsval)

    def reset(self, flow: int, now_ns: int) -> None:
        struct.pack_into(">H", self._reset.data, DESTINATION_PORT, FIRST_PORT + flow)
        self._reset.run(now_ns)


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    """A program of this file. The flows of this file fill sets of the table, so other tests must not share the
    table."""
    return bench_of(CONFIG)


@pytest.fixture
def speakers(bench: Bench) -> Speakers:
    """Two hosts that exchange packets. The flow table is empty at first."""
    forget_flows(bench.collector.program.maps)
    return Speakers(bench)


def taken(bench: Bench) -> int:
    """Returns how many entries are in use. Checks that no two entries have the same flow, that all tags of a set
    differ, and that no set is locked."""
    tags, keys = bench.array("flow_sets")["tags"].ravel(), bench.array("flows")["key"]
    rows = np.flatnonzero(tags)
    assert (tags[rows] & TAKEN).all()
    assert not keys["family"][tags == 0].any()
    assert len({key.tobytes() for key in keys[rows]}) == len(rows)
    per_set = (tags & ~np.uint32(ANSWERED)).reshape(-1, WAYS)
    assert all(len(set(found[found != 0])) == np.count_nonzero(found) for found in per_set)
    locks = bench.collector.program.maps["flow_locks"].fd
    assert not any(any(libbpf.map_lookup(locks, struct.pack("=I", row), 8) or b"") for row in range(len(per_set)))
    return len(rows)


def test_each_flow_gets_one_entry_and_keeps_it(bench: Bench, speakers: Speakers) -> None:
    before = rtts(bench)[0]
    with bench.counting() as counted:
        for turn in (1, 2, 3):
            speakers.both(range(1000), START_NS + turn * 100 * MS, turn)
    assert counted["flows_created"] == 1000 == taken(bench)
    assert counted["flow_insert_failed"] == 0
    # The first segment of each flow may be a retransmission, so the program does not time it.
    assert rtts(bench)[0] - before == 2000


def test_flows_with_similar_addresses_get_separate_entries(bench: Bench, speakers: Speakers) -> None:
    """The IPv6 addresses differ only in the last byte of the first half and in the last byte of the second half.
    In real networks, addresses often differ only in the last byte of each half."""
    feeder = Feeder(bench.collector.program.entry_points[EGRESS])
    segment = builders.tcp((443, 443), 0, 1, ACK, builders.timestamp(1, 1), b"data")
    flows = [bytes.fromhex(f"20010db8000000{net:02x}00000000000000{host:02x}") for net in BYTES for host in BYTES]
    with bench.counting() as counted:
        for now_ns in (START_NS, START_NS + MS):
            for address in flows:
                feeder.set(
                    builders.link((), 6) + builders.ip(address, bytes.fromhex("20010db9" + 24 * "0"), 6, segment)
                )
                feeder.run(now_ns)
    assert counted["flows_created"] == len(flows) == taken(bench)


def test_a_full_table_keeps_the_flows_that_came_first(bench: Bench, speakers: Speakers) -> None:
    flows = range(TOO_MANY)
    with bench.counting() as counted:
        speakers.both(flows, START_NS)
    assert counted["flows_created"] == PLACES == taken(bench)
    assert counted["flow_insert_failed"] == 2 * (TOO_MANY - PLACES)

    before = rtts(bench)[0]
    with bench.counting() as counted:
        speakers.both(flows, START_NS + 500 * MS, 2)
    assert rtts(bench)[0] - before == PLACES
    assert counted["flows_created"] == 0

    # The set is full, so a new flow evicts an entry whose flow has been silent for a second.
    with bench.counting() as counted:
        speakers.both(range(TOO_MANY, 2 * TOO_MANY), START_NS + 2 * SECOND)
    assert counted["flows_created"] == PLACES == taken(bench)


def test_a_flow_seen_in_one_direction_is_evicted_at_once(bench: Bench, speakers: Speakers) -> None:
    for flow in range(TOO_MANY):
        speakers.data(flow, START_NS)
    assert taken(bench) == PLACES
    with bench.counting() as counted:
        speakers.both(range(TOO_MANY, TOO_MANY + 1000), START_NS + MS)
    assert counted["flows_created"] == 1000
    before = rtts(bench)[0]
    speakers.both(range(TOO_MANY, TOO_MANY + 1000), START_NS + 100 * MS, 2)
    assert rtts(bench)[0] - before == 1000


def test_the_entry_of_a_closed_flow_is_evicted_at_once(bench: Bench, speakers: Speakers) -> None:
    speakers.both(range(TOO_MANY), START_NS)
    for flow in range(TOO_MANY // 4):
        speakers.reset(flow, START_NS + 10 * MS)
    closed = np.count_nonzero(bench.array("flows")["closed_ends"] == CLOSED)
    assert closed > PLACES // 8
    with bench.counting() as counted:
        speakers.both(range(TOO_MANY, 2 * TOO_MANY), START_NS + 20 * MS)
    assert counted["flows_created"] == closed
    assert taken(bench) == PLACES


def test_the_place_of_a_flow_cannot_be_predicted() -> None:
    """Two loaded programs must store the same flows at different places, because each program has its own random
    key."""
    places = []
    for _ in range(2):
        bench = Bench(EppingConfig(packet_clock=True, max_subnets=64, max_flows=PLACES))
        Speakers(bench).both(range(64), START_NS)
        flows = bench.array("flows")["key"]
        rows = np.flatnonzero(flows["family"])
        places.append({flows[row].tobytes(): int(row) for row in rows})
    first, second = places
    assert first.keys() == second.keys()
    assert len(first) == 64
    assert sum(first[key] == second[key] for key in first) < 8


def test_two_cpus_create_entries_at_the_same_time(bench: Bench, speakers: Speakers) -> None:
    """Each host of a flow sends on its own CPU. No flow gets two entries, and every flow has an entry at the end."""
    flows = range(1000)
    with bench.counting() as counted, ThreadPoolExecutor(2) as pool:
        for speak in ("data", "reply"):
            one, other = Speakers(bench), Speakers(bench)

            def talk(these: Speakers, how: str = speak) -> None:
                for flow in flows:
                    getattr(these, how)(flow, START_NS)

            list(pool.map(talk, (one, other)))
    assert counted["flows_created"] == 1000 == taken(bench)
