# SPDX-License-Identifier: Apache-2.0
"""Tests that totals are exact and series are monotonic, with random sequences of readings made by SyntheticKernel.

The sequences contain packets, RTTs, newcomers that lose their slot, subnets that are retired, slots and histograms that
are used again, states of slots that are read too early, failed exports, and changes of limits.
"""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.config import EppingConfig
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.many_subnets import PACKETS, Receiver, network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

SUBNETS = 16
MAX_SUBNETS = 8
CONFIG = EppingConfig(max_subnets=MAX_SUBNETS, scale=0)
LIMITS = [
    Limits(None, roll_up=False),
    Limits(max_series=3, roll_up=False),
    Limits(None, 3, roll_up=False),
    Limits(max_series=6, roll_up=True),
    Limits(max_series=5, min_samples=2, roll_up=True),
]
SUBNET = st.integers(0, SUBNETS - 1)
EVENT = st.one_of(
    st.tuples(st.just("packet"), SUBNET, st.integers(40, 1500)),
    st.tuples(st.just("packet"), SUBNET, st.integers(40, 1500)),
    st.tuples(st.just("rtt"), SUBNET, st.integers(0, 5), st.integers(1_000, 8 * 10**9)),
    st.tuples(st.just("rtt"), SUBNET, st.integers(0, 1), st.integers(10**6, 10**7)),
    st.tuples(st.just("retire"), SUBNET),
    st.just(("take_back_newcomers",)),
)
# The elements of a step: the events before an export, the events after the states of the slots were read, the exporter,
# the share of delivered requests, and the limits from this step on.
EXPORTER, LUCK = st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0, 1.0])
LATE = st.lists(EVENT.filter(lambda event: event[0] in ("packet", "rtt")), max_size=4)
STEPS = st.lists(
    st.tuples(st.lists(EVENT, max_size=25), LATE, EXPORTER, LUCK, st.sampled_from([None, *LIMITS])), max_size=20
)


def apply(kernel: SyntheticKernel, events: list[Any], answered: set[int]) -> None:
    """Let the events happen. Record in `answered` which subnets answer."""
    for name, *arguments in events:
        getattr(kernel, name)(*arguments)
        if name == "rtt":
            answered.add(arguments[0])


@settings(deadline=None, max_examples=settings().max_examples * 2)
@given(STEPS, st.sampled_from(LIMITS), st.integers(0, 2**32))
def test_totals_are_exact_and_series_are_monotonic(steps: list[Any], limits: Limits, seed: int) -> None:
    kernel, chance = SyntheticKernel(CONFIG), random.Random(seed)
    collector: Any = SyntheticCollector(kernel)
    receivers = [
        Receiver(EppingMetricProducer(collector, temporality, ExportSettings(limits=limits)))
        for temporality in (AggregationTemporality.CUMULATIVE, *[AggregationTemporality.DELTA] * 2)
    ]
    answered: set[int] = set()
    for events, late, exporter, luck, new_limits in steps:
        apply(kernel, events, answered)
        if late:
            kernel.freeze_states()
            apply(kernel, late, answered)
        if new_limits:
            for receiver in receivers:
                receiver.producer.limits = new_limits
        whole = receivers[exporter].export(lambda luck=luck: chance.random() < luck)
        if whole and not late:
            receivers[exporter].check(kernel.truth)
    for receiver in receivers:
        assert receiver.export()
        receiver.check(kernel.truth)
        for subnet in set(range(SUBNETS)) - answered:
            assert not receiver.total(PACKETS, subnet=str(network_of(subnet))), "the subnet has never answered"
    _check_that_series_end(kernel, receivers)


def _check_that_series_end(kernel: SyntheticKernel, receivers: list[Receiver]) -> None:
    """Retire all subnets. Check that all counts are exported, and that no series is left."""
    kernel.retire_all()
    for _ in range(4):
        for receiver in receivers:
            assert receiver.export()
            receiver.check(kernel.truth)
    for receiver in receivers:
        assert receiver.producer._limiter.exported == 0
        assert not receiver.subnets
