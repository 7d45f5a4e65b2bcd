# SPDX-License-Identifier: Apache-2.0
"""Builds the metrics of interfaces: the kernel program's counters of each interface, and the states of interfaces."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, NumberDataPoint

from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.reading import Gone, Reading
from otel_epping.otel import metric_table, sdk_points, semconv
from otel_epping.otel.columns import Columns, Labels
from otel_epping.otel.counters import INTERFACE_COUNTERS
from otel_epping.otel.metric import Metric as TableMetric
from otel_epping.otel.metric_selection import Exported
from otel_epping.series.interface_tracker import ALL_INTERFACES, InterfaceTracker


def current_values(
    exported: Exported,
    metric: TableMetric,
    values: Iterable[tuple[tuple[str, ...], int]],
    start_ns: int,
    time_ns: int,
) -> Iterator[Metric]:
    """Yields a metric of current values. Yields nothing if the metric is not exported, or if `values` is empty.

    Each element of `values` contains the values of all attributes, and the value of one data point. Points that differ
    only in attributes that are not exported are added up. Sums that are not monotonic are always cumulative, even if
    the preferred temporality is delta (specification, "OTLP metrics exporter").
    """
    if metric not in exported:
        return
    sums: dict[tuple[tuple[str, str], ...], int] = {}
    for labels, value in values:
        kept = tuple((key, label) for key, label in zip(metric.keys, labels, strict=True) if key in exported[metric])
        sums[kept] = sums.get(kept, 0) + value
    if sums:
        made = [NumberDataPoint(dict(labels), start_ns, time_ns, value) for labels, value in sums.items()]
        yield sdk_points.sum_metric(metric, made, AggregationTemporality.CUMULATIVE, is_monotonic=False)


class InterfaceMetrics:
    """The metrics of all interfaces, for one exporter.

    exported  the exported metrics, and the attributes of each metric
    tracker   the counts that the exporter still has to deliver
    """

    def __init__(
        self,
        collector: EppingCollector,
        exported: Exported,
        counters: np.dtype[Any],
        temporality: AggregationTemporality,
    ) -> None:
        self._collector = collector
        self._exported = exported
        self._temporality = temporality
        self._columns = Columns(INTERFACE_COUNTERS, counters, exported)
        self._time_ns = self._started_ns = collector.started_ns
        self.tracker = InterfaceTracker(
            delta=temporality is AggregationTemporality.DELTA,
            started_ns=collector.started_ns,
            counters=counters.itemsize // 8,
        )

    def update(self, reading: Reading) -> None:
        """Replaces the latest reading by a newer reading."""
        self.tracker.update(reading)
        self._time_ns = reading.time_ns

    def delivered(self, waiting: set[int]) -> frozenset[Gone]:
        """Returns the removed interfaces whose counts are all delivered (InterfaceTracker.delivered())."""
        return self.tracker.delivered(waiting)

    def metrics(self) -> Iterator[Metric]:
        """Yields the metrics of the latest reading."""
        yield from self._counters()
        yield from self._states()

    def _counters(self) -> Iterator[Metric]:
        pending, starts_ns = self.tracker.pending()
        sums = self._columns.sums.of(pending)
        points = list(zip(self.tracker.names.items(), sums, starts_ns.tolist(), strict=True))
        for metric, columns in self._columns.by_metric.items():
            has_name = semconv.INTERFACE in self._exported[metric]
            made: list[NumberDataPoint] = []
            for (identifier, name), counts, start_ns in points:
                if has_name != (identifier == ALL_INTERFACES):
                    of_name: Labels = {semconv.INTERFACE: name} if has_name else {}
                    attributes = [{**of_name, **labels} for labels in self._columns.labels]
                    made += sdk_points.number_points(attributes.__getitem__, columns, counts, start_ns, self._time_ns)
            if made:
                yield sdk_points.sum_metric(metric, made, self._temporality)

    def _states(self) -> Iterator[Metric]:
        """Yields the metrics that describe the current state of interfaces."""
        names = self.tracker.names
        attached = [((name,), int(now)) for name, now in self._collector.attachments.state().items()]
        unidirectional = [
            ((names[identifier], reverse), flows)
            for identifier, found in self._collector.directions.flows.items()
            if identifier in names
            for reverse, flows in zip(semconv.FLOW_REVERSES, found[1:], strict=True)
        ]
        kernel_packets = [
            ((name, direction), count)
            for name, counts in list(self._collector.attachments.kernel_packets.items())
            for direction, count in zip(semconv.IO_DIRECTIONS, counts, strict=True)
        ]
        for metric, values in (
            (metric_table.INTERFACE_ATTACHED, attached),
            (metric_table.INTERFACE_KERNEL_PACKETS, kernel_packets),
            (metric_table.UNIDIRECTIONAL, unidirectional),
        ):
            yield from current_values(self._exported, metric, values, self._started_ns, self._time_ns)
