# SPDX-License-Identifier: Apache-2.0
"""Tests that every packet is counted in a slot and for its interface. If no slot is free for a subnet that has not
answered, its packets are counted in the slot of unanswered subnets. RTTs of a subnet without a slot are counted in the
overflow histogram."""

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, OVERFLOW_SLOT, SHARED_SLOTS, UNANSWERED_SLOT
from tests.support.claims import checked
from tests.support.forged import Forger, random_address
from tests.support.prog_test_run import CLASSES, EGRESS, EXTERNAL, INGRESS, INTERNAL, KINDS, MS, START_NS, Bench
from tests.support.readings import traffic

pytestmark = pytest.mark.parallel


SUBNETS = 20_000
ROUNDS = 2
CONFIG = EppingConfig(packet_clock=True)
NEWCOMERS = CONFIG.max_slots // 4  # the slots that newcomers may have while no subnet has answered
MAC = "02:00:00:00:00:01"
PAYLOAD = 1200
UDP_CLASS = CLASSES.index("udp")

Key = tuple[str, int]  # subnet and side


@dataclass(frozen=True)
class Family:
    """A frame with placeholders for the addresses and the length, and the offsets of the placeholders."""

    frame: bytes
    prefix: int
    length_at: int
    length_lacks: int  # number of bytes at the start that the length field does not include
    source_at: int
    destination_at: int

    def packet(self, source: bytes, destination: bytes, size: int) -> bytes:
        """Returns at most the first 100 bytes of a frame of `size` bytes."""
        frame = bytearray(self.frame[: min(size, 100)])
        struct.pack_into(">H", frame, self.length_at, size - self.length_lacks)
        frame[self.source_at : self.source_at + len(source)] = source
        frame[self.destination_at : self.destination_at + len(destination)] = destination
        return bytes(frame)


def udp(network: Packet) -> bytes:
    return bytes(Ether(src=MAC, dst=MAC) / network / UDP() / Raw(bytes(PAYLOAD)))


FAMILIES = (
    Family(udp(IP(src="192.0.2.1", dst="192.0.2.1")), 24, 16, 14, 26, 30),
    Family(udp(IPv6(src="2001:db8::1", dst="2001:db8::1")), 48, 18, 54, 22, 38),
)
HERE = ip_address("192.0.2.1").packed, ip_address("2001:db9::1").packed


def remote(number: int) -> bytes:
    """Returns an IPv4 address in a /24, or an IPv6 address in a /48. Each number gives a different subnet."""
    if number % 2 == 0:
        return (10 << 24 | number << 8 | 1).to_bytes(4, "big")
    return (0x20010DB8 << 96 | number << 80 | 1).to_bytes(16, "big")


class Offered:
    """The packets that were fed to the program, and that the program must have counted.

    `by_key` has an array for each pair of a subnet and a side. The rows of an array are the source and the destination,
    and its columns are the packets and the bytes. The pairs are in the order of their first packets. `by_entry` has the
    numbers of packets and bytes for each entry point of the program.
    """

    def __init__(self) -> None:
        self.by_key: dict[Key, Counts] = {}
        self.by_entry = {entry: np.zeros(2, np.uint64) for entry in (INGRESS, EGRESS)}

    def add(self, keys: tuple[Key, Key], entry: str, size: int) -> None:
        tally = np.array([1, size], np.uint64)
        for way, key in enumerate(keys):
            self.by_key.setdefault(key, np.zeros((2, 2), np.uint64))[way] += tally
        self.by_entry[entry] += tally


def offer(bench: Bench) -> Offered:
    """Feeds UDP packets from and to 20000 subnets to the program, on every CPU. The packets are IPv4 and IPv6 packets,
    received and transmitted, in random sizes and in random order."""
    offered, chance = Offered(), random.Random(8)
    numbers = list(range(SUBNETS)) * ROUNDS
    chance.shuffle(numbers)
    allowed = sorted(os.sched_getaffinity(0))
    for part, cpu in enumerate(allowed):
        os.sched_setaffinity(0, {cpu})
        for number in numbers[part :: len(allowed)]:
            family, entry = FAMILIES[number % 2], chance.choice((INGRESS, EGRESS))
            ends = (remote(number), HERE[number % 2])
            ends = ends if chance.random() < 0.5 else ends[::-1]
            size = len(family.frame) - chance.randrange(PAYLOAD)
            bench.feeders[entry].set(family.packet(ends[0], ends[1], size), wire_len=size)
            bench.feeders[entry].run(START_NS)
            subnets = [str(ip_network((end, family.prefix), strict=False)) for end in ends]
            sides = (EXTERNAL, INTERNAL) if entry == INGRESS else (INTERNAL, EXTERNAL)
            offered.add(((subnets[0], sides[0]), (subnets[1], sides[1])), entry, size)
    os.sched_setaffinity(0, allowed)
    return offered


