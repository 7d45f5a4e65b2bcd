# SPDX-License-Identifier: Apache-2.0
"""Tests that the series of named networks and groups are exact sums, for random groupings and readings.

Two producers get the same readings of a synthetic kernel. In the first, a series stands for a subnet or a named
network, with all attributes. The second has a random grouping. Names and databases change, exports fail, and slots are
reclaimed.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.kernel.reading import FAMILY_NAMED, SHARED_SLOTS, Reading
from otel_epping.networks.network import Network, Networks
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings, network_keys
from otel_epping.otel.metric import RTTS, TRAFFIC
from otel_epping.otel.metric_selection import ALL, MetricSelection, attributes_of
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET, Grouping
from otel_epping.series.limits import Limits
from tests.series import test_projection
from tests.series.test_projection import AGGREGATES, BY_NAME, selections
from tests.support.many_subnets import Receiver
from tests.support.metrics import ALL_METRICS
from tests.support.names import FakeDatabases, networks_of
from tests.support.synthetic_kernel import SyntheticCollector

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
SUBNETS = test_projection.SUBNETS
FIRST_NAMED = 6  # the first subnet that can be part of a named network
TAGS = ("site", "plan")
NETWORKS = (
    Network("miller", (("site", "berlin"), ("plan", "100"))),
    Network("miller", (("site", "berlin"), ("plan", "50"))),  # differs only in a tag that may not be exported
    Network("smith", (("site", "berlin"),)),
    Network("jones", (("plan", "100"),)),
    Network("brown"),
)
# What a series stands for. A point has some of these attributes.
NETWORK_KEYS = {*metric_table.NETWORK_KEYS} - {semconv.NETWORK_TAG}
PLACE_KEYS = {semconv.AS_NUMBER, semconv.AS_ORGANIZATION, semconv.COUNTRY}


class Kernel(test_projection.Kernel):
    """A kernel in which subnets are part of named networks. Each of these subnets has a slot of its own.

    name_of  the network of each subnet that is part of a named network
    """

    def __init__(self) -> None:
        super().__init__()
        self.name_of: dict[int, Network] = {}
        self.numbers: dict[int, Network] = {}
        self.networks = Networks()
        for subnet in range(FIRST_NAMED, SUBNETS):
            self.rename(subnet, subnet % len(NETWORKS))

    def rename(self, subnet: int, network: int | None) -> None:
        """Gives a subnet another name. The slot of the subnet is reclaimed, as after a change of the file."""
        if subnet < FIRST_NAMED:
            return
        self.take_back_newcomers()
        self.retire(subnet)
        self.name_of.pop(subnet, None)
        if network is not None:
            self.name_of[subnet] = NETWORKS[network]
            self.numbers[len(self.numbers) + 1] = NETWORKS[network]
        self.networks = networks_of({f"198.51.{each}.0/24": name for each, name in self.name_of.items()})

    def _claim(self, subnet: int, answered: bool) -> int:
        row = super()._claim(subnet, answered)
        if row >= SHARED_SLOTS and subnet in self.name_of:
            key = self.slots["key"]
            number = max(number for number, name in self.numbers.items() if name == self.name_of[subnet])
            key["family"][row], key["prefix"]["half"][row] = FAMILY_NAMED, [number, 0]
        return row

    def read(self, reader: Any) -> Reading:
        return replace(super().read(reader), networks=dict(self.numbers))


def grouped(attributes: dict[str, Any], grouping: Grouping) -> dict[str, Any]:
    """Return the attributes of the group to which a series of a subnet or a named network belongs."""
    keys = {key for key in attributes if key in NETWORK_KEYS or key.startswith(f"{semconv.NETWORK_TAG}.")}
    group_by = grouping.group_by
    tags = {f"{semconv.NETWORK_TAG}.{tag}" for tag in grouping.tags}
    kept = {
        SUBNET: {*NETWORK_KEYS, *tags},
        NAME: {semconv.NETWORK_NAME, *tags, *PLACE_KEYS} if semconv.NETWORK_NAME in attributes else set(),
        ASN: {semconv.AS_NUMBER, semconv.AS_ORGANIZATION},
        COUNTRY: {semconv.COUNTRY},
    }.get(group_by, {f"{semconv.NETWORK_TAG}.{group_by}"})
    return {key: value for key, value in attributes.items() if key not in keys or key in kept}


def sums(receiver: Receiver, settings: ExportSettings, *, of_rows: bool) -> dict[Any, Counter[Any]]:
    """Add up the points of a receiver that belong to the same group, and that differ only in attributes that are not
    exported. If `of_rows` is false, add up all points of a metric."""
    found: dict[Any, Counter[Any]] = {}
    for (name, *attributes), stream in receiver._streams.items():
        metric = BY_NAME[name]
        kept = AGGREGATES | {*settings.selection.exported.get(metric, ())}
        if metric not in settings.selection.exported:
            continue
        pairs = grouped(dict(attributes), settings.grouping).items() if of_rows else ()
        key = name, *sorted((key, value) for key, value in pairs if key in kept or template_of(key) in kept)
        found.setdefault(key, Counter()).update(stream.total())
    return found


def template_of(key: str) -> str:
    return semconv.NETWORK_TAG if key.startswith(f"{semconv.NETWORK_TAG}.") else key


SUBNET_NUMBER = st.integers(0, SUBNETS - 1)
EVENT = st.one_of(
    test_projection.EVENT,
    test_projection.EVENT,
    st.tuples(st.just("rename"), SUBNET_NUMBER, st.sampled_from([None, *range(len(NETWORKS))])),
    st.just(("replace_databases",)),
)
STEPS = st.lists(st.tuples(st.lists(EVENT, max_size=25), st.booleans()), max_size=12)


@st.composite
def export_settings(draw: Any) -> tuple[ExportSettings, FakeDatabases]:
    """Draw a grouping, limits, and attributes that the grouping has."""
    group_by = draw(st.sampled_from([SUBNET, NAME, ASN, COUNTRY, "site", "plan"]))
    databases: Any = FakeDatabases()
    tags = draw(st.sampled_from([(), ("site",), TAGS]))
    has_databases = group_by in (ASN, COUNTRY) or draw(st.booleans())
    attributes = {}
    for group in (RTTS, TRAFFIC):
        if draw(st.booleans()):
            known = attributes_of(group)
            refused = {*metric_table.NETWORK_KEYS} - network_keys(group_by)
            attributes[group] = tuple(name for name in draw(selections(group)) if known[name] not in refused)
    limits = draw(st.sampled_from([Limits(max_series=None), Limits(max_series=4), Limits(max_series=5, roll_up=False)]))
    grouping = Grouping(group_by, tags, databases if has_databases else None)
    return ExportSettings(MetricSelection((ALL,), attributes), limits, grouping), databases


@settings(deadline=None, max_examples=150)
@given(STEPS, export_settings(), st.sampled_from([CUMULATIVE, DELTA]))
def test_groups_are_sums_of_subnets_and_named_networks(
    steps: Any, export: tuple[ExportSettings, FakeDatabases], temporality: AggregationTemporality
) -> None:
    (chosen, databases), kernel = export, Kernel()
    has_databases = chosen.grouping.databases is not None
    collector: Any = SyntheticCollector(kernel)
    complete = ExportSettings(ALL_METRICS, chosen.limits, replace(chosen.grouping, group_by=SUBNET, tags=TAGS))
    every = Receiver(EppingMetricProducer(collector, temporality, complete))
    some = Receiver(EppingMetricProducer(collector, temporality, chosen))
    for events, arrives in [*steps, ([], True)]:
        for name, *arguments in events:
            if name == "replace_databases":
                databases.generation += 1
            else:
                getattr(kernel, name)(*arguments)
        collector.networks = kernel.networks
        every.export(lambda arrives=arrives: arrives)
        some.export(lambda arrives=arrives: arrives)
        assert some.producer._limiter.exported <= (chosen.limits.max_series or 1000)
        if arrives:
            every.check(kernel.truth)
            of_rows = chosen.limits.max_series is None
            assert sums(some, chosen, of_rows=of_rows) == sums(every, chosen, of_rows=of_rows)
    attributes = [dict(pairs) for receiver in (every, some) for _, *pairs in receiver._streams]
    assert has_databases or not any(PLACE_KEYS & pairs.keys() for pairs in attributes)
    check_that_series_end(kernel, [every, some])


def check_that_series_end(kernel: Kernel, receivers: list[Receiver]) -> None:
    """Retire all subnets. Check that no series and no details are left."""
    kernel.retire_all()
    for _ in range(4):
        for receiver in receivers:
            assert receiver.export()
    for receiver in receivers:
        limiter = receiver.producer._limiter
        for projected in limiter._projected:
            assert not projected.registry.numbers
        limiter._series_keys.details._limit = 0
        assert receiver.export()
        assert len(limiter._series_keys.details) == 1
