# SPDX-License-Identifier: Apache-2.0
"""Tests that the series of named networks and groups are exact sums, for random groupings and readings.

Two producers get the same readings of a synthetic kernel. In the first, a series stands for a subnet or a named
network, with all attributes. The second has a random grouping. Names and databases change, exports fail, and slots are
reclaimed.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.errors import EppingError
from otel_epping.kernel.reading import FAMILY_NAMED, SHARED_SLOTS, Reading
from otel_epping.networks.network import Network, Networks
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings, network_keys
from otel_epping.otel.metric import RTTS, TRAFFIC
from otel_epping.otel.metric_selection import ALL, MetricSelection, attributes_of
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.details import DetailsNumbers
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET, Grouping
from otel_epping.series.limits import Limits
from tests.series import test_projection
from tests.series.test_projection import AGGREGATES, BY_NAME, selections
from tests.support.many_subnets import Receiver, address_of, network_of
from tests.support.metrics import ALL_METRICS
from tests.support.names import PLACES, FakeDatabases, networks_of
from tests.support.synthetic_kernel import SyntheticCollector

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
SUBNETS = test_projection.SUBNETS
FIRST_NAMED = 6  # the first subnet that can be part of a named network
TAGS = ("site", "plan")
NETWORKS = (
    Network("miller", (("site", "berlin"), ("plan", "100"))),
    Network("miller", (("site", "berlin"), ("plan", "50"))),  # differs only in a tag that is not always exported
    Network("smith", (("site", "berlin"),)),
    Network("jones", (("plan", "100"),)),
    Network("brown"),
)
# The attributes that say what a series stands for. A point has some of these attributes.
NETWORK_KEYS = {*metric_table.NETWORK_KEYS} - {semconv.NETWORK_TAG}
PLACE_KEYS = {semconv.AS_NUMBER, semconv.AS_ORGANIZATION, semconv.COUNTRY}


@pytest.fixture(scope="module", autouse=True)
def free_details_at_each_reading() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetailsNumbers, "is_crowded", True)
        yield


class Kernel(test_projection.Kernel):
    """A kernel in which subnets are part of named networks. Each of these subnets has a slot of its own.

    name_of   the network of each subnet that is part of a named network
    prefixes  the network of each prefix that nameless readers see
    nameless  the readers that see each slot of a named network as a slot of a subnet. The subnet has another prefix
              after each change of names
    """

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: dict[str, Network] = {}
        self.nameless: list[Any] = []
        self._keys: dict[int, Any] = {}
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
        is_new = subnet not in self.by_subnet
        row = super()._claim(subnet, answered)
        if row >= SHARED_SLOTS and subnet in self.name_of:
            if is_new:
                number = max(number for number, name in self.numbers.items() if name == self.name_of[subnet])
                prefix = ipaddress.IPv6Network((0x20010DB9 << 96 | len(self.prefixes) << 80, 48))
                self.prefixes[str(prefix)] = self.name_of[subnet]
                self._keys[row] = number, np.frombuffer(prefix.network_address.packed, "u8")
            key = self.slots["key"]
            key["family"][row], key["prefix"]["half"][row] = FAMILY_NAMED, [self._keys[row][0], 0]
        return row

    def read(self, reader: Any) -> Reading:
        reading = replace(super().read(reader), networks=dict(self.numbers))
        if reader in self.nameless:
            for row in np.flatnonzero((reading.slots["key"]["family"] == FAMILY_NAMED) & (reading.created_ns != 0)):
                key = reading.slots["key"][row]
                key["family"], key["prefix"]["half"] = 6, self._keys[int(row)][1]
        return reading


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


def expected(receiver: Receiver, settings: ExportSettings) -> dict[Any, Counter[Any]]:
    """Add up the points of a receiver that belong to the same group, and that differ only in attributes that the
    settings leave out."""
    found: dict[Any, Counter[Any]] = {}
    for (name, *attributes), stream in receiver._streams.items():
        kept = AGGREGATES | {*settings.selection.exported[BY_NAME[name]]}
        pairs = grouped(dict(attributes), settings.grouping).items()
        key = name, *sorted((key, value) for key, value in pairs if template_of(key) in kept)
        found.setdefault(key, Counter()).update(stream.total())
    return found


def totals(points: dict[Any, Counter[Any]]) -> dict[str, Counter[Any]]:
    """Add up all points of each metric."""
    found: dict[str, Counter[Any]] = {}
    for (name, *_), value in points.items():
        found.setdefault(name, Counter()).update(value)
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


@settings(deadline=None, max_examples=settings().max_examples * 3 // 2)
@given(STEPS, export_settings(), st.sampled_from([CUMULATIVE, DELTA]))
def test_groups_are_sums_of_subnets_and_named_networks(
    steps: Any, export: tuple[ExportSettings, FakeDatabases], temporality: AggregationTemporality
) -> None:
    (chosen, databases), kernel = export, Kernel()
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
            found = {key: stream.total() for key, stream in some._streams.items()}
            if chosen.limits.max_series is None:
                assert found == expected(every, chosen)
            else:  # each producer may export different subnets individually
                assert totals(found) == totals(expected(every, chosen))
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
        assert receiver.export()
        assert len(limiter._series_keys.details) == 1


def renamed(attributes: dict[str, Any], tags: tuple[str, ...], prefixes: dict[str, Network]) -> dict[str, Any]:
    """Return the attributes of the named network to which the series of a subnet belongs."""
    network = prefixes.get(attributes.get(semconv.SUBNET, ""))
    if network is None:
        return attributes
    others = {key: value for key, value in attributes.items() if key not in (semconv.SUBNET, semconv.NETWORK_TYPE)}
    exported = {f"{semconv.NETWORK_TAG}.{tag}": value for tag, value in network.tags if tag in tags}
    return others | {semconv.NETWORK_NAME: network.name} | exported


@settings(deadline=None, max_examples=settings().max_examples * 3 // 2)
@given(STEPS, st.sampled_from([(), ("site",), TAGS]), st.sampled_from([CUMULATIVE, DELTA]))
def test_a_named_network_is_the_sum_of_its_prefixes(
    steps: Any, tags: tuple[str, ...], temporality: AggregationTemporality
) -> None:
    """Two producers get the same readings. The readings of the second have the prefixes of named networks."""
    kernel = Kernel()
    collector: Any = SyntheticCollector(kernel)
    limits = Limits(max_series=None)
    with_names = ExportSettings(ALL_METRICS, limits, Grouping(tags=tags))
    named = Receiver(EppingMetricProducer(collector, temporality, with_names))
    nameless = Receiver(EppingMetricProducer(collector, temporality, ExportSettings(ALL_METRICS, limits)))
    kernel.nameless.append(kernel.readers[-1])
    for events, arrives in [*steps, ([], True)]:
        for name, *arguments in events:
            if name != "replace_databases":
                getattr(kernel, name)(*arguments)
        collector.networks = kernel.networks
        for receiver in (named, nameless):
            receiver.export(lambda arrives=arrives: arrives)
        if arrives:
            expected: dict[Any, Counter[Any]] = {}
            for (metric, *pairs), stream in nameless._streams.items():
                key = metric, *sorted(renamed(dict(pairs), tags, kernel.prefixes).items())
                expected.setdefault(key, Counter()).update(stream.total())
            assert {key: stream.total() for key, stream in named._streams.items()} == expected
    check_that_series_end(kernel, [named, nameless])


# ---- single cases

RTT = metric_table.RTT.name
WHAT = {*metric_table.NETWORK_KEYS, *semconv.AGGREGATES} - {semconv.NETWORK_TYPE}


def receiver_of(kernel: Kernel, grouping: Grouping, limits: Limits | None = None) -> Receiver:
    collector: Any = SyntheticCollector(kernel)
    collector.networks = kernel.networks
    export = ExportSettings(limits=limits or Limits(), grouping=grouping)
    return Receiver(EppingMetricProducer(collector, CUMULATIVE, export))


def rtts(receiver: Receiver, *, arrives: bool = True) -> dict[frozenset[Any], int]:
    """Export. Return the number of RTTs in this export by the values that say what a series stands for."""
    found: Counter[frozenset[Any]] = Counter()
    receiver.producer.read()
    for batch in receiver.producer.batches():
        for metric in receiver.producer.metrics(batch).metrics:
            points: Any = metric.data.data_points if metric.name == RTT else ()
            for point in points:
                pairs = (point.attributes or {}).items()
                found[frozenset(value for key, value in pairs if template_of(key) in WHAT)] += point.count
        if arrives:
            receiver.producer.acknowledge(batch)
    return dict(found)


def place_of(subnet: int, generation: int) -> set[Any]:
    return {each for each in PLACES[sum(address_of(subnet)[:3]) * (1 + generation) % len(PLACES)] if each}


def test_a_subnet_gets_another_series_when_its_place_changes() -> None:
    kernel, databases = Kernel(), FakeDatabases()
    chosen: Any = databases
    receiver = receiver_of(kernel, Grouping(databases=chosen))
    subnet = str(network_of(1))
    first, second = ({subnet, *place_of(1, generation)} for generation in (0, 1))
    assert len(first) == len(second) == 4
    kernel.rtt(1, 0, 10**6)
    assert rtts(receiver) == {frozenset(first): 1}
    databases.generation = 1
    kernel.rtt(1, 0, 10**6)
    assert rtts(receiver, arrives=False) == {frozenset(second): 1}, "all counts of the old series were delivered"
    databases.generation = 0
    kernel.rtt(1, 0, 10**6)
    assert rtts(receiver) == {frozenset(first): 1, frozenset(second): 1}, "the old series waits for its delivery"
    assert rtts(receiver) == {frozenset(first): 1}


def test_a_removed_network_keeps_its_place_until_its_last_counts_are_exported() -> None:
    kernel = Kernel()
    databases: Any = FakeDatabases()
    receiver = receiver_of(kernel, Grouping(databases=databases))
    collector: Any = receiver.producer._collector
    kernel.rtt(9, 0, 10**6)
    (before,) = rtts(receiver)
    assert before > {"brown"}
    kernel.rtt(9, 0, 10**6)
    kernel.rename(9, None)
    kernel.rename(14, None)  # the other subnet of the network
    collector.networks = kernel.networks
    assert rtts(receiver) == {before: 2}


def test_networks_and_groups_beyond_the_limit_are_on_the_overflow_point() -> None:
    kernel = Kernel()
    receiver = receiver_of(kernel, Grouping(), Limits(max_series=8, roll_up=True))
    for subnet in range(SUBNETS):
        kernel.rtt(subnet, 0, 10**6)
    found = rtts(receiver)
    assert sum(found.values()) == SUBNETS
    assert len(found) <= 8 + 1
    texts = {text for values in found for text in values}
    assert any(str(text).endswith(("/16", "/8", "/0", "/32")) for text in texts)
    assert found[frozenset({True})] > 0
    sites = receiver_of(kernel, Grouping("site"), Limits(max_series=1, roll_up=True))
    for _ in range(20):
        kernel.rtt(7, 0, 10**6)
    found = rtts(sites)
    assert found.keys() == {frozenset({"berlin"}), frozenset({True})}
    assert sum(found.values()) == SUBNETS + 20


def test_details_that_are_no_longer_used_are_freed() -> None:
    """There are 1,000 changes of all names."""
    kernel = Kernel()
    receiver = receiver_of(kernel, Grouping(tags=TAGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetailsNumbers, "is_crowded", property(lambda self: len(self) > self._limit))
        for change in range(1000):
            name = Network(f"name {change}", (("site", f"site {change}"),))
            kernel.retire(8)
            kernel.numbers = {change + 1: name}
            kernel.name_of[8] = name
            kernel.rtt(8, 0, 10**6)
            assert frozenset((*name.tags[0][1:], name.name)) in rtts(receiver)
    numbers = receiver.producer._limiter._series_keys.details
    numbers.keep(receiver.producer._limiter._placement.details())
    assert len(numbers) <= 3
    assert len(numbers._details) <= 1030


@pytest.mark.parametrize("group_by", [ASN, COUNTRY])
def test_groups_of_places_need_a_database(group_by: str) -> None:
    with pytest.raises(EppingError, match=f"group_by is {group_by}, but there is no database"):
        Grouping(group_by)


@pytest.mark.parametrize(
    ("group_by", "attribute", "others"),
    [
        ("site", "subnet", "tag, interface, side, direction"),
        (NAME, "network_type", "name, tag, asn, organization, country, interface, side, direction"),
        (ASN, "country", "asn, organization, interface, side, direction"),
        (COUNTRY, "name", "country, interface, side, direction"),
    ],
)
def test_an_attribute_that_no_series_has_is_an_error(group_by: str, attribute: str, others: str) -> None:
    databases: Any = FakeDatabases()
    selection = MetricSelection((TRAFFIC,), {TRAFFIC: ("side", "direction", attribute)})
    with pytest.raises(EppingError, match=f"the attribute {attribute} .* grouped by {group_by}: choose among {others}"):
        ExportSettings(selection, grouping=Grouping(group_by, (), databases))
