# SPDX-License-Identifier: Apache-2.0
"""Tests that merged points are the sums of the points that `all` exports, for random selections of attributes.

Two producers get the same readings of a synthetic kernel, one with all metrics and attributes, and one with a random
selection. The readings contain subnets of both families, on several interfaces and sides, that come and go, and
interfaces that are removed. Exports fail.
"""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import SHARED_SLOTS, Gone, Reading
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric import ECN_GROUP, FLOW, GROUPS, INTERFACES, RTTS, TCP, TRAFFIC
from otel_epping.otel.metric_selection import ALL, MetricSelection, attributes_of
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.support.many_subnets import RTTS as RTT_COUNT
from tests.support.many_subnets import Receiver
from tests.support.metrics import ALL_METRICS
from tests.support.synthetic_kernel import INTERFACE_COUNTERS, STARTED_NS, SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

SUBNETS = 16
NAMES = {0: "", 1: "eth1", 2: "eth2"}
BY_NAME = {metric.name: metric for metric in metric_table.METRICS}
AGGREGATES = {*semconv.AGGREGATES}


class Kernel(SyntheticKernel):
    """A kernel whose subnets have a family, an interface, a side, flows and ECN packets.

    The interfaces of subnets are never removed. Other interfaces are removed, and their names are used again.
    """

    def __init__(self) -> None:
        super().__init__(EppingConfig(max_subnets=32, scale=0), rows=20, histograms=40)
        self.interfaces = {identifier: np.zeros((), INTERFACE_COUNTERS) for identifier in (*NAMES, 3)}
        self.names = NAMES | {3: "veth"}
        self.removed: set[int] = set()
        self.unread: set[int] = set()  # the readers that have not delivered the counts of a removed interface

    def _claim(self, subnet: int, answered: bool) -> int:
        row = super()._claim(subnet, answered)
        if row >= SHARED_SLOTS:
            key = self.slots["key"]
            key["interface"][row], key["side"][row] = subnet % 3, subnet // 3 % 2
            if subnet % 4 == 3:
                key["family"][row], key["prefix"]["half"][row] = 6, [0xB80D0120 + (subnet << 40), 0]
        return row

    def packet(self, subnet: int, octets: int) -> int:
        row = super().packet(subnet, octets)
        kinds = ("ecn_from", "ecn_to", "retransmitted", "out_of_order", "zero_window", "opened", "closed")
        self.counters[kinds[octets % 7]][row, octets % 2] += np.uint64(1)
        self.active[row] = octets % 3 if row >= SHARED_SLOTS else 0
        counts = self.interfaces[max(self.interfaces)]
        counts["received"]["packets"][octets % 7] += np.uint64(1)
        counts["timestamp_fault"][octets % 3] += np.uint64(1)
        return row

    def take_back_newcomers(self) -> None:
        for row in self.newcomers():  # move the counts that the base class does not move
            for kind in ("ecn_from", "ecn_to", "retransmitted", "out_of_order", "zero_window", "opened", "closed"):
                self.counters[kind][1] += self.counters[kind][row]
        super().take_back_newcomers()

    def replace_interface(self) -> None:
        """Remove the latest interface, and add another with the same name."""
        if not self.removed:
            old = max(self.interfaces)
            self.removed, self.unread = {old}, set(range(len(self.readers)))
            self.interfaces[old + 1], self.names[old + 1] = np.zeros((), INTERFACE_COUNTERS), f"veth{old}"

    def read(self, reader: Any) -> Reading:
        if any(each.identifier in self.removed for each in reader.delivered or ()):
            self.unread.discard(self.readers.index(reader))
        if not self.unread:
            for identifier in self.removed:
                del self.interfaces[identifier], self.names[identifier]
            self.removed = set()
        return replace(
            super().read(reader),
            names=dict(self.names),
            interfaces=np.array(list(self.interfaces.values())),
            interfaces_since_ns=np.full(len(self.names), STARTED_NS),
            gone=frozenset(Gone(identifier, 0) for identifier in self.removed),
        )


def selections(group: str) -> Any:
    """Draw attributes of a group: all required attributes, and some optional attributes."""
    names = attributes_of(group)
    needed = [name for name, key in names.items() if semconv.ATTRIBUTES[key].needed]
    others = st.lists(st.sampled_from(sorted({*names} - {*needed})), unique=True)
    return others.map(lambda chosen: (*needed, *chosen))


