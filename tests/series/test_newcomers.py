# SPDX-License-Identifier: Apache-2.0
"""Tests that newcomers are counted in the aggregate until they answer, with readings made by SyntheticKernel."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.many_subnets import PACKETS, RTTS, Receiver, network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

DEFAULT = Limits()

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
CONFIG = EppingConfig(max_subnets=64, scale=0)
MS = 1_000_000


@pytest.fixture(params=[CUMULATIVE, DELTA], ids=["cumulative", "delta"])
def temporality(request: pytest.FixtureRequest) -> AggregationTemporality:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def kernel() -> SyntheticKernel:
    return SyntheticKernel(CONFIG)


def receiver_of(kernel: SyntheticKernel, temporality: AggregationTemporality, limits: Limits = DEFAULT) -> Receiver:
    collector: Any = SyntheticCollector(kernel)
    return Receiver(EppingMetricProducer(collector, temporality, ExportSettings(limits=limits)))


def packets_of(receiver: Receiver, subnet: int) -> int:
    return int(receiver.total(PACKETS, subnet=str(network_of(subnet)))["value"])


def unanswered(receiver: Receiver) -> int:
    """Return the exported packets of the aggregate."""
    return int(receiver.total(PACKETS, unanswered=True)["value"])


def exported(receiver: Receiver) -> set[str]:
    return {name for name, _ in receiver.subnets}


@pytest.fixture
def receiver(kernel: SyntheticKernel, temporality: AggregationTemporality) -> Receiver:
    return receiver_of(kernel, temporality)


def test_counts_of_newcomers_stay_in_the_aggregate(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.packet(1, 100)
    kernel.packet(2, 100)
    receiver.export()
    assert (unanswered(receiver), exported(receiver)) == (2, set())
    kernel.packet(1, 100)
    kernel.rtt(1, 3, 5 * MS)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1), packets_of(receiver, 2)) == (2, 1, 0)
    assert exported(receiver) == {str(network_of(1))}
    receiver.check(kernel.truth)


def test_a_subnet_that_answers_at_once_was_never_in_the_aggregate(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.packet(1, 100)
    kernel.rtt(1, 0, 5 * MS)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1)) == (0, 1)
    receiver.check(kernel.truth)


def test_the_series_starts_when_the_subnet_answers(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.packet(1, 100)
    receiver.export()
    previous_ns = receiver.producer._trackers[0].reading.time_ns
    kernel.rtt(1, 0, 5 * MS)
    receiver.producer.read()
    tracker = receiver.producer._trackers[0]
    (row,) = [row for row in tracker.rows().tolist() if row != UNANSWERED_SLOT]
    pending = tracker.pending(np.array([row]))
    assert pending.start_ns.tolist() == pending.rtts.start_ns.tolist() == [previous_ns]


def test_newcomers_that_lose_their_slot_are_counted_once(kernel: SyntheticKernel, receiver: Receiver) -> None:
    for turn in range(1, 4):
        kernel.packet(turn, 100)
        receiver.export()
        kernel.packet(turn, 100)  # counted after the latest reading, and before the newcomer loses its slot
        kernel.packet(10 + turn, 100)  # comes and goes between two readings
        kernel.take_back_newcomers()
        receiver.export()
        assert unanswered(receiver) == 3 * turn
        receiver.check(kernel.truth)


def test_a_newcomer_uses_the_row_of_another_newcomer(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.free_rows = [2]
    kernel.packet(1, 100)
    receiver.export()
    kernel.take_back_newcomers()
    kernel.packet(2, 100)
    kernel.rtt(2, 0, 5 * MS)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 2)) == (1, 1)
    receiver.check(kernel.truth)


def test_a_newcomer_uses_the_row_of_a_subnet_that_has_answered(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.free_rows = [2]
    kernel.packet(1, 100)
    kernel.rtt(1, 0, 5 * MS)
    receiver.export()
    kernel.packet(1, 100)
    kernel.retire(1)
    receiver.export()
    kernel.packet(2, 100)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1), packets_of(receiver, 2)) == (1, 2, 0)
    kernel.rtt(2, 1, 7 * MS)
    kernel.packet(2, 100)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1), packets_of(receiver, 2)) == (1, 2, 1)
    receiver.check(kernel.truth)


def test_a_retired_subnet_that_comes_back_is_a_newcomer(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.packet(1, 100)
    kernel.rtt(1, 0, 5 * MS)
    receiver.export()
    kernel.retire(1)
    kernel.packet(1, 100)  # while the subnet's previous slot is being reclaimed
    receiver.export()
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1)) == (1, 1)
    kernel.rtt(1, 0, 5 * MS)
    kernel.packet(1, 100)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1)) == (1, 2)
    receiver.check(kernel.truth)


def test_rtts_wait_until_the_reading_shows_that_the_subnet_has_answered(
    kernel: SyntheticKernel, receiver: Receiver
) -> None:
    kernel.packet(1, 100)
    receiver.export()
    kernel.freeze_states()
    kernel.rtt(1, 0, 5 * MS)
    receiver.export()
    assert receiver.total(metric_table.RTT.name)[RTTS] == 0
    receiver.export()
    receiver.check(kernel.truth)


def test_counts_of_failed_exports_stay_in_their_series(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.packet(1, 100)
    receiver.export(lambda: False)
    kernel.rtt(1, 0, 5 * MS)
    kernel.packet(1, 100)
    receiver.export(lambda: False)
    receiver.export()
    assert (unanswered(receiver), packets_of(receiver, 1)) == (1, 1)
    receiver.check(kernel.truth)


def test_newcomers_do_not_count_for_max_series(kernel: SyntheticKernel, temporality: AggregationTemporality) -> None:
    receiver = receiver_of(kernel, temporality, Limits(1, 1, roll_up=False))
    for _ in range(9):
        kernel.packet(1, 100)
        kernel.packet(2, 100)
    kernel.packet(3, 100)
    kernel.rtt(3, 0, 5 * MS)
    receiver.export()
    assert exported(receiver) == {str(network_of(3))}
    limiter = receiver.producer._limiter
    assert (limiter.exported, limiter.overflowed, limiter.rolled_up) == (1, 0, 0)


def test_each_method_has_a_histogram(kernel: SyntheticKernel, receiver: Receiver) -> None:
    for method in range(6):
        for _ in range(method + 1):
            kernel.rtt(1, method, 5 * MS)
    receiver.export()
    counts: Counter[str] = Counter()
    for (name, *labels), stream in receiver._streams.items():
        if name == metric_table.RTT.name:
            counts[dict(labels)[semconv.METHOD]] += stream.total()[RTTS]
    assert list(counts.values()) == [1, 2, 3, 4, 5, 6]


def test_shared_points_have_a_single_attribute(kernel: SyntheticKernel, receiver: Receiver) -> None:
    kernel.free_rows = []
    kernel.packet(1, 100)
    kernel.packet(1, 101)
    kernel.rtt(2, 3, 5 * MS)
    kernel.counters["opened"][OVERFLOW_SLOT, 0] = 1
    kernel.active[OVERFLOW_SLOT] = kernel.active[UNANSWERED_SLOT] = 1
    receiver.producer.read()
    (batch,) = receiver.producer.batches()
    points = {
        metric.name: [(point.attributes, getattr(point, "value", None)) for point in metric.data.data_points]
        for metric in receiver.producer.metrics(batch).metrics
        if not metric.name.startswith("epping.agent")
    }
    aggregate, overflow = {semconv.UNANSWERED: True}, {semconv.OVERFLOW: True}
    assert points[PACKETS] == [(aggregate, 2)]
    assert points[metric_table.SUBNET_BYTES.name] == [(aggregate, 201)]
    assert points[metric_table.RTT.name] == [(overflow, None)]
    assert points[metric_table.OPENED.name] == [(overflow, 1)]
    assert points[metric_table.ACTIVE_FLOWS.name] == [(overflow, 1), (aggregate, 1)]


def test_the_estimate_of_subnets_that_have_not_answered_is_exported(
    kernel: SyntheticKernel, receiver: Receiver
) -> None:
    kernel.unanswered = 7
    receiver.producer.read()
    (batch,) = receiver.producer.batches()
    (metric,) = [each for each in batch.others.metrics if each.name == agent_metrics.SUBNET_UNANSWERED.name]
    assert [getattr(point, "value", None) for point in metric.data.data_points] == [7]
