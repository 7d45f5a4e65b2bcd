# SPDX-License-Identifier: Apache-2.0
"""Tests slices of a running collector. SyntheticKernel makes the readings of the collector."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality, ExponentialHistogramDataPoint

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line, split_attributes
from otel_epping.history.sources.live import LiveSource
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel import agent_metrics, metric_table
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric_selection import ALL, MetricSelection
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.series.test_synthetic import EVENT, apply
from tests.support.many_subnets import IO, PACKETS, RTT_NS, RTTS, network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

MS = 1_000_000
CONFIG = EppingConfig(max_subnets=8)


def start(rows: int = 12) -> tuple[SyntheticKernel, LiveSource, History]:
    kernel = SyntheticKernel(CONFIG, rows)
    history = History()
    collector: Any = SyntheticCollector(kernel)
    return kernel, LiveSource(collector, history.numbering), history


def test_a_slice_has_the_counts_since_the_previous_slice() -> None:
    kernel, source, history = start()
    kernel.packet(1, 101)
    kernel.rtt(1, 0, 5 * MS)
    history.add(source.take())
    kernel.rtt(1, 0, 7 * MS)
    kernel.rtt(1, 3, 9 * MS)
    kernel.packet(1, 100)
    history.add(source.take())
    line = history.numbering.lines.get(Line(subnet=str(network_of(1)), network_type="ipv4", side="external"))
    assert line is not None
    first, second = history.over_time()
    assert [each.rtts().counts[line] for each in (first, second, history.total())] == [1, 2, 3]
    io = [each.sum(metric_table.SUBNET_BYTES.name, direction="from") for each in (first, second, history.total())]
    assert [each[line] for each in io if each is not None] == [101, 0, 101]
    assert history.total().rtts(["icmp_echo"]).sum_ns[line] == 9 * MS
    assert history.total().rtts().min_ns[line] == 5 * MS
    assert history.total().methods == ["tcp_timestamp", "icmp_echo"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(EVENT, max_size=25), max_size=8))
def test_the_sum_of_all_slices_is_what_was_counted(steps: list[list[Any]]) -> None:
    kernel, source, history = start()
    history.add(source.take())
    for events in steps:
        apply(kernel, events, set())
        history.add(source.take())
    history.add(source.take())
    history.add(source.take())
    total = history.total()
    rtts = total.rtts()
    assert rtts.counts.sum() == kernel.truth[RTTS]
    assert rtts.sum_ns.sum() == kernel.truth[RTT_NS]
    packets, octets = total.sum(metric_table.SUBNET_PACKETS.name), total.sum(metric_table.SUBNET_BYTES.name)
    assert (0 if packets is None else packets.sum()) == kernel.truth[PACKETS]
    assert (0 if octets is None else octets.sum()) == kernel.truth[IO]
    kinds = {line.kind for line in history.lines}
    assert {OVERFLOW, UNANSWERED} <= kinds


def test_a_step_of_the_system_clock_does_not_lengthen_a_slice() -> None:
    kernel = SyntheticKernel(CONFIG)
    history = History()
    collector: Any = SyntheticCollector(kernel)
    elapsed_ns = iter(range(10**9, 100 * 10**9, 10**9))
    source = LiveSource(collector, history.numbering, elapsed_ns=lambda: next(elapsed_ns))
    for step_ns in (10**9, 10**9, 3_600 * 10**9, 10**9):
        kernel.now_ns += step_ns
        history.add(source.take())
    lengths_s = [round(total.seconds) for total in history.over_time()]
    assert lengths_s == [1, 1, 1, 1]
    assert round(history.total().seconds) == 4
    assert round((history.end_ns - history.begin_ns) / 1e9) == 3_603


def test_the_values_of_interfaces_and_of_the_agent() -> None:
    kernel, source, history = start()
    kernel.unanswered = 7
    history.add(source.take())
    kernel.unanswered = 3
    history.add(source.take())
    total = history.total()
    assert total.agent_sum(agent_metrics.SUBNET_UNANSWERED.name) == 3
    assert total.agent_sum(agent_metrics.SUBNET_LIMIT.name) == CONFIG.max_slots
    assert total.agent_sum(agent_metrics.FLOW_EVICTED.name) == 0
    assert total.agent_sum(metric_table.INTERFACE_PACKETS.name) is None


def test_a_slot_with_a_new_owner_has_another_line() -> None:
    kernel, source, history = start(rows=3)
    kernel.rtt(1, 0, 5 * MS)
    history.add(source.take())
    kernel.retire(1)
    history.add(source.take())
    kernel.rtt(2, 0, 7 * MS)
    history.add(source.take())
    history.add(source.take())
    counts = history.total().rtts().counts
    by_subnet = {line.subnet: int(count) for line, count in zip(history.lines, counts, strict=True) if line.subnet}
    assert by_subnet == {str(network_of(1)): 1, str(network_of(2)): 1}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(EVENT, max_size=25), min_size=1, max_size=6))
def test_a_history_has_the_counts_that_an_exporter_would_export(steps: list[list[Any]]) -> None:
    kernel, source, history = start()
    collector: Any = SyntheticCollector(kernel)
    export = ExportSettings(MetricSelection((ALL,)), Limits(max_series=None, roll_up=False))
    producer = EppingMetricProducer(collector, AggregationTemporality.DELTA, export)
    exported: Counter[tuple[Any, ...]] = Counter()
    for events in steps:
        apply(kernel, events, set())
        history.add(source.take())
        for metric in producer.produce().metrics:
            for point in metric.data.data_points:
                line, rest = split_attributes(point.attributes or {})
                if isinstance(point, ExponentialHistogramDataPoint):
                    exported[line, rest.get("epping.rtt.method", "")] += point.count
                elif metric.name in (metric_table.SUBNET_BYTES.name, metric_table.SUBNET_PACKETS.name):
                    exported[line, ColumnKey.of(metric.name, rest)] += int(point.value)  # type: ignore[union-attr]
    total = history.total()
    found: Counter[tuple[Any, ...]] = Counter()
    for number, line in enumerate(history.lines):
        for method in total.methods:
            found[line, method] += int(total.rtts([method]).counts[number])
        for column, key in enumerate(history.numbering.columns):
            if key.metric in (metric_table.SUBNET_BYTES.name, metric_table.SUBNET_PACKETS.name):
                found[line, key] += int(total.counters[column, number])
    assert +found == +exported
