# SPDX-License-Identifier: Apache-2.0
"""Tests which histograms and blocks of buckets a subnet gets. RTTs that find no histogram or no block are counted in
the overflow histogram, so no RTT is lost."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from scapy.layers.inet import IP

from otel_epping.kernel import buckets, methods
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.histograms import BLOCK
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM
from tests.support.claims import checked, overflow_rtts
from tests.support.exchanges import EXCHANGES, Exchange
from tests.support.forged import Forger, random_address, subnet_of
from tests.support.packets import ETHER
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, MS, START_NS, Bench

pytestmark = pytest.mark.parallel


CONFIG = EppingConfig(packet_clock=True, max_subnets=16, max_flows=64, sample_interval_ns=0, max_age_ns=64_000_000_000)
FAIR_BLOCKS = 4  # bpf/histogram.h
ECHO = methods.ALL.index("icmp_echo")
ALL_BLOCKS = -(-buckets.bucket_count(CONFIG.scale) // BLOCK)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program with 32 slots, 48 histograms and 128 blocks."""
    bench = Bench(CONFIG)
    yield bench
    bench.close()


def address(number: int) -> bytes:
    """Returns an address in a numbered subnet. Each subnet has its own covering prefix."""
    return bytes([0x20, 1, 0, number]) + bytes(11) + b"\x01"


def exchange_rtt(bench: Bench, exchange: Exchange, number: int, rtt_ns: int, second: int = 1) -> None:
    """Sends a request to a subnet, and then a reply from this subnet. `number` selects the covering prefix."""
    here, there = "10.9.9.9", f"{20 + number}.{second}.1.1"
    for entry, source, destination, packet, at_ns in (
        (EGRESS, here, there, exchange.ask(4, 1), START_NS),
        (INGRESS, there, here, exchange.answer(4, 1), START_NS + rtt_ns),
    ):
        bench.feeders[entry].set(bytes(ETHER / IP(src=source, dst=destination) / packet))
        bench.feeders[entry].run(at_ns)


def middles() -> list[int]:
    """Returns an RTT in each block."""
    first = buckets.first_index(CONFIG.scale)
    return [max(buckets.edge_ns(first + BLOCK * place, CONFIG.scale) + 1, 1000) for place in range(ALL_BLOCKS)]


def histogram_of(bench: Bench, number: int) -> int:
    """Returns the row of a subnet's histogram of ping RTTs."""
    return bench.histogram_of(bench.slot_of(subnet_of(address(number)), EXTERNAL) or 0, ECHO)


def test_a_histogram_is_claimed_at_the_first_rtt_of_each_method(bench: Bench) -> None:
    for done, exchange in enumerate(EXCHANGES, 1):
        for _ in range(2):
            exchange_rtt(bench, exchange, 1, done * MS)
            assert checked(bench).histograms == done
    for exchange in EXCHANGES:
        exchange_rtt(bench, exchange, 2, MS)
    assert checked(bench)[:3] == (3, 1, 2 * len(EXCHANGES))
    assert overflow_rtts(bench) == 0


def test_a_block_is_claimed_at_the_first_rtt_in_each_range(bench: Bench) -> None:
    forger = Forger(bench)
    for done, rtt_ns in enumerate(middles(), 1):
        for _ in range(2):
            forger.answer(address(1), rtt_ns)
            assert checked(bench)[2:4] == (1, done)
    row = histogram_of(bench, 1)
    assert np.flatnonzero(bench.buckets_of(row)).tolist() == list(range(0, buckets.bucket_count(CONFIG.scale), BLOCK))
    assert bench.histograms["sum_ns"][row] == 2 * sum(middles())
    assert overflow_rtts(bench) == 0


def test_each_slot_gets_one_histogram_if_histograms_are_scarce(bench: Bench) -> None:
    for number in range(1, 15):
        for exchange in EXCHANGES:
            exchange_rtt(bench, exchange, number, MS)
    used = checked(bench)
    # A subnet gets all of its histograms until 1/16 of all histograms is left. Then it gets only one.
    expected = 0
    for _ in range(14):
        free = CONFIG.max_histograms - expected
        expected += min(len(EXCHANGES), max(free - CONFIG.max_histograms // 16, min(free, 1)))
    assert used[:3] == (15, 1, expected)
    assert overflow_rtts(bench) == 14 * len(EXCHANGES) - expected
    assert int(bench.histograms["ended"].sum()) == 14 * len(EXCHANGES)
    assert int(bench.histograms["sum_ns"].sum()) == 14 * len(EXCHANGES) * MS


def test_each_histogram_gets_few_blocks_if_blocks_are_scarce(bench: Bench) -> None:
    forger, scarce = Forger(bench), CONFIG.max_blocks - CONFIG.max_blocks // 16
    sent = 0
    for number in range(1, 16):
        for rtt_ns in middles():
            forger.answer(address(number), rtt_ns)
            sent += rtt_ns
    used = checked(bench)
    assert used.blocks == CONFIG.max_blocks
    has = [int(bench.histograms["blocks_used"][histogram_of(bench, number)]) for number in range(1, 16)]
    whole, rest = divmod(scarce, ALL_BLOCKS)
    few, last = divmod(CONFIG.max_blocks - scarce, FAIR_BLOCKS)
    expected = [ALL_BLOCKS] * whole + [rest] + [FAIR_BLOCKS] * few + [last]
    assert has == expected + [0] * (15 - len(expected))
    assert overflow_rtts(bench) == 15 * ALL_BLOCKS - CONFIG.max_blocks
    assert int(bench.histograms["sum_ns"].sum()) == sent
    reading = bench.collector.reader().read()
    assert int(reading.rtts.buckets.counts.sum()) == 15 * ALL_BLOCKS
    assert int(reading.rtts.sum_ns.sum()) == sent


def test_a_large_covering_prefix_leaves_histograms_and_blocks_for_others(bench: Bench) -> None:
    for second in range(26):
        for place in range(ALL_BLOCKS):
            exchange_rtt(bench, EXCHANGES[place % 2], 0, middles()[place], second)
    used = checked(bench)
    assert used.histograms <= CONFIG.max_histograms - CONFIG.max_histograms // 8
    assert used.blocks <= CONFIG.max_blocks - CONFIG.max_blocks // 8
    overflowed = overflow_rtts(bench)
    for number in (1, 2):
        for exchange in EXCHANGES[:1]:
            for rtt_ns in middles()[:3]:
                exchange_rtt(bench, exchange, number, rtt_ns)
    assert overflow_rtts(bench) == overflowed, "two networks of other prefixes have all of their RTTs"
    checked(bench)


def test_the_overflow_histogram_has_all_blocks(bench: Bench) -> None:
    """If no slot is free, RTTs of all lengths are counted in the overflow histogram."""
    forger, chance = Forger(bench), random.Random(1)
    for _ in range(500):
        forger.answer(random_address(4, chance), MS)
    before = bench.buckets_of(OVERFLOW_HISTOGRAM)
    for rtt_ns in middles():
        forger.answer(b"\x03\x03\x03\x03", rtt_ns)
    change = bench.buckets_of(OVERFLOW_HISTOGRAM) - before
    assert np.flatnonzero(change).tolist() == list(range(0, buckets.bucket_count(CONFIG.scale), BLOCK))
    assert checked(bench).slots == CONFIG.max_slots