@pytest.fixture(scope="module")
def fed() -> Iterator[tuple[Bench, Offered]]:
    bench = Bench(CONFIG)
    yield bench, offer(bench)
    bench.close()


def test_more_subnets_than_slots_were_offered(fed: tuple[Bench, Offered]) -> None:
    _, offered = fed
    assert len(offered.by_key) > SUBNETS > NEWCOMERS
    assert sum(int(tally[0]) for tally in offered.by_entry.values()) == SUBNETS * ROUNDS


def test_every_packet_is_counted_in_its_own_slot_or_in_the_unanswered_slot(fed: tuple[Bench, Offered]) -> None:
    bench, offered = fed
    reading = bench.collector.reader().read()
    assert len(reading.slots) == SHARED_SLOTS + NEWCOMERS
    assert not reading.answered.any()
    classes = [place for place in range(len(CLASSES)) if place != UDP_CLASS]
    assert not traffic(reading)[:, :, classes].any()
    counted = traffic(reading)[:, :, UDP_CLASS]
    # The subnets that send or receive the first packets get the slots. Later subnets get no slots.
    keys = list(offered.by_key)
    served, rest = keys[:NEWCOMERS], keys[NEWCOMERS:]
    found = {}
    for slot in range(SHARED_SLOTS, len(counted)):
        subnet, side, row = bench.describe(slot)
        assert row == bench.row
        found[str(subnet), side] = counted[slot]
    assert found.keys() == set(served)
    wrong = [key for key in served if (found[key] != offered.by_key[key]).any()]
    assert not wrong, f"{len(wrong)} of {len(served)} subnets have wrong counts: {wrong[:3]}"
    assert not reading.slots["state"][:SHARED_SLOTS].any()
    assert not counted[OVERFLOW_SLOT].any()
    assert (counted[UNANSWERED_SLOT] == sum(offered.by_key[key] for key in rest)).all()


def test_the_sum_over_all_slots_equals_the_packets_that_were_fed(fed: tuple[Bench, Offered]) -> None:
    bench, offered = fed
    total = offered.by_entry[INGRESS] + offered.by_entry[EGRESS]
    reading = bench.collector.reader().read()
    assert (traffic(reading).sum((0, 2)) == total).all()  # sums over source and destination
    interface = reading.interfaces[list(reading.names).index(bench.row)]
    for direction, entry in (("received", INGRESS), ("transmitted", EGRESS)):
        for place, kind in enumerate(KINDS):
            tally = [interface[direction][field].ravel()[place] for field in ("packets", "bytes")]
            assert tally == (offered.by_entry[entry].tolist() if kind == "udp" else [0, 0])
    assert interface["ecn"].tolist() == [total[0], 0, 0, 0]


def test_a_subnet_that_has_not_answered_needs_no_slot(fed: tuple[Bench, Offered]) -> None:
    bench, _ = fed
    assert bench.counters()["subnet_insert_failed"] == 0


def test_packets_and_rtts_of_answered_subnets_without_a_slot_are_counted_in_row_0() -> None:
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=16, max_flows=64, sample_interval_ns=0))
    forger, chance = Forger(bench), random.Random(9)
    for _ in range(200):
        forger.answer(random_address(6, chance), MS)
    used = checked(bench)
    assert used.slots == bench.config.max_slots
    flow = bench.flow(client="172.16.0.1", server="172.16.1.1")
    before = bench.histograms[OVERFLOW_HISTOGRAM].copy()
    reader = bench.collector.reader()
    reader.read()
    with bench.counting() as counted:
        for sender, entry, at_ns, flags, tsval, tsecr in (
            (0, EGRESS, 0, "A", 1000, 0),
            (0, EGRESS, 1 * MS, "PA", 1001, 0),
            (1, INGRESS, 8 * MS, "A", 5, 1001),
            (1, INGRESS, 9 * MS, "PA", 6, 1001),
        ):
            bench.feeders[entry].set(flow.frame(sender, flags, tsval, tsecr, b"x"))
            bench.feeders[entry].run(START_NS + at_ns)
    assert counted["subnet_insert_failed"] == 1, "the program looks up the slot of each RTT"
    after = bench.histograms[OVERFLOW_HISTOGRAM]
    assert (after["ended"] - before["ended"], after["sum_ns"] - before["sum_ns"]) == (1, 7 * MS)
    reading = reader.read()
    rtts = reading.rtts
    assert (rtts.min_ns[OVERFLOW_HISTOGRAM], rtts.max_ns[OVERFLOW_HISTOGRAM]) == (7 * MS, 7 * MS)
    # The subnet of the server has answered. So the later packet of the flow is counted in the overflow slot.
    assert bench.traffic_of(OVERFLOW_SLOT)["from tcp_timestamp"][0] == 1
    bench.close()
