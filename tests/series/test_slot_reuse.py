# SPDX-License-Identifier: Apache-2.0
"""Tests that slots of idle subnets are reused.

Meanwhile, flows still refer to the slots, exports fail, and readers start and end.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.control import Control
from otel_epping.kernel.read.reader import READ
from otel_epping.kernel.read.slot_tables import SlotTables
from otel_epping.kernel.read.slots import Found, Slots
from otel_epping.kernel.read.subnet_counters import SubnetCounters
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric import Metric
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.many_subnets import CLOSED, OPENED, PACKETS, RTTS, Bounds, Crowd, Receiver, emptied, network_of
from tests.support.prog_test_run import EXTERNAL, MS, SECOND, Bench

pytestmark = pytest.mark.parallel

DEFAULT = Limits()


CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
# Six slots. The client's subnet never answers, so it is a newcomer: it loses its slot at the first reading after
# NEWCOMER_NS, and gets a slot again with its next packet.
CONFIG = EppingConfig(
    packet_clock=True, max_subnets=3, max_flows=256, sample_interval_ns=0, methods=("tcp_timestamp", "icmp_echo")
)
IDLE_S = 60
RTT = metric_table.RTT.name
LONG_S = 301  # after this time without packets, a flow is not active any more


@pytest.fixture(scope="module")
def narrow() -> Iterator[Bench]:
    with closing(Bench(CONFIG)) as bench:
        yield bench


@pytest.fixture
def crowd(narrow: Bench) -> Crowd:
    return Crowd(emptied(narrow, IDLE_S * SECOND))


def receiver_of(bench: Bench, temporality: AggregationTemporality = CUMULATIVE, limits: Limits = DEFAULT) -> Receiver:
    return Receiver(EppingMetricProducer(bench.collector, temporality, ExportSettings(limits=limits)))


def packets(receiver: Receiver, subnet: int) -> int:
    return int(receiver.total(PACKETS, subnet=str(network_of(subnet)))["value"])


def slot(crowd: Crowd, subnet: int) -> int | None:
    return crowd.bench.slot_of(network_of(subnet), EXTERNAL)


def histogram(crowd: Crowd, subnet: int) -> int:
    """Return the number of the subnet's only histogram."""
    (number,) = (each for method in range(6) if (each := crowd.bench.histogram_of(slot(crowd, subnet) or 0, method)))
    return number


def fill(crowd: Crowd, rtt_ns: int = MS) -> dict[int, int]:
    """Ping new subnets until no slot is free. Return a mapping from each slot to its new subnet."""
    owners = {}
    for subnet in range(100, 100 + 2 * CONFIG.max_slots):
        crowd.ping(subnet, rtt_ns)
        if row := slot(crowd, subnet):
            owners[row] = subnet
    assert crowd.bench.collector.slots.usage()["slots"] == CONFIG.max_slots
    return owners


def retire(crowd: Crowd, *receivers: Receiver, while_speaking: int) -> None:
    """Let time pass until all subnets but one are idle. The flow of the subnet `while_speaking` stays active."""
    for _ in range(3):
        crowd.sleep(LONG_S)
        crowd.talk(while_speaking, MS)
        for receiver in receivers:
            receiver.export()


def own(receiver: Receiver, metric: Metric) -> int:
    """Return the current value of one of the agent's metrics about itself."""
    receiver.producer.read()
    first = next(receiver.producer.batches())
    (found,) = (each for each in receiver.producer.metrics(first).metrics if each.name == metric.name)
    (point,) = found.data.data_points
    return int(point.value)  # type: ignore[union-attr]


def test_a_flow_that_sends_again_does_not_count_for_the_new_owner_of_its_slot(crowd: Crowd) -> None:
    receiver = receiver_of(crowd.bench)
    crowd.talk(1, MS)
    crowd.talk(2, MS)
    receiver.export()
    was, its_histogram = slot(crowd, 1), histogram(crowd, 1)
    assert was
    retire(crowd, receiver, while_speaking=2)
    assert slot(crowd, 1) is None
    assert not crowd.bench.slots["state"][was]
    assert not crowd.bench.histograms["ended"][its_histogram]
    # Another subnet gets the slot of subnet 1. The flow of subnet 1 still refers to the slot, and then sends again.
    owners = fill(crowd)
    successor = owners[was]
    assert its_histogram in {histogram(crowd, subnet) for subnet in owners.values()}
    receiver.export()
    before, overflowed = packets(receiver, successor), int(crowd.bench.histograms["ended"][OVERFLOW_HISTOGRAM])
    crowd.talk(1, MS)
    assert crowd.bench.histograms["ended"][histogram(crowd, successor)] == 1
    assert crowd.bench.histograms["ended"][OVERFLOW_HISTOGRAM] == overflowed + 1
    receiver.export()
    receiver.check(crowd.truth)
    assert packets(receiver, successor) == before
    # For subnet 1, no slot was free. So the two new packets of subnet 1 are counted on the shared points.
    assert packets(receiver, 1) == crowd.packets_of[1] - 2
    retire(crowd, receiver, while_speaking=2)
    crowd.talk(1, MS)
    receiver.export()
    assert slot(crowd, 1)
    assert packets(receiver, 1) == crowd.packets_of[1] - 2
    receiver.check(crowd.truth)


