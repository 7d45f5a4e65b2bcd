# SPDX-License-Identifier: Apache-2.0
"""Takes slices from a running collector.

The slices come from EppingMetricProducer with delta temporality, with all metrics and without limits. So a slice has
exactly the counts that an exporter with these settings would export for the same interval. Only the scale can be
higher, because a slice may have more buckets than an exported histogram.
"""

from collections.abc import Callable

import numpy as np
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.history.columns import ColumnKey, Numbering
from otel_epping.history.line import split_attributes
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.kernel import buckets
from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.reading import SHARED_SLOTS, RowOwners, has_owner
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of
from otel_epping.kernel.wall_clock import since_boot_ns
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.columns import Labels
from otel_epping.otel.export_batch import CounterSeries, ExportBatch
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric import Metric as AgentMetric
from otel_epping.otel.metric_selection import ALL, MetricSelection
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.series_groups import SeriesGroup
from otel_epping.series.grouping import Grouping
from otel_epping.series.limits import Limits

# A larger difference between the system clock and the elapsed time is a step of the system clock.
_MAX_STEP_NS = 10**9


class LiveSource:
    """Takes slices from a collector. Create the source before the first packet is counted.

    `numbering` is the numbering of the history to which the slices are added. `grouping` defines the lines.
    `elapsed_ns` reads a clock that cannot be set.
    """

    def __init__(
        self,
        collector: EppingCollector,
        numbering: Numbering,
        grouping: Grouping | None = None,
        elapsed_ns: Callable[[], int] = since_boot_ns,
    ) -> None:
        settings = ExportSettings(
            MetricSelection((ALL,)), Limits(max_series=None, roll_up=False), grouping or Grouping()
        )
        self._producer = EppingMetricProducer(collector, AggregationTemporality.DELTA, settings)
        # A history has no limit on buckets, so the scale is not lowered.
        self._producer.max_buckets = buckets.bucket_count(collector.config.scale)
        self._numbering = numbering
        self._owners = RowOwners()
        self._lines: Indexes = np.zeros(0, np.int64)  # the line of each row of the producer's readings
        self._in_use: Flags = np.zeros(0, np.bool_)  # true for each row with an owner
        self._columns: dict[AgentMetric, Indexes] = {}  # for each metric, the column of each entry of `labels`
        self._methods: Indexes = np.zeros(0, np.int64)
        self._evicted = 0
        self._previous_ns = collector.started_ns
        self._elapsed_ns = elapsed_ns
        self._previous_elapsed_ns = 0  # 0 before the first slice

    def take(self, begin_ns: int | None = None, end_ns: int | None = None) -> Slice:
        """Returns the counts since the previous call, as a slice.

        By default, the slice begins at the time of the previous reading and ends at the time of the new reading. If the
        system clock was set forward between the readings, the slice begins later, so that the slice has the length of
        the elapsed time. Raises OSError if a map cannot be read.
        """
        self._producer.read()
        previous_ns, self._previous_elapsed_ns = self._previous_elapsed_ns, self._elapsed_ns()
        batches = []
        for batch in self._producer.batches():
            self._producer.acknowledge(batch)
            batches.append(batch)
        if not len(self._methods):
            self._register(batches[0].group)
        lines = self._find_lines(batches[0])
        time_ns = batches[0].reading.time_ns
        if begin_ns is None:
            begin_ns = self._previous_ns
            elapsed_ns = self._previous_elapsed_ns - previous_ns if previous_ns else time_ns - begin_ns
            if time_ns - begin_ns > elapsed_ns + _MAX_STEP_NS:
                begin_ns = time_ns - elapsed_ns
        self._previous_ns = time_ns
        rows = np.unique(np.concatenate([series.rows for batch in batches for series in batch.counters]))
        counters = self._counters(batches, rows)
        return Slice(begin_ns, end_ns or time_ns, lines[rows], counters, self._rtts(batches), self._agent(batches[0]))

    @property
    def lines_in_use(self) -> Indexes:
        """The lines of all slots that had an owner at the time of the latest slice."""
        return np.unique(self._lines[self._in_use])

    def renumber(self, to: Indexes, numbering: Numbering) -> None:
        """Continues with another numbering, as History.renumbered() does."""
        self._lines, self._numbering = to[self._lines], numbering

    def _register(self, group: SeriesGroup) -> None:
        """Gives numbers to all columns. The counts of a column without a number would be unknown, but are 0."""
        self._methods = np.array(
            [self._numbering.methods.find(str(labels.get(semconv.METHOD, ""))) for labels in group.method_labels],
            np.int64,
        )
        self._numbering.columns.find(ColumnKey(metric_table.ACTIVE_FLOWS.name))
        for metric, numbers in group.columns.by_metric.items():
            for number in numbers:
                self._numbering.columns.find(ColumnKey.of(metric.name, group.columns.labels[number]))

    def _find_lines(self, batch: ExportBatch) -> Indexes:
        """Returns the line of each row of the reading."""
        reading = batch.reading
        changed = self._owners.update(reading.generation)
        self._lines, self._in_use = grow(self._lines, len(reading.generation)), has_owner(reading.generation)
        for row in (*range(SHARED_SLOTS), *changed[self._in_use[changed]].tolist()):
            line, _ = split_attributes(batch.group.labels(reading, row, self._producer.config))
            self._lines[row] = self._numbering.lines.find(line)
        return self._lines

    def _counters(self, batches: list[ExportBatch], rows: Indexes) -> Counts:
        """Returns the counters of rows: (len(rows), columns)."""
        parts = [
            (series, self._columns_of(series, batch.group.columns.labels))
            for batch in batches
            for series in batch.counters
        ]
        counters = np.zeros((len(rows), len(self._numbering.columns)), np.uint64)
        for series, columns in parts:
            counters[np.searchsorted(rows, series.rows), columns] = series.values
        return counters

    def _columns_of(self, series: CounterSeries, labels: list[Labels]) -> Indexes:
        """Returns the column of each data point of a series."""
        known = self._columns.setdefault(series.metric, np.full(len(labels), -1, np.int64))
        for number in np.unique(series.columns[known[series.columns] < 0]).tolist():
            known[number] = self._numbering.columns.find(ColumnKey.of(series.metric.name, labels[number]))
        return np.asarray(known[series.columns])

    def _rtts(self, batches: list[ExportBatch]) -> Rtts:
        parts = [batch.rtts for batch in batches]
        rows, methods, offset, scale, sum_ns, min_ns, max_ns = (
            np.concatenate(each)
            for each in zip(
                *((p.rows, p.methods, p.fitted.offset, p.fitted.scale, p.sum_ns, p.min_ns, p.max_ns) for p in parts),
                strict=True,
            )
        )
        starts = starts_of(np.concatenate([np.diff(part.fitted.starts) for part in parts]))
        runs = SparseHistograms(offset, starts, np.concatenate([part.fitted.counts for part in parts]))
        return Rtts(self._lines[rows], self._methods[methods], scale, runs, sum_ns, min_ns, max_ns)

    def _agent(self, batch: ExportBatch) -> AgentValues:
        values = AgentValues()
        for metric in batch.others.metrics:
            for point in metric.data.data_points:
                values[ColumnKey.of(metric.name, point.attributes or {})] = point.value  # type: ignore[union-attr]
        evicted = self._producer.flows_evicted
        values[ColumnKey(agent_metrics.FLOW_EVICTED.name)] = evicted - self._evicted
        self._evicted = evicted
        return values
