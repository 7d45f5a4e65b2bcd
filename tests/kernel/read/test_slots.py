# SPDX-License-Identifier: Apache-2.0
"""Tests that slots of newcomers are reclaimed, that full tables make room, and that no count is lost meanwhile.

The program processes packets of numbered subnets (many_subnets.py). The slots use the same clock as the packets.
"""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.slot_tables import ANSWERED, FREE, NEWCOMER, states_of
from otel_epping.kernel.read.slots import GRACE_NS, NEWCOMER_NS
from otel_epping.kernel.read.subnet_counters import packets_of
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT, Reading, has_owner
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.claims import recount
from tests.support.many_subnets import PACKETS, Crowd, Receiver, counted_before, emptied, network_of
from tests.support.prog_test_run import EXTERNAL, INTERNAL, MS, SECOND, Bench

pytestmark = pytest.mark.parallel

CONFIG = EppingConfig(packet_clock=True, max_subnets=16, max_flows=4096, sample_interval_ns=0)
IDLE_S = 60
OLD_S, GRACE_S = NEWCOMER_NS / SECOND, GRACE_NS / SECOND


@pytest.fixture(scope="module")
def small() -> Iterator[Bench]:
    with closing(Bench(CONFIG)) as bench:
        yield bench


@pytest.fixture
def crowd(small: Bench) -> Crowd:
    return Crowd(emptied(small))


def state(crowd: Crowd, row: int) -> int:
    return int(states_of(crowd.bench.slots[row : row + 1])[0])


def slot(crowd: Crowd, subnet: int, side: int = EXTERNAL) -> int | None:
    return crowd.bench.slot_of(network_of(subnet), side)


def unanswered(reading: Reading) -> int:
    """Return the number of packets of newcomers, and of unanswered subnets that have no slot."""
    newcomers = has_owner(reading.generation) & ~reading.answered
    newcomers[UNANSWERED_SLOT] = True
    return int(packets_of(reading.counters)[newcomers].sum())


def packets(reading: Reading) -> int:
    return int(packets_of(reading.counters).sum())


def newcomer(crowd: Crowd, subnet: int) -> int:
    """Send a SYN of a subnet. Return the subnet's slot."""
    crowd.knock(subnet)
    row = slot(crowd, subnet)
    assert row
    assert state(crowd, row) == NEWCOMER
    return row


def test_a_newcomer_loses_its_slot_and_keeps_its_packets(crowd: Crowd) -> None:
    reader = crowd.bench.collector.reader()
    before = unanswered(reader.read())
    row = newcomer(crowd, 1)
    crowd.sleep(OLD_S - 1)
    assert has_owner(reader.read().generation)[row]
    assert slot(crowd, 1) == row
    crowd.sleep(1)
    reader.read()
    assert (slot(crowd, 1), state(crowd, row)) == (None, NEWCOMER), "the key is deleted, and the counts are not final"
    crowd.sleep(GRACE_S / 2)
    assert has_owner(reader.read().generation)[row]
    crowd.sleep(GRACE_S / 2)
    assert has_owner(reader.read().generation)[row], "this reading began before the slot was freed"
    assert state(crowd, row) == FREE
    assert not crowd.bench.slots["key"][row].tobytes().strip(b"\0")
    recount(crowd.bench)
    reading = reader.read()
    assert not has_owner(reading.generation)[row]
    assert unanswered(reading) == before + 2  # the client of the SYN has not answered, either
    assert packets(reading) == crowd.truth[PACKETS]
    assert crowd.bench.collector.slots.retired == 0