def test_extremes_and_start_time_are_those_of_the_new_owner(crowd: Crowd) -> None:
    receiver = receiver_of(crowd.bench, limits=Limits(CONFIG.max_slots, roll_up=False))
    crowd.talk(1, 5 * SECOND)
    crowd.talk(2, MS)
    receiver.export()
    was, its_histogram = slot(crowd, 1), histogram(crowd, 1)
    before_ns = receiver.producer._trackers[0].reading.time_ns
    retire(crowd, receiver, while_speaking=2)
    owners = fill(crowd, 2 * MS)
    assert was in owners
    assert its_histogram in {histogram(crowd, subnet) for subnet in owners.values()}
    receiver.producer.read()
    (metric,) = (
        metric
        for batch in receiver.producer.batches()
        for metric in receiver.producer.metrics(batch).metrics
        if metric.name == RTT
    )
    points: dict[Any, Any] = {(point.attributes or {}).get(semconv.SUBNET): point for point in metric.data.data_points}
    for subnet in owners.values():
        new = points[str(network_of(subnet))]
        assert (new.min, new.max, new.count, new.sum) == (0.002, 0.002, 1, 0.002)
        assert before_ns < new.start_time_unix_nano < new.time_unix_nano
    assert str(network_of(1)) not in points


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_a_subnet_that_sends_while_its_slot_is_being_freed(crowd: Crowd, temporality: AggregationTemporality) -> None:
    receiver, slow = receiver_of(crowd.bench, temporality), receiver_of(crowd.bench)
    crowd.ping(1, MS)
    slow.export()
    was = slot(crowd, 1)
    for _ in range(2):
        receiver.export()
        crowd.sleep(IDLE_S)
    receiver.export()
    assert slot(crowd, 1) is None, "the program no longer finds the slot"
    assert crowd.bench.slots["state"][was], "the slot is not free before the slow reader has read it"
    crowd.ping(1, 2 * MS)
    receiver.export()
    receiver.check(crowd.truth)
    slow.export()
    slow.check(crowd.truth)
    for _ in range(3):
        crowd.ping(1, 3 * MS)
        crowd.sleep(2)
        for each in (receiver, slow):
            each.export()
            each.check(crowd.truth)
    assert not crowd.bench.slots["state"][was]
    assert slot(crowd, 1)
    assert crowd.bench.collector.slots.retired == 1


def test_a_subnet_with_an_active_flow_is_not_idle(crowd: Crowd) -> None:
    receiver = receiver_of(crowd.bench)
    crowd.talk(2, MS)
    crowd.ping(1, MS)
    for _ in range(4):
        crowd.sleep(IDLE_S)
        receiver.export()
    assert slot(crowd, 1) is None
    assert slot(crowd, 2)
    assert crowd.bench.collector.slots.retired == 1
    subnet = str(network_of(2))
    assert (receiver.total(OPENED, subnet=subnet)["value"], receiver.total(CLOSED, subnet=subnet)["value"]) == (1, 0)
    crowd.talk(2, MS)
    crowd.sleep(LONG_S)
    crowd.talk(1, MS)
    receiver.export()
    assert receiver.total(CLOSED, subnet=subnet)["value"] == 1


def test_slots_wait_for_a_slow_reader_until_it_is_deleted(crowd: Crowd) -> None:
    receiver, slow = receiver_of(crowd.bench), receiver_of(crowd.bench, DELTA)
    crowd.talk(1, MS)
    crowd.talk(2, MS)
    slow.export()
    was = slot(crowd, 1)
    retire(crowd, receiver, while_speaking=2)
    assert crowd.bench.slots["state"][was]
    # The slot is freed only after the slow reader has also read the final counts of the slot. The slot is freed even if
    # the export of the slow reader fails.
    slow.export(lambda: False)
    assert not crowd.bench.slots["state"][was]
    assert was in fill(crowd)
    slow.export()
    slow.check(crowd.truth)
    assert packets(slow, 1) == crowd.packets_of[1]
    retire(crowd, receiver, while_speaking=2)
    assert crowd.bench.slots["state"][was]
    del slow
    receiver.export()
    assert not crowd.bench.slots["state"][was]


