# SPDX-License-Identifier: Apache-2.0
"""Tests the slot cache. For packets that belong to no flow, the cache stores the slots of the source and destination
subnets. The cache must not change any count."""

import os
import struct
from collections import Counter
from ipaddress import ip_address, ip_network

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6

from otel_epping.kernel import libbpf
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import UNANSWERED_SLOT
from tests.support.packets import ETHER
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, START_NS, Bench, delete_element

pytestmark = pytest.mark.parallel


# There are more pairs of subnets than places in the cache, so some pairs overwrite other pairs.
SUBNETS = 90
PLACES = 1 << 12


def frames() -> list[tuple[bytes, tuple[str, str]]]:
    """Return a packet for each pair of subnets and each IP version: (frame, (source subnet, destination subnet))."""
    made = []
    for version in (4, 6):
        plain = (IP if version == 4 else IPv6)(
            src="10.0.0.1" if version == 4 else "2001:db8::1", dst="10.0.0.1" if version == 4 else "2001:db8::1"
        )
        frame = bytearray(bytes(ETHER / plain / UDP() / b"twelve bytes"))
        source_at, size, length = (26, 4, 24) if version == 4 else (22, 16, 48)
        subnet_in = 2 if version == 4 else 5
        for a in range(SUBNETS):
            for b in range(SUBNETS):
                frame[source_at + subnet_in], frame[source_at + size + subnet_in] = a, b
                ends = tuple(
                    str(ip_network((bytes(frame[at : at + size]), length), strict=False))
                    for at in (source_at, source_at + size)
                )
                made.append((bytes(frame), (ends[0], ends[1])))
    return made


def test_more_pairs_than_places_are_all_counted_correctly() -> None:
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=1024, max_flows=64))
    every = frames()
    assert len(every) > 2 * PLACES
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(len(every)), 2)).tolist()
    expected: Counter[tuple[str, int, str]] = Counter()
    for turn, index in enumerate(order):
        frame, (source, destination) = every[index]
        inwards = turn % 3 > 0
        feeder = bench.feeders[INGRESS if inwards else EGRESS]
        feeder.set(frame)
        feeder.run(START_NS)
        expected[source, EXTERNAL if inwards else INTERNAL, "from udp"] += 1
        expected[destination, INTERNAL if inwards else EXTERNAL, "to udp"] += 1
    found: Counter[tuple[str, int, str]] = Counter()
    for slot in bench.slots_in_use():
        subnet, side, _ = bench.describe(slot)
        for name, (packets, _) in bench.traffic_of(slot).items():
            found[str(subnet), side, name] += packets
    assert found == expected
    assert bench.counters()["subnet_insert_failed"] == 0
    bench.close()


def test_a_cached_pair_does_not_count_into_a_slot_of_another_subnet() -> None:
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=64, max_flows=64))
    maps = bench.collector.program.maps
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # each CPU has its own slot cache
    frame = ETHER / IP(src="10.1.2.3", dst="10.4.5.6") / UDP()
    subnet = ip_network("10.1.2.0/24")
    bench.feed(frame)
    slot = bench.slot_of(subnet, EXTERNAL)
    assert slot
    key = bench.slots["key"][slot].tobytes()
    other = key[:12] + ip_address("10.9.9.0").packed + key[16:]
    delete_element(maps["subnets"].fd, key)
    libbpf.map_update(maps["subnets"].fd, other, slot.to_bytes(4, "little"))
    # At first, the program uses the cached slot.
    bench.feed(frame)
    assert bench.traffic_of(slot)["from udp"][0] == 2
    # The program looks up the slot again only after the epoch has been raised.
    epoch, interval = struct.unpack("=II", libbpf.map_lookup(maps["control"].fd, bytes(4), 8) or b"")
    libbpf.map_update(maps["control"].fd, bytes(4), struct.pack("=II", epoch + 1, interval))
    bench.feed(frame)
    assert bench.traffic_of(slot)["from udp"][0] == 2
    new = bench.slot_of(subnet, EXTERNAL)
    assert new not in (None, slot)
    assert bench.traffic_of(new or 0)["from udp"][0] == 1
    os.sched_setaffinity(0, allowed)
    bench.close()


def test_a_pair_without_slots_is_looked_up_for_each_packet() -> None:
    """The destination has no slot at first. When the destination answers, it gets a slot, and the next packet of the
    pair is counted in this slot."""
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=1, max_flows=64))
    frame = ETHER / IP(src="10.1.2.3", dst="10.4.5.6") / UDP()
    for counted in (1, 2, 3):
        bench.feed(frame)
        assert bench.traffic_of(UNANSWERED_SLOT)["to udp"][0] == counted
    assert not bench.array("slot_cache")["tag"].any()
    request, reply = (ICMP(type=kind, id=7, seq=1) for kind in (8, 0))
    bench.feed(ETHER / IP(src="10.1.2.3", dst="10.4.5.6") / request)
    rtt = bench.feed(ETHER / IP(src="10.4.5.6", dst="10.1.2.3") / reply, START_NS + MS, EGRESS)
    assert rtt == (MS, ip_network("10.4.5.0/24"), INTERNAL, bench.row)
    slot = bench.slot_of(ip_network("10.4.5.0/24"), INTERNAL)
    assert slot
    for counted in (1, 2):
        bench.feed(frame)
        assert bench.traffic_of(slot)["to udp"][0] == counted
        assert bench.traffic_of(UNANSWERED_SLOT)["to udp"][0] == 3
    bench.close()
