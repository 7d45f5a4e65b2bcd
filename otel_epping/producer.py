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
from itertools import product

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
from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reader import OVERFLOW_SLOT
from otel_epping.ledger import Ledger, Pending, Rows
from otel_epping.subnets import Subnet, Subnets

# A receiver takes 4 MiB by default (gRPC). The point of a counter has about 220 bytes, that of a histogram with 160
# buckets four times as many: a request of this weight stays under 1 MiB.
_REQUEST_WEIGHT = 4_000
_HISTOGRAM_WEIGHT = 4

_OVERFLOW: Attributes = {telemetry.OVERFLOW: True}
# In the order of a row of Reading.traffic.
_TRAFFIC_LABELS = tuple(product(telemetry.SUBNET_DIRECTIONS, telemetry.TRAFFIC_CLASSES))


def _overflow(index: int) -> Attributes:
    return _OVERFLOW


@dataclass(frozen=True)
class Batch:
    """Metrics for one request, and the rows they are of. The first batch of a reading has the interfaces, too."""

    metrics: ScopeMetrics
    rows: Rows
    is_first: bool


class _Attributes:
    """Attributes of a row's points, each made when it is first needed: of ten traffic series few ever count."""

    def __init__(self, subnet: Subnet) -> None:
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
        self._base = base
        self._traffic: dict[int, Attributes] = {}

    def traffic(self, index: int) -> Attributes:
        """Those of the traffic series `index`, of _TRAFFIC_LABELS."""
        if index not in self._traffic:
            direction, label = _TRAFFIC_LABELS[index]
            added = {telemetry.SUBNET_DIRECTION: direction, telemetry.TRAFFIC_CLASS: label}
            self._traffic[index] = self._base | added
        return self._traffic[index]


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
                self._attributes[row] = _Attributes(subnet)
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
        weight = (reading.traffic[rows] != 0).sum(axis=(1, 2, 3)) + _HISTOGRAM_WEIGHT
        part = np.cumsum(weight) // _REQUEST_WEIGHT
        return np.split(rows, np.flatnonzero(np.diff(part)) + 1)

    def _scope_metrics(self, rows: Rows, *, is_first: bool) -> ScopeMetrics:
        pending = self._ledger.pending(rows)
        metrics = [*self._rtt_metrics(rows, pending), *self._traffic_metrics(rows, pending)]
        if is_first:
            metrics += [*self._interface_metrics(), *self._own_metrics()]
        return ScopeMetrics(telemetry.SCOPE, metrics, telemetry.SCOPE.schema_url or "")

    def _rtt_metrics(self, rows: Rows, pending: Pending) -> Iterator[Metric]:
        time_ns = self._ledger.reading.time_ns
        made: list[ExponentialHistogramDataPoint] = []
        for i in np.flatnonzero(pending.buckets.any(axis=1)).tolist():
            row = int(rows[i])
            made.append(
                points.rtt_point(
                    _OVERFLOW if row == OVERFLOW_SLOT else self._attributes[row].rtt,
                    int(pending.start_ns[i]),
                    time_ns,
                    histogram.trim(pending.buckets[i], self._offset, self._config.scale),
                    int(pending.sum_ns[i]),
                    (int(pending.least_ns[i]), int(pending.greatest_ns[i])),
                )
            )
        if made:
            yield points.rtt_metric(made, self.temporality)

    def _traffic_metrics(self, rows: Rows, pending: Pending) -> Iterator[Metric]:
        for quantity, metric in enumerate(telemetry.SUBNET_COUNTERS):
            counts: Counts = pending.traffic[..., quantity].reshape(len(rows), len(_TRAFFIC_LABELS))
            made: list[NumberDataPoint] = []
            for row, values, start_ns in zip(rows.tolist(), counts, pending.start_ns.tolist(), strict=True):
                if row == OVERFLOW_SLOT:
                    attributes, values = _overflow, values.sum(keepdims=True)
                else:
                    attributes = self._attributes[row].traffic
                made += points.number_points(attributes, values, start_ns, self._ledger.reading.time_ns)
            if made:
                yield points.sum_metric(metric, made, self.temporality)

    def _interface_metrics(self) -> Iterator[Metric]:
        reading = self._ledger.reading
        counters = self._ledger.pending_interfaces().view(reading.interfaces.dtype)[:, 0]
        made = points.interface_points(
            counters, list(reading.names.values()), self._ledger.interfaces_start_ns, reading.time_ns
        )
        for metric, its_points in made.items():
            if its_points:
                yield points.sum_metric(metric, its_points, self.temporality)

    def _own_metrics(self) -> Iterator[Metric]:
        reading = self._ledger.reading
        usage = int(np.count_nonzero(reading.slots["live"]))
        for metric, value in ((telemetry.SUBNET_USAGE, usage), (telemetry.SUBNET_LIMIT, self._config.max_subnets)):
            point = NumberDataPoint({}, self._started_ns, reading.time_ns, value)
            yield points.sum_metric(metric, [point], AggregationTemporality.CUMULATIVE, is_monotonic=False)