def test_slots_being_freed_become_free_after_the_idle_timeout_is_off(crowd: Crowd) -> None:
    receiver, slow = receiver_of(crowd.bench), receiver_of(crowd.bench)
    crowd.ping(1, MS)
    slow.export()
    was = slot(crowd, 1)
    for _ in range(2):
        receiver.export()
        crowd.sleep(IDLE_S)
    receiver.export()
    assert slot(crowd, 1) is None
    assert crowd.bench.slots["state"][was]
    Bounds(0, Limits(max_series=5, roll_up=False)).apply(crowd.bench, receiver.producer, slow.producer)
    crowd.ping(2, MS)
    crowd.sleep(2)
    for each in (receiver, slow, receiver, slow):
        each.export()
        each.check(crowd.truth)
        crowd.sleep(IDLE_S)
    assert not crowd.bench.slots["state"][was]
    assert slot(crowd, 2), "without an idle timeout, subnet 2 keeps its slot"
    assert crowd.bench.collector.slots.retired == 1


def test_a_new_slot_is_not_idle(crowd: Crowd) -> None:
    """The counters were read just before the first packet of the slot was counted.

    So the reading contains the slot, but no counts of the slot.
    """
    maps, config, reader = crowd.bench.collector.program.maps, crowd.bench.config, crowd.bench.collector.reader()
    arrays = {name: Array(name, maps[name]) for name in READ}
    counters = SubnetCounters(arrays["traffic"], arrays["flow_counters"], possible_cpus())
    tables = SlotTables(maps, arrays, config)
    slots = Slots(tables, counters, Control(maps["control"]), config, IDLE_S * SECOND)
    crowd.talk(1, MS)
    reading = reader.read()
    assert reading.answered.any()
    rows = len(reading.slots)
    found = Found(reading.slots, np.zeros(rows, np.uint64), np.zeros(rows, np.bool_), np.zeros(rows, np.bool_))
    slots.take_back(reader, [reader], slots.now_ns(), found)
    assert slots.retired == 0
    assert slot(crowd, 1)


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_no_counts_are_lost_when_slots_are_reused_during_an_outage(
    crowd: Crowd, temporality: AggregationTemporality
) -> None:
    receiver = receiver_of(crowd.bench, temporality, Limits(max_series=5, roll_up=False))
    for subnet in range(12):
        for _ in range(3):
            crowd.ping(subnet, MS * (1 + subnet))
            crowd.sleep(2)
            receiver.export(lambda: False)
        for _ in range(3):
            crowd.sleep(IDLE_S)
            receiver.export(lambda: False)
    assert crowd.bench.collector.slots.retired >= 12
    assert receiver.producer._limiter.exported == 5
    receiver.export()
    receiver.check(crowd.truth)
    assert receiver.total(RTT)[RTTS] >= 36
    assert packets(receiver, 0) == crowd.packets_of[0]
    assert packets(receiver, 11) == 0, "the subnet is on the overflow point, because memory is limited"


def test_freed_slots_and_overflows_are_metrics(crowd: Crowd) -> None:
    receiver = receiver_of(crowd.bench, limits=Limits(max_series=2, roll_up=False))
    for subnet in (1, 2, 3):
        crowd.talk(subnet, MS)
    receiver.export()
    usage = (
        agent_metrics.SERIES_USAGE,
        agent_metrics.SERIES_LIMIT,
        agent_metrics.SERIES_OVERFLOWED,
        agent_metrics.SUBNET_RETIRED,
    )
    assert [own(receiver, metric) for metric in usage] == [2, 2, 1, 0]
    retire(crowd, receiver, while_speaking=2)
    assert [own(receiver, metric) for metric in usage] == [1, 2, 0, 2]
    assert own(receiver, agent_metrics.SUBNET_USAGE) == 2


def test_the_generation_of_a_row_changes_with_its_owner_for_every_reader(crowd: Crowd) -> None:
    early = crowd.bench.collector.reader()
    crowd.ping(1, MS)
    row = slot(crowd, 1)
    generations = [int(early.read().generation[row])]
    while slot(crowd, 1):
        crowd.sleep(IDLE_S)
        reading = early.read()
    for _ in range(2):
        crowd.sleep(2)
        reading = early.read()
    generations.append(int(reading.generation[row]))
    assert row in fill(crowd)
    late = crowd.bench.collector.reader().read()
    reading = early.read()
    generations.append(int(reading.generation[row]))
    assert [each % 2 for each in generations] == [1, 0, 1], "the generation is odd while the row has an owner"
    assert generations == sorted(set(generations))
    assert (late.generation == reading.generation).all()
    assert (reading.generation % 2 == (reading.created_ns != 0)).all()
