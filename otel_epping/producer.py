# SPDX-License-Identifier: Apache-2.0
"""The MetricProducer: what the kernel has counted, as OpenTelemetry metrics.

It has the shape of the specification's MetricProducer (metrics SDK, "MetricProducer"): produce() returns the metrics of
one instrumentation scope, and temporality is its own setting. The Python SDK has no such interface yet, so `sdk.py`
plugs it in.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
    ScopeMetrics,
)
from opentelemetry.util.types import Attributes

from otel_epping import histogram, points, telemetry
from otel_epping.kernel import buckets
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reader import OVERFLOW_SLOT
from otel_epping.ledger import Ledger, Pending, Rows, numbers
from otel_epping.subnets import Subnet, Subnets

# A receiver takes 4 MiB by default (gRPC). The point of a counter has about 220 bytes, that of a histogram with 160
# buckets four times as many: a request of this weight stays under 1 MiB.
_REQUEST_WEIGHT = 4_000
_HISTOGRAM_WEIGHT = 4

_OVERFLOW: Attributes = {telemetry.OVERFLOW: True}


@dataclass(frozen=True)
class Batch:
    """Metrics for one request, and the rows they are of. The first batch of a reading has the interfaces, too."""

    metrics: ScopeMetrics
    rows: Rows
    is_first: bool


class _Attributes:
    """Attributes of a row's points, each made when it is first needed: of all its counters few ever count."""

    def __init__(self, subnet: Subnet, columns: points.Columns) -> None:
        base = {
            telemetry.SUBNET: str(subnet.network),
            telemetry.NETWORK_TYPE: telemetry.FAMILIES[subnet.network.version],
            telemetry.INTERFACE: subnet.interface,
            telemetry.SIDE: telemetry.SIDES[subnet.side],
        }
        self.rtt: Attributes = base | {
            telemetry.NETWORK_TRANSPORT: METHODS[subnet.method].transport,
            telemetry.METHOD: METHODS[subnet.method].name,
        }
        self.subnet: Attributes = base
        self._base = base
        self._columns = columns
        self._counters: dict[int, Attributes] = {}

    def counter(self, column: int) -> Attributes:
        """Those of a counter."""
        if column not in self._counters:
            self._counters[column] = self._base | self._columns.attributes[column]
        return self._counters[column]


