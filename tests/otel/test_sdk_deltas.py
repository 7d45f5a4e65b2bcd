# SPDX-License-Identifier: Apache-2.0
"""Tests deltas of the SDK with a real provider. If an export of deltas fails, the deltas are exported again."""

from itertools import pairwise

import pytest
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData, NumberDataPoint

from otel_epping.otel import sdk_deltas
from otel_epping.otel.sdk_deltas import UndeliveredDeltas

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


class Receiver:
    """The totals that a receiver has for the counters of an application: (scope, metric, attributes) -> sum."""

    def __init__(self, temporality: AggregationTemporality) -> None:
        self.reader = InMemoryMetricReader({Counter: temporality})
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.undelivered = UndeliveredDeltas()
        self.sums: dict[tuple[str, str, str], float] = {}
        self.spans: dict[tuple[str, str, str], list[tuple[int | None, int]]] = {}

    def add(self, scope: str, name: str, amount: int, kind: str = "a") -> None:
        self.provider.get_meter(scope).create_counter(name).add(amount, {"kind": kind})

    def export(self, arrives: bool) -> None:
        data = self.reader.get_metrics_data()
        metrics = self.undelivered.add_to(data.resource_metrics if data else MetricsData([]).resource_metrics)
        if not arrives:
            return
        self.undelivered.acknowledge()
        for scope in metrics[0].scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    assert isinstance(point, NumberDataPoint)
                    key = (scope.scope.name, metric.name, str((point.attributes or {})["kind"]))
                    self.sums[key] = self.sums.get(key, 0) + point.value
                    self.spans.setdefault(key, []).append((point.start_time_unix_nano, point.time_unix_nano))


def test_deltas_are_complete_after_failures() -> None:
    """When an export succeeds, one counter and one scope have no new data. The earlier deltas of the counter and of the
    scope without new data still arrive."""
    receiver = Receiver(AggregationTemporality.DELTA)
    for arrives in (True, False, False, True, False, True):
        receiver.add("one", "orders", 1)
        receiver.add("one", "orders", 2, "b")
        if not arrives:
            receiver.add("one", "errors", 5)
            receiver.add("two", "rare", 7)
        receiver.export(arrives)
    assert receiver.sums == {
        ("one", "orders", "a"): 6,
        ("one", "orders", "b"): 12,
        ("one", "errors", "a"): 15,
        ("two", "rare", "a"): 21,
    }
    spans = receiver.spans["one", "orders", "a"]
    assert all(start is not None and end <= start for (_, end), (start, _) in pairwise(spans)), (
        "intervals do not overlap"
    )
    receiver.provider.shutdown()


def test_cumulative_counters_are_not_kept() -> None:
    receiver = Receiver(AggregationTemporality.CUMULATIVE)
    for arrives in (False, True):
        receiver.add("one", "orders", 1)
        receiver.export(arrives)
    assert receiver.sums == {("one", "orders", "a"): 2}
    receiver.provider.shutdown()


def test_the_number_of_kept_points_is_limited(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sdk_deltas, "_MAX_POINTS", 10)
    receiver = Receiver(AggregationTemporality.DELTA)
    for number in range(12):
        receiver.add("one", "orders", 1, str(number))
        receiver.export(arrives=False)
    assert "pending counts were dropped" in caplog.text
    receiver.provider.shutdown()
