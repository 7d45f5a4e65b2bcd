# SPDX-License-Identifier: Apache-2.0
"""Tests the selection of metrics and attributes: presets, refusals, and what is exported over OTLP and by a reader."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from otel_epping.errors import EppingError
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.install import attach, install
from otel_epping.otel.metric import AGENT, GROUPS
from otel_epping.otel.metric_selection import ALL, CORE, SELECTIONS, MetricSelection, attributes_of
from otel_epping.otel.metric_table import METRICS
from otel_epping.series.limits import Limits
from tests.otel.test_self_metrics import bpf_stats
from tests.support.metrics import ALL_METRICS
from tests.support.prog_test_run import Bench
from tests.support.recorder import exporter

pytestmark = pytest.mark.parallel

AGGREGATES = {*semconv.AGGREGATES}
# The instruments of the SDK belong to the application's provider (test_self_metrics.py).
BY_SDK = METRICS[METRICS.index(agent_metrics.READ_DURATION) :]


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


NAMES = {*metric_table.NETWORK_KEYS} - {semconv.SUBNET, semconv.NETWORK_TYPE}


def exported(bench: Bench, sink: Sink, selection: MetricSelection) -> dict[str, set[frozenset[str]]]:
    """Export once. For each metric, return the sets of attributes that its points have, except aggregates."""
    provider = MeterProvider(shutdown_on_exit=False)
    with bpf_stats():
        bench.flow().begun()  # the kernel counts this run of the program
        reader = install(provider, exporter(sink), bench.collector, 60, ExportSettings(selection, Limits(None)))
        reader.force_flush()
        reader.shutdown()
    found: dict[str, set[frozenset[str]]] = {}
    for _, metric in sink.metrics():
        for point in sink.points(metric.name):
            if not AGGREGATES & point.attributes.keys():
                found.setdefault(metric.name, set()).add(frozenset(point.attributes))
    return found


def expected(selection: MetricSelection) -> dict[str, set[frozenset[str]]]:
    """Return the attributes of the points of subnets. A subnet has no name, and there is no database."""
    keys_of = {metric: frozenset(keys) - NAMES for metric, keys in selection.exported.items()}
    return {metric.name: {keys} for metric, keys in keys_of.items() if metric not in BY_SDK}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_group_alone_is_exported_as_in_the_table(full: Bench, sink: Sink, name: str) -> None:
    selection = MetricSelection((name,))
    found = exported(full, sink, selection)
    assert {name: found[name] for name in found if name in expected(selection)} == expected(selection)
    others = {metric.name for metric in METRICS if metric not in selection.exported}
    assert not others & found.keys()


@pytest.mark.parametrize("group", GROUPS)
def test_the_fewest_attributes_of_a_group(full: Bench, sink: Sink, group: str) -> None:
    needed = tuple(name for name, key in attributes_of(group).items() if semconv.ATTRIBUTES[key].needed)
    selection = MetricSelection((group,), {group: needed})
    found = exported(full, sink, selection)
    assert {name: found[name] for name in found if name in expected(selection)} == expected(selection)


def totals(sink: Sink) -> dict[tuple[str, Any], int]:
    """For each metric of subnets, add up the values of the points with the same direction."""
    found: dict[tuple[str, Any], int] = {}
    for metric in METRICS:
        if semconv.SUBNET in metric.keys:
            for point in sink.points(metric.name):
                value = point.point.count if metric is metric_table.RTT else point.point.as_int
                key = metric.name, point.attributes.get(semconv.SUBNET_DIRECTION)
                found[key] = found.get(key, 0) + int(value)
    return found


def test_core_has_the_totals_of_all(full: Bench) -> None:
    with Sink() as some, Sink() as every:
        for sink, selection in ((some, MetricSelection()), (every, ALL_METRICS)):
            settings = ExportSettings(selection, Limits(None))
            reader = install(MeterProvider(shutdown_on_exit=False), exporter(sink), full.collector, 60, settings)
            reader.force_flush()
            reader.shutdown()
        core, rest = totals(some), totals(every)
        assert core == {key: value for key, value in rest.items() if key in core}
        assert {name for name, _ in core} == {
            metric.name for metric in MetricSelection().exported if semconv.SUBNET in metric.keys
        }
        assert len(some.points(metric_table.SUBNET_BYTES.name)) < len(every.points(metric_table.SUBNET_BYTES.name))


def test_an_attached_reader_follows_the_selection(full: Bench) -> None:
    reader = InMemoryMetricReader()
    selection = MetricSelection(("rtt", "interface"), {"rtt": ("side",)})
    attach(reader, full.collector, Resource({}), ExportSettings(selection))
    data = reader.get_metrics_data()
    assert data
    (scope,) = data.resource_metrics[0].scope_metrics
    assert {metric.name for metric in scope.metrics} == expected(selection).keys()
    (rtts,) = (metric for metric in scope.metrics if metric.name == metric_table.RTT.name)
    keys = [set(point.attributes or {}) for point in rtts.data.data_points]
    assert keys
    assert all(each in ({semconv.SIDE}, {semconv.OVERFLOW}) for each in keys)


@pytest.mark.parametrize("group", GROUPS)
def test_the_instruments_of_the_sdk_belong_to_the_group_agent(full: Bench, sink: Sink, group: str) -> None:
    theirs = InMemoryMetricReader()
    provider = MeterProvider([theirs], shutdown_on_exit=False)
    reader = install(provider, exporter(sink), full.collector, 60, ExportSettings(MetricSelection((group,))))
    data = theirs.get_metrics_data()
    assert (data is not None) == (group == AGENT)
    if data:
        (scope,) = data.resource_metrics[0].scope_metrics
        assert {metric.name for metric in scope.metrics} <= {metric.name for metric in BY_SDK}
    reader.shutdown()
    assert sink.requests


@pytest.mark.unit
def test_core_leaves_out_what_it_says() -> None:
    core, every = MetricSelection().exported, ALL_METRICS.exported
    assert every == {metric: metric.keys for metric in METRICS}
    assert {metric.name for metric in every.keys() - core.keys()} == {
        metric_table.SUBNET_ECN.name,
        metric_table.ECN_PACKETS.name,
        metric_table.OUT_OF_ORDER.name,
        metric_table.ZERO_WINDOW.name,
    }
    assert {metric for metric in core if core[metric] != metric.keys} == {
        metric_table.SUBNET_PACKETS,
        metric_table.SUBNET_BYTES,
    }


@pytest.mark.unit
def test_selections_can_be_combined() -> None:
    combined = MetricSelection((CORE, "traffic")).exported
    assert combined == MetricSelection().exported | MetricSelection(("traffic",)).exported
    assert MetricSelection((CORE, ALL)).exported == ALL_METRICS.exported
    assert MetricSelection(("tcp",), {"tcp": ("side", "direction")}).exported[metric_table.ZERO_WINDOW] == (
        semconv.SIDE,
        semconv.SUBNET_DIRECTION,
    )


@pytest.mark.unit
def test_each_metric_has_a_group_and_each_attribute_a_short_name() -> None:
    assert {metric.group for metric in METRICS} == {*GROUPS}
    assert {metric.group for metric in METRICS if ".agent." in metric.name} == {AGENT}
    for group in GROUPS:
        keys = {key for metric in METRICS if metric.group == group for key in metric.keys}
        assert {*attributes_of(group).values()} == keys, "no short name is used twice in a group"
        assert all(attributes_of(group))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("metrics", "attributes", "message"),
    [
        (("rtts",), {}, "there is no group of metrics 'rtts': choose among rtt, traffic, "),
        ((), {}, "no metric is exported: choose among rtt"),
        ((ALL,), {"core": ("side",)}, "there is no group of metrics 'core'"),
        ((ALL,), {"rtt": ("side", "kind")}, "there is no attribute in group rtt 'kind': choose among subnet, "),
        ((ALL,), {"rtt": ("subnet",)}, "the attribute side cannot be left out of group rtt: round-trip times to"),
        ((ALL,), {"traffic": ("side",)}, "the attribute direction cannot be left out of group traffic: each packet"),
        ((ALL,), {"ecn": ("side", "direction")}, "the attribute ecn cannot be left out of group ecn: the shares"),
        (("core",), {"ecn": ("side", "direction", "ecn")}, "attributes are selected for group ecn, but metrics does"),
    ],
)
def test_refusals(metrics: tuple[str, ...], attributes: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(EppingError) as refused:
        MetricSelection(metrics, attributes)
    assert str(refused.value).startswith(message)


NEEDED = ("side", "direction", "ecn", "outcome", "event", "bound", "map", "reverse")


@pytest.mark.unit
def test_only_attributes_that_distinguish_parts_of_one_sum_may_be_left_out() -> None:
    assert {each.short for each in semconv.ATTRIBUTES.values() if each.needed} == {*NEEDED}
