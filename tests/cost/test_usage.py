# SPDX-License-Identifier: Apache-2.0
"""Compares two counts of the points of the same readings: the count of `cost`, and a count of a producer's points.

The readings are made by SyntheticKernel. So the tests need no root.
"""

import random
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics.export import ScopeMetrics

from otel_epping.cost import usage
from otel_epping.cost.counting_exporter import CountingExporter
from otel_epping.cost.export import Export, MetricUsage
from otel_epping.cost.measure import networks
from otel_epping.cost.suggestions import candidates, suggestions
from otel_epping.cost.vendor_units import vendor_units
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.explicit_buckets import to_explicit
from otel_epping.otel.export_settings import ExportSettings, network_keys
from otel_epping.otel.metric import AGENT, GROUPS
from otel_epping.otel.metric_selection import ALL, CORE, MetricSelection, attributes_of
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.grouping import Grouping
from otel_epping.series.limits import Limits
from tests.support.names import FakeDatabases
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

OTHER_KEYS = {key for metric in metric_table.METRICS for key in metric.keys} - {*metric_table.NETWORK_KEYS}
LIMITS = Limits(max_series=6, roll_up=True)
COMPLETE = ExportSettings(MetricSelection((ALL,)), LIMITS)
SELECTIONS = [
    MetricSelection((ALL,)),
    MetricSelection((CORE,)),
    MetricSelection(("rtt",)),
    MetricSelection(("rtt", "flows"), {"rtt": ("subnet", "side")}),
    MetricSelection((ALL,), {"traffic": ("side", "direction", "traffic_class"), "rtt": ("side", "method")}),
]
NETWORK_KEYS = {*metric_table.NETWORK_KEYS}
DATABASES: Any = FakeDatabases()
PLACES = Grouping(databases=DATABASES)
# The attributes that the series of the synthetic subnets can have.
PRESENT = {
    ("subnet", False): {semconv.SUBNET, semconv.NETWORK_TYPE},
    ("subnet", True): NETWORK_KEYS - {semconv.NETWORK_NAME, semconv.NETWORK_TAG},
    ("name", False): set[str](),
}
PRESENT = {group: keys | OTHER_KEYS for group, keys in PRESENT.items()}
# Metrics of the exporting process. The SDK collects these metrics, so a producer does not export them.
INSTRUMENTS = {
    agent_metrics.READ_DURATION.name,
    agent_metrics.EXPORT_DURATION.name,
    agent_metrics.EXPORT_FAILED.name,
    agent_metrics.EXPORT_REJECTED.name,
    agent_metrics.FLOW_EVICTED.name,
    agent_metrics.MEMORY_USAGE.name,
}


