# SPDX-License-Identifier: Apache-2.0
"""Tests that totals are exact and series are monotonic, with all limits and any sequence of events.

The tests send random sequences of events through the maps of the program. The events are traffic, packets of subnets
that never answer, failed exports, and slots that are freed and reused.
"""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import SHARED_SLOTS
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.claims import recount
from tests.support.flow_table import forget_flows
from tests.support.many_subnets import Bounds, Crowd, Receiver, counted_before
from tests.support.prog_test_run import SECOND, Bench

pytestmark = pytest.mark.parallel


CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
SUBNETS = 24
# The number of subnets whose SYNs are never answered. Some of these subnets answer requests at other times.
STRANGERS = 60
# Sometimes there are too few slots (2 * MAX_SUBNETS) and too few histograms (3 * MAX_SUBNETS) for all subnets. A subnet
# uses two histograms: one for RTTs of TCP, and one for RTTs of pings.
MAX_SUBNETS = 11
CONFIG = EppingConfig(packet_clock=True, max_subnets=MAX_SUBNETS, max_flows=256, sample_interval_ns=0)
IDLE_S = 60
# After five minutes without packets, a flow is not active any more. When all flows of a subnet are inactive, the subnet
# can become idle.
LONG_S = 400
BOUNDS = {
    "idle": Bounds(IDLE_S * SECOND),
    "few": Bounds(IDLE_S * SECOND, Limits(max_series=5, roll_up=False)),
    "few, never idle": Bounds(0, Limits(max_series=4, roll_up=False)),
    "some RTTs first": Bounds(IDLE_S * SECOND, Limits(None, 3, roll_up=False)),
    "rolled up": Bounds(IDLE_S * SECOND, Limits(max_series=8, roll_up=True)),
    "all of it": Bounds(IDLE_S * SECOND, Limits(max_series=9, min_samples=2, roll_up=True)),
}
CHANGING = None


@pytest.fixture(scope="module")
def narrow() -> Iterator[Bench]:
    with closing(Bench(CONFIG)) as bench:
        yield bench


@dataclass
class Step:
    """Some subnets send packets, time passes, and one of the exporters exports. The export may fail."""

    pings: list[tuple[int, int]]
    talks: list[tuple[int, int]]
    knocks: list[int]
    sleep_s: int
    exporter: int
    luck: float
    bounds: Bounds


SPEECH = st.lists(st.tuples(st.integers(0, SUBNETS - 1), st.integers(1_000, 8 * 10**9)), max_size=10)
STEPS = st.lists(
    st.builds(
        Step,
        SPEECH,
        SPEECH,
        st.lists(st.integers(0, STRANGERS - 1), max_size=20),
        st.sampled_from([0, 0, 1, 12, 30, 90, LONG_S]),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.5, 1.0, 1.0]),
        st.sampled_from([*BOUNDS.values(), Bounds()]),
    ),
    min_size=4,
    max_size=25,
)


@pytest.mark.parametrize("bounds", [*BOUNDS.values(), CHANGING], ids=[*BOUNDS, "changing"])
# Hypothesis cannot shrink a failing example, because an example changes the state of the program.
@settings(max_examples=15, deadline=None, phases=(Phase.generate,), report_multiple_bugs=False)
@given(STEPS, st.integers(0, 2**32))
def test_totals_are_exact_and_series_are_monotonic(
    narrow: Bench, bounds: Bounds | None, steps: list[Step], seed: int
) -> None:
    first = bounds or BOUNDS["all of it"]
    first.apply(narrow)
    chance = random.Random(seed)
    crowd = Crowd(narrow)
    export = ExportSettings(limits=first.limits)
    producers = [
        EppingMetricProducer(narrow.collector, temporality, export) for temporality in (CUMULATIVE, DELTA, DELTA)
    ]
    receivers = [Receiver(producer) for producer in producers]
    most = (bounds and bounds.limits.max_series) or CONFIG.max_slots
    for step in steps:
        if bounds is CHANGING:
            step.bounds.apply(narrow, *producers)
        for subnet, rtt_ns in step.pings:
            crowd.ping(subnet, rtt_ns)
        for subnet, rtt_ns in step.talks:
            crowd.talk(subnet, rtt_ns)
        for subnet in step.knocks:
            crowd.knock(subnet)
        recount(narrow)
        crowd.sleep(step.sleep_s)
        receiver = receivers[step.exporter % len(receivers)]
        whole = receiver.export(lambda luck=step.luck: chance.random() < luck)
        assert len(receiver.subnets) <= most
        if whole:
            receiver.check(crowd.truth)
        recount(narrow)
    late, counted = EppingMetricProducer(narrow.collector, CUMULATIVE, export), counted_before(narrow)
    # The late reader makes the first reading. If the counts of a slot were final before the late reader was created,
    # the slot does not wait for this reader.
    checks = [(Receiver(late, is_late=True), counted), *((receiver, crowd.truth) for receiver in receivers)]
    for receiver, truth in checks:
        assert receiver.export()
        receiver.check(truth)
    check_that_everything_is_freed(crowd, checks)


def check_that_everything_is_freed(crowd: Crowd, checks: list[tuple[Receiver, Counter[str]]]) -> None:
    """Let time pass without traffic.

    Check that no series and no used slot is left, and that all counts are exported.
    """
    forget_flows(crowd.bench.collector.program.maps)
    crowd.bench.collector.slots.idle_ns = IDLE_S * SECOND
    for _ in range(5):
        crowd.sleep(IDLE_S)
        for receiver, truth in checks:
            assert receiver.export()
            receiver.check(truth)
    recount(crowd.bench)
    assert not crowd.bench.slots["state"].any()
    assert not crowd.bench.histograms["ended"][1:].any()
    for name in ("from", "to"):
        assert not crowd.bench.traffic["classes"][name]["packets"][SHARED_SLOTS:].any()
    assert not any(receiver.subnets for receiver, _ in checks)
