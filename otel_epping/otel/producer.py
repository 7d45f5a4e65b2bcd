# SPDX-License-Identifier: Apache-2.0
"""The MetricProducer: what the kernel has counted, as OpenTelemetry metrics.

It has the shape of the specification's MetricProducer (metrics SDK, "MetricProducer"): produce() returns the metrics of
one instrumentation scope, and temporality is its own setting. The Python SDK has no such interface yet:
`install.py` and `pipeline.py` plug it in.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, NumberDataPoint, ScopeMetrics
from opentelemetry.util.types import Attributes

from otel_epping.kernel import buckets
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.reading import OVERFLOW_SLOT
from otel_epping.otel import metric_table, sdk_points, semconv
from otel_epping.otel.attributes import NO_LABELS, Columns, Labels, rtt_labels, subnet_labels
from otel_epping.otel.batch import Batch, CounterSeries, counter_series, rtt_series
from otel_epping.otel.counters import INTERFACE_COUNTERS, SUBNET_COUNTERS
from otel_epping.series.cardinality import CardinalityLimiter
from otel_epping.series.limits import Limits
from otel_epping.series.subnet import subnet_of
from otel_epping.series.temporality import Rows, TemporalityTracker, as_matrix

# A receiver takes 4 MiB by default (gRPC). The point of a counter has about 220 bytes, that of a histogram with 160
# buckets four times as many: a request of this weight stays under 1 MiB.
_REQUEST_WEIGHT = 4_000
_HISTOGRAM_WEIGHT = 4


class EppingMetricProducer:
    """Turns the readings of a collector into metrics, for one exporter.

    Cumulative temporality by default; with delta, points tell what was counted since they were last acknowledged.
    `limits` can be replaced, from the next reading on, unless there were neither limits nor an idle timeout at first.
    """

    def __init__(
        self,
        collector: EppingCollector,
        temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.temporality = temporality
        self.read_seconds = 0.0
        self.read_at_s = time.monotonic()  # of the latest reading; before the first, since when one is due
        self.flows_evicted = 0
        self.config = collector.config
        self._offset = buckets.first_index(collector.config.scale)
        self._started_ns = collector.started_ns
        self._reader = collector.reader()
        self.columns = Columns(SUBNET_COUNTERS, self._reader.counters_dtype)
        self._interface_columns = Columns(INTERFACE_COUNTERS, self._reader.interfaces_dtype)
        self._bounded = (
            CardinalityLimiter(self.config, self._reader, self._started_ns)
            if collector.idle_timeout_ns or self.limits.any
            else None
        )
        self._collector = collector
        self._slots_taken = 0
        self._ledger = TemporalityTracker(
            delta=temporality is AggregationTemporality.DELTA, started_ns=collector.started_ns
        )
        self._retired = self._retired_delivered = 0  # slots: in the latest batch, and those that the receiver has
        self._lock = threading.Lock()

    def produce(self) -> ScopeMetrics:
        """All metrics at once, taken as delivered: for readers that cannot tell whether an export succeeded."""
        with self._lock:
            self.read()
            batch = self._batch(self._ledger.rows(), is_first=True)
            self.acknowledge(batch)
        return self.metrics(batch)

    def read(self) -> None:
        """Takes a new reading for batches(); one thread at a time, and produce() is for others."""
        began = time.monotonic()
        self._reader.delivered = self._ledger.delivered()
        reading = self._reader.read()
        self._slots_taken = int(np.count_nonzero(reading.slots["live"]))
        self._ledger.take(self._bounded.take(reading, self.limits) if self._bounded else reading)
        self.read_at_s = time.monotonic()
        self.read_seconds = self.read_at_s - began
        self.flows_evicted = max(self.flows_evicted, reading.flows_evicted)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The latest reading, in batches that each fit into a request; acknowledge() those that were delivered.

        With `first`, begins with that batch and ends with the one before it.
        """
        parts = self._split(self._ledger.rows())
        for turn in range(len(parts)):
            index = (first + turn) % len(parts)
            yield self._batch(parts[index], is_first=index == 0)

    def acknowledge(self, batch: Batch) -> None:
        """The receiver has this batch of the latest reading."""
        self._ledger.acknowledge(batch.rows)
        if self._bounded:
            self._bounded.acknowledge(batch.rows)
        if batch.is_first:
            self._ledger.acknowledge_interfaces()
            self._retired_delivered = self._retired

    def metrics(self, batch: Batch) -> ScopeMetrics:
        """A batch as objects of the SDK."""
        reading = batch.reading

        @lru_cache(1)  # a row's points of a metric come one after the other
        def of_subnet(row: int) -> Labels:
            return subnet_labels(subnet_of(reading, row, self.config))

        def of_rtt(row: int) -> Attributes:
            return rtt_labels(subnet_of(reading, row, self.config))

        def of_counter(row: int, column: int) -> Attributes:
            return of_subnet(row) | self.columns.labels[column]

        made = [*batch.others.metrics]
        if rtts := list(sdk_points.rtt_points(batch.rtts, of_rtt, reading.time_ns)):
            made.append(sdk_points.rtt_metric(rtts, batch.temporality))
        for series in batch.counters:
            if counts := list(sdk_points.counter_points(series, of_counter, reading.time_ns)):
                made.append(sdk_points.sum_metric(series.metric, counts, series.temporality, series.is_monotonic))
        return ScopeMetrics(batch.others.scope, made, batch.others.schema_url)

    def _split(self, rows: Rows) -> list[Rows]:
        """Rows in parts of about _REQUEST_WEIGHT; at least one part, for the interfaces."""
        reading = self._ledger.reading
        weight = (as_matrix(reading.counters)[rows] != 0).sum(axis=1) + _HISTOGRAM_WEIGHT
        part = np.cumsum(weight) // _REQUEST_WEIGHT
        return np.split(rows, np.flatnonzero(np.diff(part)) + 1)

    def _batch(self, rows: Rows, *, is_first: bool) -> Batch:
        pending = self._ledger.pending(rows)
        others = [*self._interface_metrics(), *self._interface_states(), *self._own_metrics()] if is_first else []
        return Batch(
            reading=self._ledger.reading,
            rows=rows,
            rtts=rtt_series(rows, pending, self._offset, self.config.scale),
            counters=[
                *counter_series(rows, pending, self.columns, self.temporality),
                self._active_series(rows),
            ],
            temporality=self.temporality,
            is_first=is_first,
            others=ScopeMetrics(metric_table.SCOPE, others, metric_table.SCOPE.schema_url or ""),
        )

    def _active_series(self, rows: Rows) -> CounterSeries:
        """Of all that ever had a flow: not what was counted, but what is, so cumulative with any temporality."""
        reading = self._ledger.reading
        rows = rows[reading.counters["opened"][rows].any(axis=1) | (reading.active[rows] != 0)]
        return CounterSeries(
            metric_table.ACTIVE_FLOWS,
            AggregationTemporality.CUMULATIVE,
            False,
            rows,
            np.full(len(rows), NO_LABELS),
            np.where(rows == OVERFLOW_SLOT, self._started_ns, reading.created_ns[rows]),
            reading.active[rows],
        )

    def _interface_metrics(self) -> Iterator[Metric]:
        reading = self._ledger.reading
        pending, starts_ns = self._ledger.pending_interfaces()
        interface = self._interface_columns
        for metric, columns in interface.by_metric.items():
            made: list[NumberDataPoint] = []
            for name, counts, start_ns in zip(reading.names.values(), pending, starts_ns.tolist(), strict=True):
                attributes: list[Labels] = [{semconv.INTERFACE: name, **labels} for labels in interface.labels]
                made += sdk_points.number_points(attributes.__getitem__, columns, counts, start_ns, reading.time_ns)
            if made:
                yield sdk_points.sum_metric(metric, made, self.temporality)

    def _interface_states(self) -> Iterator[Metric]:
        """What is now, and not what was counted: cumulative with any temporality."""
        reading = self._ledger.reading
        attached = [((name,), int(now)) for name, now in self._collector.attachments.state().items()]
        unidirectional = [
            ((reading.names[identifier], reverse), flows)
            for identifier, found in self._collector.directions.flows.items()
            if identifier in reading.names
            for reverse, flows in zip(semconv.FLOW_REVERSES, found[1:], strict=True)
        ]
        kernel_packets = [
            ((name, direction), count)
            for name, counts in list(self._collector.attachments.kernel_packets.items())
            for direction, count in zip(semconv.IO_DIRECTIONS, counts, strict=True)
        ]
        yield from self._states(metric_table.INTERFACE_ATTACHED, attached)
        yield from self._states(metric_table.INTERFACE_KERNEL_PACKETS, kernel_packets)
        yield from self._states(metric_table.UNIDIRECTIONAL, unidirectional)

    def _states(self, metric: metric_table.Metric, values: Iterable[tuple[tuple[str, ...], int]]) -> Iterator[Metric]:
        """A metric of states, by the values of its attributes; none if there are no values.

        Sums that are not monotonic are cumulative with any temporality preference (OTLP metrics exporter).
        """
        time_ns = self._ledger.reading.time_ns
        made = [
            NumberDataPoint(dict(zip(metric.keys, labels, strict=True)), self._started_ns, time_ns, value)
            for labels, value in values
        ]
        if made:
            yield sdk_points.sum_metric(metric, made, AggregationTemporality.CUMULATIVE, is_monotonic=False)

    def _own_metrics(self) -> Iterator[Metric]:
        reading = self._ledger.reading
        values = {
            metric_table.SUBNET_USAGE: self._slots_taken,
            metric_table.SUBNET_LIMIT: self.config.max_subnets,
            metric_table.FLOW_USAGE: reading.flows,
            metric_table.FLOW_LIMIT: self.config.max_flows,
        }
        if self._bounded:
            values[metric_table.SERIES_USAGE] = self._bounded.told
            values[metric_table.SERIES_LIMIT] = self._bounded.most
            values[metric_table.SERIES_OVERFLOWED] = self._bounded.overflowed
            values[metric_table.SERIES_ROLLED_UP] = self._bounded.rolled_up
        for metric, value in values.items():
            yield from self._states(metric, [((), value)])
        if self._bounded:
            self._retired = self._collector.slots.retired
            delivered = self._retired_delivered if self.temporality is AggregationTemporality.DELTA else 0
            start_ns = self._ledger.told_ns or self._started_ns
            point = NumberDataPoint({}, start_ns, reading.time_ns, self._retired - delivered)
            yield sdk_points.sum_metric(metric_table.SUBNET_RETIRED, [point], self.temporality)