SUBNET = st.integers(0, SUBNETS - 1)
EVENT = st.one_of(
    st.tuples(st.just("packet"), SUBNET, st.integers(40, 1500)),
    st.tuples(st.just("packet"), SUBNET, st.integers(40, 1500)),
    st.tuples(st.just("rtt"), SUBNET, st.integers(0, 5), st.integers(1_000, 8 * 10**9)),
    st.tuples(st.just("retire"), SUBNET),
    st.just(("take_back_newcomers",)),
    st.just(("replace_interface",)),
)
STEPS = st.lists(st.tuples(st.lists(EVENT, max_size=25), st.booleans()), max_size=12)
ATTRIBUTES = st.fixed_dictionaries(
    {}, optional={group: selections(group) for group in (RTTS, TRAFFIC, TCP, FLOW, ECN_GROUP, INTERFACES, GROUPS[-1])}
)


def sums(receiver: Receiver, selection: MetricSelection, *, of_rows: bool = True) -> dict[Any, Counter[Any]]:
    """Add up the points of a receiver that differ only in attributes that the selection leaves out.

    If `of_rows` is false, add up all points of a metric.
    """
    found: dict[Any, Counter[Any]] = {}
    for (name, *attributes), stream in receiver._streams.items():
        kept = AGGREGATES | {*selection.exported[BY_NAME[name]]}
        key = name, *(each for each in attributes if of_rows and each[0] in kept)
        found.setdefault(key, Counter()).update(stream.total())
    return found


@settings(deadline=None, max_examples=settings().max_examples * 3 // 2)
@given(
    STEPS,
    ATTRIBUTES,
    st.sampled_from([Limits(max_series=None), Limits(max_series=4), Limits(max_series=5, roll_up=False)]),
    st.sampled_from([AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA]),
)
def test_merged_points_are_sums_of_the_points_of_all(
    steps: Any, attributes: Any, limits: Limits, temporality: AggregationTemporality
) -> None:
    kernel, selection = Kernel(), MetricSelection((ALL,), attributes)
    collector: Any = SyntheticCollector(kernel)
    every = Receiver(EppingMetricProducer(collector, temporality, ExportSettings(ALL_METRICS, limits)))
    some = Receiver(EppingMetricProducer(collector, temporality, ExportSettings(selection, limits)))
    for events, arrives in [*steps, ([], True)]:
        for name, *arguments in events:
            getattr(kernel, name)(*arguments)
        every.export(lambda arrives=arrives: arrives)
        some.export(lambda arrives=arrives: arrives)
        if arrives:
            # With limits, after a failed export, a subnet may stay longer in a merged series than it would stay in a
            # series that is not merged.
            of_rows = limits.max_series is None
            assert sums(some, selection, of_rows=of_rows) == sums(every, selection, of_rows=of_rows)
    _check_that_series_end(kernel, [every, some])


def _check_that_series_end(kernel: Kernel, receivers: list[Receiver]) -> None:
    """Retire all subnets. Check that no series is left in any projection."""
    kernel.retire_all()
    for _ in range(4):
        for receiver in receivers:
            assert receiver.export()
    for receiver in receivers:
        for projected in receiver.producer._limiter._projected:
            assert not projected.registry.numbers


def test_a_merged_series_lives_as_long_as_one_of_its_subnets() -> None:
    kernel = Kernel()
    collector: Any = SyntheticCollector(kernel)
    selection = MetricSelection((RTTS,), {RTTS: ("side",)})
    receiver = Receiver(EppingMetricProducer(collector, AggregationTemporality.CUMULATIVE, ExportSettings(selection)))
    for subnet in (0, 1, 2, 6):
        kernel.rtt(subnet, subnet % 6, 10**6)
    receiver.export()
    (name,) = [name for name in receiver._streams if ("epping.rtt.side", "external") in name]
    started_ns = receiver._streams[name].start_ns
    for subnet in (0, 1):
        kernel.retire(subnet)
        for _ in range(3):
            receiver.export()
    kernel.rtt(2, 1, 10**6)
    receiver.export()
    assert receiver._streams[name].start_ns == started_ns
    assert receiver._streams[name].value[RTT_COUNT] == 5


def test_the_shared_points_are_not_merged_with_points_without_attributes() -> None:
    kernel, chance = Kernel(), random.Random(3)
    collector: Any = SyntheticCollector(kernel)
    selection = MetricSelection((TRAFFIC,), {TRAFFIC: ("side", "direction")})
    export = ExportSettings(selection, Limits(max_series=2, roll_up=False))
    receiver = Receiver(EppingMetricProducer(collector, AggregationTemporality.DELTA, export))
    for _ in range(300):
        subnet = chance.randrange(SUBNETS)
        kernel.packet(subnet, 100)
        if subnet < SUBNETS // 2:
            kernel.rtt(subnet, 0, 10**6)
    receiver.export()
    labels = {tuple(key for key, _ in attributes) for _, *attributes in receiver._streams}
    sides = (semconv.SIDE, semconv.SUBNET_DIRECTION)
    assert {tuple(sorted(each)) for each in labels} == {
        (semconv.OVERFLOW,),
        (semconv.UNANSWERED,),
        tuple(sorted(sides)),
    }