def test_newcomers_fold_without_a_reading(crowd: Crowd) -> None:
    """The agent reclaims the slots of newcomers once per second, also between two readings."""
    collector, early = crowd.bench.collector, crowd.bench.collector.reader()
    before = unanswered(early.read())
    rows = [newcomer(crowd, subnet) for subnet in (1, 2, 3)]
    crowd.sleep(OLD_S)
    collector.fold_newcomers()
    crowd.knock(1)  # gets another slot, because its key is deleted
    crowd.sleep(GRACE_S)
    collector.fold_newcomers()
    assert slot(crowd, 1) not in (None, *rows)
    assert [state(crowd, row) for row in rows] == [FREE] * 3
    recount(crowd.bench)
    late = collector.reader()
    for reader in (early, late, early, late):
        reading = reader.read()
        assert packets(reading) == crowd.truth[PACKETS]
        assert unanswered(reading) == before + 8


def test_a_newcomer_that_answers_keeps_its_slot(crowd: Crowd) -> None:
    reader = crowd.bench.collector.reader()
    row = newcomer(crowd, 1)
    generation = int(reader.read().generation[row])
    crowd.ping(1, MS)
    crowd.sleep(OLD_S + 5)
    for _ in range(3):
        reading = reader.read()
        crowd.sleep(GRACE_S)
        assert reading.answered[row]
        assert int(reading.generation[row]) == generation
    assert slot(crowd, 1) == row
    recount(crowd.bench)


def answer(crowd: Crowd, row: int) -> None:
    """Change a newcomer to an answered subnet. A CPU makes this change late if it found the slot before the slot's key
    was deleted."""
    for name in ("slots", "claims"):
        array = Array(name, crowd.bench.collector.program.maps[name])
        rows = array.rows(0, array.length, writable=True)
        if name == "slots":
            rows["state"][row] |= np.uint64(ANSWERED)
        else:
            rows["claimed"][1] -= np.uint32(1)


def test_a_newcomer_that_answers_while_its_key_is_deleted_waits_for_all_readers(crowd: Crowd) -> None:
    collector = crowd.bench.collector
    quick, slow = collector.reader(), collector.reader()
    before = unanswered(slow.read())
    row = newcomer(crowd, 1)
    crowd.sleep(OLD_S)
    quick.read()
    assert slot(crowd, 1) is None
    answer(crowd, row)
    for _ in range(3):
        crowd.sleep(GRACE_S)
        assert quick.read().answered[row]
    assert state(crowd, row) == ANSWERED, "the slow reader has not read the final counts"
    recount(crowd.bench)
    reading = slow.read()
    assert reading.answered[row]
    assert packets_of(reading.counters)[row] == 1
    assert unanswered(reading) == before + 1  # the client
    assert state(crowd, row) == FREE
    recount(crowd.bench)
    assert collector.slots.retired == 1
    assert not has_owner(quick.read().generation)[row]


def receiver_of(crowd: Crowd) -> Receiver:
    """Return a receiver of all series. The receiver also adds up the counts of slots that have been freed."""
    settings = ExportSettings(limits=Limits(max_series=CONFIG.max_slots))
    return Receiver(EppingMetricProducer(crowd.bench.collector, AggregationTemporality.CUMULATIVE, settings))


def settle(crowd: Crowd, *receivers: Receiver) -> None:
    for _ in range(4):
        for receiver in receivers:
            receiver.export()
            receiver.check(crowd.truth)
        crowd.sleep(GRACE_S)


def test_a_nearly_full_table_of_slots_makes_room(crowd: Crowd) -> None:
    """The quietest slots of the largest covering prefix are reclaimed, so that the reserve of slots stays free."""
    receiver, slots = receiver_of(crowd), crowd.bench.collector.slots
    few, many = range(0, 20, 2), range(101, 161, 2)  # `few` are in 20.0.0.0/8, and `many` are in 21.0.0.0/8
    for subnet in few:
        crowd.ping(subnet, MS)
    for subnet in many:
        crowd.ping(subnet, MS)
        assert slot(crowd, subnet)
        settle(crowd, receiver)
        assert slots.usage()["slots"] <= CONFIG.max_slots - CONFIG.reserve
    assert slots.retired >= len(few) + len(many) - (CONFIG.max_slots - CONFIG.reserve)
    assert all(slot(crowd, subnet) for subnet in few), "a covering prefix with few slots keeps them"
    assert [bool(slot(crowd, subnet)) for subnet in many] == sorted(bool(slot(crowd, subnet)) for subnet in many), (
        "the quietest slots make room first"
    )