class Bench:
    """A kernel with random traffic of 14 subnets, of which 4 never answer. Call run() after all calls of exporter()."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kernel = SyntheticKernel(EppingConfig(max_subnets=20, scale=2), rows=24, histograms=60, newcomers=6)
        collector = cast(Any, SyntheticCollector(self._kernel))
        collector.attachments.counts = {}
        collector.run_stats = dict
        self.collector = cast(EppingCollector, collector)

    def exporter(self, settings: ExportSettings) -> CountingExporter:
        return CountingExporter(self.collector, settings)

    def run(self) -> None:
        for _ in range(400):
            subnet = self._random.randrange(14)
            self._kernel.packet(subnet, self._random.randrange(40, 1500))
            if subnet < 10 and self._random.random() < 0.3:
                self._kernel.rtt(subnet, self._random.randrange(6), self._random.randrange(10**5, 10**9))


def points_of(scope: ScopeMetrics) -> Counter[str]:
    """Return the number of data points of each metric."""
    return Counter({metric.name: len(metric.data.data_points) for metric in scope.metrics})


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_the_points_of_a_producer(selection: MetricSelection, seed: int) -> None:
    bench = Bench(seed)
    exporter = bench.exporter(ExportSettings(selection, LIMITS))
    producer = EppingMetricProducer(bench.collector, settings=ExportSettings(selection, LIMITS))
    bench.run()
    export, scope = exporter.export(), producer.produce()
    counted = Counter({name: metric.points for name, metric in export.metrics.items() if name not in INSTRUMENTS})
    assert counted == points_of(scope)
    for metric in scope.metrics:
        points = [frozenset((point.attributes or {}).items()) for point in metric.data.data_points]
        assert export.metrics[metric.name].values.keys() == set(points)
        assert len(set(points)) == len(points)
        if metric.name == metric_table.RTT.name:
            rtts = [cast(Any, point) for point in metric.data.data_points]
            assert export.histograms == len(rtts)
            assert export.buckets == sum(1 for rtt in rtts for count in rtt.positive.bucket_counts if count)
    assert export.points == export.series
    assert 0 < export.gzip_bytes < export.encoded_bytes
    # Each request also has a resource and a scope.
    rest = export.encoded_bytes - sum(metric.encoded_bytes for metric in export.metrics.values())
    assert 0 < rest < 700 * export.requests


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("grouping", [Grouping(), PLACES, Grouping("name")], ids=["subnets", "places", "name"])
def test_each_attribute_saves_the_series_that_an_exporter_without_it_does_not_export(
    selection: MetricSelection, grouping: Grouping
) -> None:
    """The number of saved series is computed from a complete export, and compared with a real exporter."""
    if grouping.group_by == "name":
        selection = replace(selection, attributes={})
    bench = Bench(4)
    settings = ExportSettings(selection, LIMITS, grouping)
    chosen, complete = bench.exporter(settings), bench.exporter(replace(settings, selection=COMPLETE.selection))
    without = {}
    for group in GROUPS:
        metrics = {metric: keys for metric, keys in selection.exported.items() if metric.group == group}
        known = attributes_of(group)
        kept = {name for name, key in known.items() if any(key in keys for keys in metrics.values())}
        for name in (name for name in kept if metrics and not semconv.ATTRIBUTES[known[name]].needed):
            impossible = {each for each in kept if known[each] in NETWORK_KEYS - network_keys(grouping.group_by)}
            attributes = {**selection.attributes, group: tuple(kept - impossible - {name})}
            changed = MetricSelection(selection.metrics, attributes)
            if known[name] in PRESENT[grouping.group_by, grouping.databases is not None]:
                without[group, name] = bench.exporter(replace(settings, selection=changed))
    bench.run()
    now, all_ = chosen.export(), complete.export()
    found = {(each.group, each.name): each for each in usage.attributes(selection, all_)}
    for (group, name), exporter in without.items():
        assert exporter.export().series == now.series - found[group, name].saves, (group, name)
    assert any(each.saves for each in found.values())
    assert {name for _, name in found} & {semconv.ATTRIBUTES[key].short for key in NETWORK_KEYS} <= {
        semconv.ATTRIBUTES[key].short for key in PRESENT[grouping.group_by, grouping.databases is not None]
    }
    if CORE in selection.metrics and not selection.attributes:
        assert found["traffic", "traffic_class"].saves == 0
        assert set(found) - set(without) == {("traffic", "traffic_class")}


def test_a_tag_is_one_attribute() -> None:
    metric = metric_table.OPENED
    series = {
        frozenset(
            {(semconv.NETWORK_NAME, name), (f"{semconv.NETWORK_TAG}.site", site), (semconv.SIDE, "external")}
        ): 1.0
        for name, site in (("miller", "north"), ("smith", "north"), ("jones", "south"))
    }
    complete = Export({metric.name: MetricUsage(values=dict(series), points=len(series))})
    found = {each.name: each for each in usage.attributes(MetricSelection(("flows",)), complete)}
    assert {name for name in found if name in ("name", "tag", "subnet")} == {"name", "tag"}
    assert (found["name"].saves, found["tag"].saves) == (1, 0)


def test_groups_add_up_to_the_export_and_what_is_missing_to_the_complete_export() -> None:
    bench = Bench(5)
    chosen, complete = (
        bench.exporter(ExportSettings(selection, LIMITS))
        for selection in (MetricSelection((CORE,)), COMPLETE.selection)
    )
    bench.run()
    now, all_ = chosen.export(), complete.export()
    groups = list(usage.groups(now, all_))
    assert [each.group for each in groups] == list(GROUPS)
    assert sum(each.points for each in groups) == now.points
    assert sum(each.points + each.more_points for each in groups) == all_.points
    assert sum(each.bytes for each in groups) == sum(each.encoded_bytes for each in now.metrics.values())
    assert all(each.more_points >= 0 for each in groups)
    assert next(each for each in groups if each.group == "traffic").more_bytes > 0


def test_networks() -> None:
    bench = Bench(6)
    exporter = bench.exporter(COMPLETE)
    bench.run()
    found = networks(exporter.export(), bench.collector.config)
    assert found.answered == 10
    assert found.individual + found.covering <= 6
    assert found.covering > 0
    assert found.individual + found.rolled_up + found.overflowed == 10


def test_vendor_units() -> None:
    """An RTT histogram is counted as several units, and any other series is counted as one unit."""
    bench = Bench(7)
    exporter = bench.exporter(COMPLETE)
    producer = EppingMetricProducer(bench.collector, settings=COMPLETE)
    bench.run()
    export = exporter.export()
    units = vendor_units(export, 30.0, scale=2)
    numbers = export.series - export.histograms
    assert export.histograms > 0
    assert units.points_per_minute == 2 * export.points
    assert units.points_per_month == 30 * 24 * 60 * 2 * export.points
    assert units.bytes_per_month == 30 * 24 * 60 * 2 * export.encoded_bytes
    assert units.active_series == export.series
    assert units.custom_metrics == numbers + 5 * export.histograms
    assert units.custom_metrics_with_percentiles == numbers + 10 * export.histograms
    (rtts,) = (each for each in to_explicit(producer.produce(), 2).metrics if each.name == metric_table.RTT.name)
    classic = sum(len(cast(Any, point).bucket_counts) + 2 for point in rtts.data.data_points)  # and count and sum
    assert units.classic_series == numbers + classic


def test_suggestions_help_and_are_sorted() -> None:
    bench = Bench(8)
    settings = replace(COMPLETE, limits=Limits(max_series=20))
    chosen = bench.exporter(settings)
    tried = [(each.options, bench.exporter(each.settings)) for each in candidates(settings, has_names=False)]
    bench.run()
    now, exports = chosen.export(), [(options, exporter.export()) for options, exporter in tried]
    found = suggestions(now, exports, 60.0)
    assert {"--metrics rtt", "--metrics core", "--interval 5m", "--attributes rtt=subnet,side"} <= {
        each.options for each in found
    }
    assert found == sorted(found, key=lambda each: (each.points_per_minute, each.bytes_per_minute))
    for each in found:
        assert each.points_per_minute < 0.95 * now.points or each.bytes_per_minute < 0.95 * now.encoded_bytes
    # Settings that change nothing are not suggested.
    assert suggestions(now, [("--nothing", now)], 300.0) == []
    assert suggestions(Export(), [], 60.0) == []


def test_no_candidate_exports_what_is_exported_already() -> None:
    settings = ExportSettings(MetricSelection(("rtt",), {"rtt": ("subnet", "side")}), Limits(max_series=50))
    assert [each.options for each in candidates(settings, has_names=False)] == ["--max-series 10"]
    settings = ExportSettings(MetricSelection((CORE,)), Limits(max_series=None, roll_up=False))
    options = [each.options for each in candidates(settings, has_names=False)]
    assert "--metrics core" not in options
    assert "--max-series 1000" in options
    assert f"--attributes {AGENT}=interface,direction" not in options
    # `core` does not contain the group ecn. So the suggestion leaves out the attributes of this group.
    attributes = {"ecn": ("side", "direction", "ecn"), "rtt": ("subnet", "side")}
    found = candidates(ExportSettings(MetricSelection((ALL,), attributes), LIMITS), has_names=False)
    kept = {each.options: each.settings.selection.attributes for each in found if "--metrics" in each.options}
    assert kept == {
        f"--metrics {name} --attributes rtt=subnet,side": {"rtt": ("subnet", "side")} for name in (CORE, "rtt")
    }