class EppingMetricProducer:
    """Turns the readings of a collector into metrics, for one exporter.

    Cumulative temporality by default; with delta, points tell what was counted since they were last acknowledged.
    """

    def __init__(
        self,
        collector: Collector,
        temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE,
    ) -> None:
        self.temporality = temporality
        self.read_seconds = 0.0
        self._config = collector.config
        self._offset = buckets.first_index(collector.config.scale)
        self._started_ns = collector.started_ns
        self._reader = collector.reader()
        self._subnet_columns = points.Columns(telemetry.SUBNET_COUNTERS, self._reader.counters_dtype)
        self._interface_columns = points.Columns(telemetry.INTERFACE_COUNTERS, self._reader.interfaces_dtype)
        self._subnets = Subnets(collector.config)
        self._attributes: dict[int, _Attributes] = {}
        self._ledger = Ledger(delta=temporality is AggregationTemporality.DELTA, started_ns=collector.started_ns)
        self._lock = threading.Lock()

    def produce(self) -> ScopeMetrics:
        """All metrics at once, taken as delivered: for readers that cannot tell whether an export succeeded."""
        with self._lock:
            self.read()
            rows = self._ledger.rows()
            metrics = self._scope_metrics(rows, is_first=True)
            self._ledger.acknowledge(rows)
            self._ledger.acknowledge_interfaces()
        return metrics

    def read(self) -> None:
        """Takes a new reading for batches(); one thread at a time, and produce() is for others."""
        began = time.monotonic()
        reading = self._reader.read()
        for row in self._subnets.update(reading):
            subnet = self._subnets[row]
            if subnet:
                self._attributes[row] = _Attributes(subnet, self._subnet_columns)
        self._ledger.take(reading)
        self.read_seconds = time.monotonic() - began

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The latest reading, in batches that each fit into a request; acknowledge() those that were delivered.

        With `first`, begins with that batch and ends with the one before it.
        """
        parts = self._split(self._ledger.rows())
        for turn in range(len(parts)):
            index = (first + turn) % len(parts)
            yield Batch(self._scope_metrics(parts[index], is_first=index == 0), parts[index], index == 0)

    def acknowledge(self, batch: Batch) -> None:
        """The receiver has this batch of the latest reading."""
        self._ledger.acknowledge(batch.rows)
        if batch.is_first:
            self._ledger.acknowledge_interfaces()

    def _split(self, rows: Rows) -> list[Rows]:
        """Rows in parts of about _REQUEST_WEIGHT; at least one part, for the interfaces."""
        reading = self._ledger.reading
        weight = (numbers(reading.counters)[rows] != 0).sum(axis=1) + _HISTOGRAM_WEIGHT
        part = np.cumsum(weight) // _REQUEST_WEIGHT
        return np.split(rows, np.flatnonzero(np.diff(part)) + 1)

    def _scope_metrics(self, rows: Rows, *, is_first: bool) -> ScopeMetrics:
        pending = self._ledger.pending(rows)
        metrics = [
            *self._rtt_metrics(rows, pending),
            *self._counter_metrics(rows, pending),
            *self._active_metrics(rows),
        ]
        if is_first:
            metrics += [*self._interface_metrics(), *self._own_metrics()]
        return ScopeMetrics(telemetry.SCOPE, metrics, telemetry.SCOPE.schema_url or "")

    def _rtt_metrics(self, rows: Rows, pending: Pending) -> Iterator[Metric]:
        time_ns = self._ledger.reading.time_ns
        made: list[ExponentialHistogramDataPoint] = []
        for i in np.flatnonzero(pending.buckets.totals()).tolist():
            row = int(rows[i])
            first, counts = pending.buckets.run(i)
            made.append(
                points.rtt_point(
                    _OVERFLOW if row == OVERFLOW_SLOT else self._attributes[row].rtt,
                    int(pending.start_ns[i]),
                    time_ns,
                    histogram.trim(counts, self._offset + first, self._config.scale),
                    int(pending.sum_ns[i]),
                    (int(pending.least_ns[i]), int(pending.greatest_ns[i])),
                )
            )
        if made:
            yield points.rtt_metric(made, self.temporality)

    def _counter_metrics(self, rows: Rows, pending: Pending) -> Iterator[Metric]:
        time_ns = self._ledger.reading.time_ns
        for metric, columns in self._subnet_columns.by_metric.items():
            made: list[NumberDataPoint] = []
            for row, counts, start_ns in zip(rows.tolist(), pending.counters, pending.start_ns.tolist(), strict=True):
                if row != OVERFLOW_SLOT:
                    made += points.number_points(self._attributes[row].counter, columns, counts, start_ns, time_ns)
                elif total := int(counts[columns].sum()):
                    made.append(NumberDataPoint(_OVERFLOW, start_ns, time_ns, total))
            if made:
                yield points.sum_metric(metric, made, self.temporality)

    def _active_metrics(self, rows: Rows) -> Iterator[Metric]:
        """Of all that ever had a flow: not what was counted, but what is, so cumulative with any temporality."""
        reading = self._ledger.reading
        made = [
            NumberDataPoint(
                _OVERFLOW if row == OVERFLOW_SLOT else self._attributes[row].subnet,
                self._started_ns if row == OVERFLOW_SLOT else int(reading.created_ns[row]),
                reading.time_ns,
                int(reading.active[row]),
            )
            for row in rows[reading.counters["opened"][rows].any(axis=1)].tolist()
        ]
        if made:
            yield points.sum_metric(telemetry.ACTIVE_FLOWS, made, AggregationTemporality.CUMULATIVE, is_monotonic=False)

    def _interface_metrics(self) -> Iterator[Metric]:
        reading = self._ledger.reading
        start_ns, pending = self._ledger.interfaces_start_ns, self._ledger.pending_interfaces()
        for metric, columns in self._interface_columns.by_metric.items():
            made: list[NumberDataPoint] = []
            for name, counts in zip(reading.names.values(), pending, strict=True):
                base = {telemetry.INTERFACE: name}
                attributes = {column: base | self._interface_columns.attributes[column] for column in columns}
                made += points.number_points(attributes.__getitem__, columns, counts, start_ns, reading.time_ns)
            if made:
                yield points.sum_metric(metric, made, self.temporality)

    def _own_metrics(self) -> Iterator[Metric]:
        reading = self._ledger.reading
        usage = int(np.count_nonzero(reading.slots["live"]))
        for metric, value in (
            (telemetry.SUBNET_USAGE, usage),
            (telemetry.SUBNET_LIMIT, self._config.max_subnets),
            (telemetry.FLOW_USAGE, reading.flows),
            (telemetry.FLOW_LIMIT, self._config.max_flows),
        ):
            point = NumberDataPoint({}, self._started_ns, reading.time_ns, value)
            yield points.sum_metric(metric, [point], AggregationTemporality.CUMULATIVE, is_monotonic=False)
