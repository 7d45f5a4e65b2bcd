# SPDX-License-Identifier: Apache-2.0
"""Converts the kernel's counts to OpenTelemetry metrics.

EppingMetricProducer follows the specification (metrics SDK, "MetricProducer"): produce() returns the metrics of one
instrumentation scope, and the producer has its own setting of the temporality. The Python SDK has no MetricProducer
interface yet, so `install.py` and `pipeline.py` connect the producer to a reader or an exporter.
"""

import threading
import time
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality, Metric, NumberDataPoint, ScopeMetrics
from opentelemetry.util.types import Attributes

from otel_epping.kernel import buckets
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.reading import SHARED_SLOTS, has_owner
from otel_epping.otel import agent_metrics, metric_table, sdk_points
from otel_epping.otel.columns import NO_LABELS, Labels
from otel_epping.otel.export_batch import CounterSeries, ExportBatch, counter_series, rtt_series
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.interface_metrics import InterfaceMetrics, current_values
from otel_epping.otel.metric import Metric as AgentMetric
from otel_epping.otel.scope import SCOPE
from otel_epping.otel.series_groups import series_groups
from otel_epping.series import histogram
from otel_epping.series.cardinality import CardinalityLimiter
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
    settings     what is exported

    limits         limits on the exported series. New limits can be set at any time, and apply from the next reading on
    read_seconds   duration of the latest reading, in seconds
    read_at_s      time.monotonic() at the end of the latest reading; until the first reading ends, the time when the
                   producer was created
    flows_evicted  number of flows that were evicted from the flow table
    exported       the exported metrics, and the attributes of each metric
    max_buckets    maximum number of buckets of a histogram. Histograms with more buckets are exported at a lower scale
    """

    def __init__(
        self,
        collector: EppingCollector,
        temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE,
        settings: ExportSettings | None = None,
    ) -> None:
        settings = settings or ExportSettings()
        self.limits = settings.limits
        self.temporality = temporality
        self.read_seconds = 0.0
        self.read_at_s = time.monotonic()
        self.flows_evicted = 0
        self.max_buckets = histogram.MAX_BUCKETS
        self.config = collector.config
        self._offset = buckets.first_index(collector.config.scale)
        self._started_ns = collector.started_ns
        self._reader = collector.reader()
        self.exported = settings.selection.exported
        self._groups = series_groups(self.exported, self._reader.counters_dtype)
        self._limiter = CardinalityLimiter(
            self.config,
            self._reader,
            self._started_ns,
            [group.projection for group in self._groups],
            settings.grouping,
        )
        self._trackers = [
            TemporalityTracker(
                delta=temporality is AggregationTemporality.DELTA,
                started_ns=collector.started_ns,
                counters=len(group.projection.sums.starts),
            )
            for group in self._groups
        ]
        self._interfaces = InterfaceMetrics(collector, self.exported, self._reader.interfaces_dtype, temporality)
        self._collector = collector
        self._own: dict[AgentMetric, int] = {}  # the values of the agent's own metrics at the latest reading
        self._read_ns = 0  # time of the latest reading
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
            batches = [
                self._batch(group, tracker.rows(), is_first=group == 0) for group, tracker in enumerate(self._trackers)
            ]
            for batch in batches:
                self.acknowledge(batch)
        made = [metric for batch in batches for metric in self.metrics(batch).metrics]
        return ScopeMetrics(SCOPE, made, SCOPE.schema_url or "")

    def read(self) -> None:
        """Takes a new reading for batches(). While read() runs, no other thread may call read() or produce().

        Raises OSError if a map cannot be read.
        """
        began = time.monotonic()
        if self._read_ns:
            waiting = set[int]().union(*(tracker.waiting_interfaces() for tracker in self._trackers))
            self._reader.delivered = self._interfaces.delivered(waiting)
        reading = self._reader.read()
        self._interfaces.update(reading)
        series = self._limiter.limit(reading, self.limits, self._collector.networks)
        for tracker, series_reading in zip(self._trackers, series, strict=True):
            tracker.update(series_reading)
        # No reference to the reading is kept. Otherwise, the next reading would need memory for another copy of all
        # buckets whenever it widens a histogram.
        self._own = {
            agent_metrics.SUBNET_USAGE: int(np.count_nonzero(has_owner(reading.generation))),
            agent_metrics.SUBNET_LIMIT: self.config.max_slots,
            agent_metrics.SUBNET_UNANSWERED: reading.unanswered,
            agent_metrics.FLOW_USAGE: reading.flows,
            agent_metrics.FLOW_LIMIT: self.config.max_flows,
            agent_metrics.SERIES_USAGE: self._limiter.exported,
            agent_metrics.SERIES_LIMIT: self._limiter.max_series,
            agent_metrics.SERIES_OVERFLOWED: self._limiter.overflowed,
            agent_metrics.SERIES_ROLLED_UP: self._limiter.rolled_up,
        }
        self._read_ns = reading.time_ns
        self.read_at_s = time.monotonic()
        self.read_seconds = self.read_at_s - began
        self.flows_evicted = max(self.flows_evicted, reading.flows_evicted)

    def batches(self, first: int = 0) -> Iterator[ExportBatch]:
        """Yields the latest reading in batches. Each batch fits in one request. Acknowledge each delivered batch.

        first  number of the batch to start with; the batches before `first` are yielded after the last batch
        """
        parts = list(self._parts())
        for turn in range(len(parts)):
            index = (first + turn) % len(parts)
            yield self._batch(*parts[index], is_first=index == 0)

    def acknowledge(self, batch: ExportBatch) -> None:
        """Records that the receiver has received `batch`, which must be a batch of the latest reading."""
        group = self._groups.index(batch.group)
        self._trackers[group].acknowledge(batch.rows)
        self._limiter.acknowledge(group, batch.rows)
        if batch.is_first:
            self._interfaces.tracker.acknowledge()
            self._retired_delivered = self._retired

    def metrics(self, batch: ExportBatch) -> ScopeMetrics:
        """Converts a batch to objects of the SDK."""
        reading, group = batch.reading, batch.group

        @lru_cache(1)  # one entry is enough: in each metric, all points of a row are adjacent
        def of_subnet(row: int) -> Labels:
            return group.labels(reading, row, self.config)

        def of_rtt(row: int, method: int) -> Attributes:
            return of_subnet(row) | group.method_labels[method]

        def of_counter(row: int, column: int) -> Attributes:
            return of_subnet(row) | group.columns.labels[column]

        made = [*batch.others.metrics]
        if rtts := list(sdk_points.rtt_points(batch.rtts, of_rtt, reading.time_ns)):
            made.append(sdk_points.rtt_metric(rtts, batch.temporality))
        for series in batch.counters:
            if counts := list(sdk_points.counter_points(series, of_counter, reading.time_ns)):
                made.append(sdk_points.sum_metric(series.metric, counts, series.temporality, series.is_monotonic))
        return ScopeMetrics(batch.others.scope, made, batch.others.schema_url)

    def _parts(self) -> Iterator[tuple[int, Indexes]]:
        """Yields the group and the rows of each batch. Each batch has a weight of about _REQUEST_WEIGHT.

        If there are no rows, yields one empty part, because the metrics of interfaces still need a batch.
        """
        for group, tracker in enumerate(self._trackers):
            rows, reading = tracker.rows(), tracker.reading
            weight = (reading.counts.counters[rows] != 0).sum(axis=1) + 1  # + 1 for the point of active flows
            histograms = reading.rtts.rows[tracker.histograms(rows)]
            weight += _HISTOGRAM_WEIGHT * np.bincount(histograms, minlength=reading.counts.rows)[rows]
            part = np.cumsum(weight) // _REQUEST_WEIGHT
            if group == 0 or len(rows):
                for rows_of_part in np.split(rows, np.flatnonzero(np.diff(part)) + 1):
                    yield group, rows_of_part

    def _batch(self, group: int, rows: Indexes, *, is_first: bool) -> ExportBatch:
        tracker, columns = self._trackers[group], self._groups[group].columns
        unsent = tracker.pending(rows)
        others = [*self._interfaces.metrics(), *self._own_metrics()] if is_first else []
        return ExportBatch(
            group=self._groups[group],
            reading=tracker.reading,
            rows=rows,
            rtts=rtt_series(unsent.rtts, self._offset, self.config.scale, self.max_buckets),
            counters=[*counter_series(rows, unsent, columns, self.temporality), *self._active_series(group, rows)],
            temporality=self.temporality,
            is_first=is_first,
            others=ScopeMetrics(SCOPE, others, SCOPE.schema_url or ""),
        )

    def _active_series(self, group: int, rows: Indexes) -> Iterator[CounterSeries]:
        """Yields the number of active flows of each row that ever had a flow. The series is always cumulative."""
        if not self._groups[group].projection.has_active:
            return
        reading = self._trackers[group].reading
        opened = self._groups[group].columns.by_metric[metric_table.OPENED]
        rows = rows[reading.counts.counters[rows][:, opened].any(axis=1) | (reading.active[rows] != 0)]
        yield CounterSeries(
            metric_table.ACTIVE_FLOWS,
            AggregationTemporality.CUMULATIVE,
            False,
            rows,
            np.full(len(rows), NO_LABELS),
            np.where(rows < SHARED_SLOTS, self._started_ns, reading.created_ns[rows]),
            reading.active[rows],
        )

    def _own_metrics(self) -> Iterator[Metric]:
        for metric, value in self._own.items():
            yield from current_values(self.exported, metric, [((), value)], self._started_ns, self._read_ns)
        self._retired = self._collector.slots.retired
        if agent_metrics.SUBNET_RETIRED in self.exported:
            delivered = self._retired_delivered if self.temporality is AggregationTemporality.DELTA else 0
            start_ns = self._interfaces.tracker.acked_ns or self._started_ns
            point = NumberDataPoint({}, start_ns, self._read_ns, self._retired - delivered)
            yield sdk_points.sum_metric(agent_metrics.SUBNET_RETIRED, [point], self.temporality)
