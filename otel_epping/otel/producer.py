# SPDX-License-Identifier: Apache-2.0
"""Converts the kernel's counts to OpenTelemetry metrics.

EppingMetricProducer follows the specification (metrics SDK, "MetricProducer"): produce() returns the metrics of one
instrumentation scope, and the producer has its own setting of the temporality. The Python SDK has no MetricProducer
interface yet, so `install.py` and `pipeline.py` connect the producer to a reader or an exporter.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, NumberDataPoint, ScopeMetrics
from opentelemetry.util.types import Attributes

from otel_epping.kernel import buckets
from otel_epping.kernel.arrays import Indexes, as_matrix
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.reading import SHARED_SLOTS, has_owner
from otel_epping.otel import agent_metrics, metric_table, scope, sdk_points, semconv
from otel_epping.otel.attributes import METHOD_LABELS, NO_LABELS, Columns, Labels, subnet_labels
from otel_epping.otel.counters import INTERFACE_COUNTERS, SUBNET_COUNTERS
from otel_epping.otel.export_batch import CounterSeries, ExportBatch, counter_series, rtt_series
from otel_epping.series.cardinality import CardinalityLimiter
from otel_epping.series.limits import Limits
from otel_epping.series.subnet import subnet_of
from otel_epping.series.temporality import TemporalityTracker

# By default, a gRPC receiver accepts requests of at most 4 MiB. A data point of a counter has about 220 bytes and the
# weight 1. A data point of a histogram with 160 buckets has about 4 * 220 bytes, so the weight of a histogram is 4. A
# request with the total weight of 4,000 has about 4,000 * 220 bytes, which is less than 1 MiB.
_REQUEST_WEIGHT = 4_000
_HISTOGRAM_WEIGHT = 4


class EppingMetricProducer:
    """Converts the readings of a collector to metrics for one exporter.

    collector    the running collector; the producer creates its own reader of the maps
    temporality  CUMULATIVE by default. With DELTA, a point has the counts since the last delivered point of its series
    limits       limits on the exported series. New limits can be set at any time, and apply from the next reading on

    read_seconds   duration of the latest reading, in seconds
    read_at_s      time.monotonic() at the end of the latest reading; until the first reading ends, the time when the
                   producer was created
    flows_evicted  number of flows that were evicted from the flow table
    columns        the metric and attributes of each counter of a row
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
        self.read_at_s = time.monotonic()
        self.flows_evicted = 0
        self.config = collector.config
        self._offset = buckets.first_index(collector.config.scale)
        self._started_ns = collector.started_ns
        self._reader = collector.reader()
        self.columns = Columns(SUBNET_COUNTERS, self._reader.counters_dtype)
        self._interface_columns = Columns(INTERFACE_COUNTERS, self._reader.interfaces_dtype)
        self._limiter = CardinalityLimiter(self.config, self._reader, self._started_ns)
        self._collector = collector
        self._slots_in_use = 0
        self._tracker = TemporalityTracker(
            delta=temporality is AggregationTemporality.DELTA,
            started_ns=collector.started_ns,
            counters=len(self.columns.labels) - 1,
        )
        self._retired = self._retired_delivered = 0  # numbers of freed slots: in the latest batch, and delivered
        self._lock = threading.Lock()

    @property
    def subnets_exported(self) -> int:
        """Number of subnets and covering prefixes that have series."""
        return self._limiter.exported

    def produce(self) -> ScopeMetrics:
        """Reads the kernel's counts and returns all metrics at once. Records all metrics as delivered.

        This method is for metric readers that do not report whether an export succeeded. Any thread may call this
        method. Raises OSError if a map cannot be read.
        """
        with self._lock:
            self.read()
            batch = self._batch(self._tracker.rows(), is_first=True)
            self.acknowledge(batch)
        return self.metrics(batch)

    def read(self) -> None:
        """Takes a new reading for batches(). While read() runs, no other thread may call read() or produce().

        Raises OSError if a map cannot be read.
        """
        began = time.monotonic()
        self._reader.delivered = self._tracker.delivered()
        reading = self._reader.read()
        self._slots_in_use = int(np.count_nonzero(has_owner(reading.generation)))
        self._tracker.update(self._limiter.limit(reading, self.limits))
        self.read_at_s = time.monotonic()
        self.read_seconds = self.read_at_s - began
        self.flows_evicted = max(self.flows_evicted, reading.flows_evicted)

    def batches(self, first: int = 0) -> Iterator[ExportBatch]:
        """Yields the latest reading in batches. Each batch fits in one request. Acknowledge each delivered batch.

        first  number of the batch to start with; the batches before `first` are yielded after the last batch
        """
        parts = self._split(self._tracker.rows())
        for turn in range(len(parts)):
            index = (first + turn) % len(parts)
            yield self._batch(parts[index], is_first=index == 0)

    def acknowledge(self, batch: ExportBatch) -> None:
        """Records that the receiver has received `batch`, which must be a batch of the latest reading."""
        self._tracker.acknowledge(batch.rows)
        self._limiter.acknowledge(batch.rows)
        if batch.is_first:
            self._tracker.acknowledge_interfaces()
            self._retired_delivered = self._retired

    def metrics(self, batch: ExportBatch) -> ScopeMetrics:
        """Converts a batch to objects of the SDK."""
        reading = batch.reading

        @lru_cache(1)  # one entry is enough: in each metric, all points of a row are adjacent
        def of_subnet(row: int) -> Labels:
            return subnet_labels(row, subnet_of(reading, row, self.config))

        def of_rtt(row: int, method: int) -> Attributes:
            return of_subnet(row) | METHOD_LABELS[method]

        def of_counter(row: int, column: int) -> Attributes:
            return of_subnet(row) | self.columns.labels[column]

        made = [*batch.others.metrics]
        if rtts := list(sdk_points.rtt_points(batch.rtts, of_rtt, reading.time_ns)):
            made.append(sdk_points.rtt_metric(rtts, batch.temporality))
        for series in batch.counters:
            if counts := list(sdk_points.counter_points(series, of_counter, reading.time_ns)):
                made.append(sdk_points.sum_metric(series.metric, counts, series.temporality, series.is_monotonic))
        return ScopeMetrics(batch.others.scope, made, batch.others.schema_url)

    def _split(self, rows: Indexes) -> list[Indexes]:
        """Splits rows into parts. Each part has a weight of about _REQUEST_WEIGHT.

        If there are no rows, returns one empty part, because the metrics of interfaces still need a batch.
        """
        reading = self._tracker.reading
        weight = (as_matrix(reading.counters)[rows] != 0).sum(axis=1) + 1  # one point for active flows
        histograms = reading.rtts.rows[self._tracker.histograms(rows)]
        weight += _HISTOGRAM_WEIGHT * np.bincount(histograms, minlength=len(reading.counters))[rows]
        part = np.cumsum(weight) // _REQUEST_WEIGHT
        return np.split(rows, np.flatnonzero(np.diff(part)) + 1)

    def _batch(self, rows: Indexes, *, is_first: bool) -> ExportBatch:
        unsent = self._tracker.pending(rows)
        others = [*self._interface_metrics(), *self._interface_states(), *self._own_metrics()] if is_first else []
        return ExportBatch(
            reading=self._tracker.reading,
            rows=rows,
            rtts=rtt_series(unsent.rtts, self._offset, self.config.scale),
            counters=[
                *counter_series(rows, unsent, self.columns, self.temporality),
                self._active_series(rows),
            ],
            temporality=self.temporality,
            is_first=is_first,
            others=ScopeMetrics(scope.SCOPE, others, scope.SCOPE.schema_url or ""),
        )

    def _active_series(self, rows: Indexes) -> CounterSeries:
        """Returns the number of active flows for each row that ever had a flow. The series is always cumulative."""
        reading = self._tracker.reading
        rows = rows[reading.counters["opened"][rows].any(axis=1) | (reading.active[rows] != 0)]
        return CounterSeries(
            metric_table.ACTIVE_FLOWS,
            AggregationTemporality.CUMULATIVE,
            False,
            rows,
            np.full(len(rows), NO_LABELS),
            np.where(rows < SHARED_SLOTS, self._started_ns, reading.created_ns[rows]),
            reading.active[rows],
        )

    def _interface_metrics(self) -> Iterator[Metric]:
        reading = self._tracker.reading
        pending, starts_ns = self._tracker.pending_interfaces()
        for metric, columns in self._interface_columns.by_metric.items():
            made: list[NumberDataPoint] = []
            for name, counts, start_ns in zip(reading.names.values(), pending, starts_ns.tolist(), strict=True):
                attributes: list[Labels] = [
                    {semconv.INTERFACE: name, **labels} for labels in self._interface_columns.labels
                ]
                made += sdk_points.number_points(attributes.__getitem__, columns, counts, start_ns, reading.time_ns)
            if made:
                yield sdk_points.sum_metric(metric, made, self.temporality)

    def _interface_states(self) -> Iterator[Metric]:
        """Yields the metrics that describe the current state of interfaces."""
        reading = self._tracker.reading
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

    def _states(self, metric: Metric, values: Iterable[tuple[tuple[str, ...], int]]) -> Iterator[Metric]:
        """Yields a metric of current values. An element of `values` has the attribute values and the value of a point.

        Yields nothing if `values` is empty. Sums that are not monotonic are always cumulative, even if the preferred
        temporality is delta (specification, "OTLP metrics exporter").
        """
        time_ns = self._tracker.reading.time_ns
        made = [
            NumberDataPoint(dict(zip(metric.keys, labels, strict=True)), self._started_ns, time_ns, value)
            for labels, value in values
        ]
        if made:
            yield sdk_points.sum_metric(metric, made, AggregationTemporality.CUMULATIVE, is_monotonic=False)

    def _own_metrics(self) -> Iterator[Metric]:
        reading = self._tracker.reading
        values = {
            agent_metrics.SUBNET_USAGE: self._slots_in_use,
            agent_metrics.SUBNET_LIMIT: self.config.max_subnets,
            agent_metrics.SUBNET_UNANSWERED: reading.unanswered,
            agent_metrics.FLOW_USAGE: reading.flows,
            agent_metrics.FLOW_LIMIT: self.config.max_flows,
            agent_metrics.SERIES_USAGE: self._limiter.exported,
            agent_metrics.SERIES_LIMIT: self._limiter.max_series,
            agent_metrics.SERIES_OVERFLOWED: self._limiter.overflowed,
            agent_metrics.SERIES_ROLLED_UP: self._limiter.rolled_up,
        }
        for metric, value in values.items():
            yield from self._states(metric, [((), value)])
        self._retired = self._collector.slots.retired
        delivered = self._retired_delivered if self.temporality is AggregationTemporality.DELTA else 0
        start_ns = self._tracker.interfaces_acked_ns or self._started_ns
        point = NumberDataPoint({}, start_ns, reading.time_ns, self._retired - delivered)
        yield sdk_points.sum_metric(agent_metrics.SUBNET_RETIRED, [point], self.temporality)