def test_subnets_with_many_blocks_make_room_if_blocks_are_scarce(crowd: Crowd) -> None:
    receiver, slots = receiver_of(crowd), crowd.bench.collector.slots
    for subnet in range(12):
        for exponent in range(11, 34):  # from 2 us to 9 s: each octave has a block of its own
            crowd.ping(subnet, 1 << exponent)
    recount(crowd.bench)
    used = slots.usage()["blocks"]
    assert used > CONFIG.max_blocks * 7 // 8
    for _ in range(5):
        settle(crowd, receiver)
    assert 0 < slots.retired < 12
    assert slots.usage()["blocks"] <= CONFIG.max_blocks * 7 // 8
    recount(crowd.bench)


def test_packets_of_newcomers_without_a_slot_are_in_the_shared_row(crowd: Crowd) -> None:
    """Newcomers may have a third of the number of free slots. So newcomers may have a quarter of all slots."""
    reader, slots = crowd.bench.collector.reader(), crowd.bench.collector.slots
    reading = reader.read()
    before, overflowed = unanswered(reading), int(packets_of(reading.counters)[OVERFLOW_SLOT])
    for subnet in range(1, 200):
        crowd.knock(subnet)
    assert slots.usage()["newcomers"] == slots.usage()["slots"] == -(-CONFIG.max_slots // 4)
    reading = reader.read()
    assert unanswered(reading) == before + 2 * 199
    assert reading.unanswered == pytest.approx(200, rel=0.05)
    assert packets_of(reading.counters)[OVERFLOW_SLOT] == overflowed
    crowd.ping(201, MS)
    row = slot(crowd, 201)
    assert row, "a subnet that answers needs no slot for newcomers"
    assert reader.read().answered[row]
    assert slot(crowd, 201, INTERNAL) is None
    recount(crowd.bench)


def test_each_reader_estimates_the_subnets_of_its_own_interval(crowd: Crowd) -> None:
    quick, slow = crowd.bench.collector.reader(), crowd.bench.collector.reader()
    slow.read()
    sums = []
    for begin in (0, 80, 160):
        for subnet in range(begin, begin + 80):
            crowd.knock(subnet)
        sums.append(quick.read().unanswered)
        crowd.sleep(OLD_S)
    assert sums == pytest.approx([80] * 3, abs=12)  # newcomers with slots are counted in each interval
    assert slow.read().unanswered == pytest.approx(240, rel=0.06)
    for _ in range(2):
        quick.read(), slow.read()
        crowd.sleep(GRACE_S)
    assert (quick.read().unanswered, slow.read().unanswered) == (0, 0)


@pytest.mark.parametrize("idle_s", [0, IDLE_S])
def test_two_readers_and_a_late_reader_have_the_same_totals(crowd: Crowd, idle_s: int) -> None:
    collector = crowd.bench.collector
    collector.change_idle_timeout(idle_s * SECOND)
    quick, slow = receiver_of(crowd), receiver_of(crowd)
    for turn in range(24):
        for subnet in range(turn * 7 % 50, turn * 7 % 50 + 12):
            crowd.knock(subnet)
            if subnet % 3 == 0:
                crowd.ping(subnet, MS)
        crowd.sleep(7)
        for receiver in (quick, slow) if turn % 5 == 4 else (quick,):
            receiver.export()
            receiver.check(crowd.truth)
        recount(crowd.bench)
    assert (collector.slots.retired > 0) or not idle_s
    counted, late = counted_before(crowd.bench), collector.reader()
    reading = late.read()
    assert packets(reading) == counted[PACKETS]
    for receiver in (quick, slow):
        assert receiver.export()
        assert receiver.total(PACKETS, unanswered=True)["value"] == unanswered(reading)
