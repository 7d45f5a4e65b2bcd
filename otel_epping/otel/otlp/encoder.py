# SPDX-License-Identifier: Apache-2.0
"""Encodes the batches of one producer as OTLP requests. Uses a cache for attributes, and numpy for numbers."""

from collections.abc import Sequence

from opentelemetry.sdk.metrics.export import ResourceMetrics

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import SHARED_SLOTS, RowOwners, has_owner
from otel_epping.otel.export_batch import ExportBatch
from otel_epping.otel.otlp import points, request
from otel_epping.otel.otlp.message_columns import Column, Pieces
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.series_groups import SeriesGroup


class _Attributes:
    """The encoded attributes of a group's rows, columns and methods.

    The attributes of a row take about 430 bytes of memory.
    """

    def __init__(self, group: SeriesGroup) -> None:
        self._group = group
        self._owners = RowOwners()
        self._missing = range(SHARED_SLOTS)  # shared rows have no owner
        self.of_subnets, self.of_rtts = Pieces(), Pieces()
        self.of_columns = Column.of(points.number_attributes(labels) for labels in group.columns.labels)
        self.of_methods = Column.of(points.histogram_attributes(labels) for labels in group.method_labels)

    def update(self, batch: ExportBatch, config: EppingConfig) -> None:
        """Encodes the attributes of new rows."""
        changed = self._owners.update(batch.reading.generation)
        new = changed[has_owner(batch.reading.generation)[changed]].tolist()
        for row in [*self._missing, *new]:
            labels = self._group.labels(batch.reading, row, config)
            self.of_subnets[row] = points.number_attributes(labels)
            self.of_rtts[row] = points.histogram_attributes(labels)
        self._missing = range(0)


class BatchEncoder:
    """Encodes batches. Caches the encoded attributes of all rows of each group."""

    def __init__(self, config: EppingConfig) -> None:
        self._config = config
        self._attributes: dict[SeriesGroup, _Attributes] = {}

    def request(self, resources: Sequence[ResourceMetrics], batch: ExportBatch) -> Request:
        """Encodes a request with the SDK's metrics and the batch.

        The batch's metrics become part of the first resource. Raises the exceptions of the official encoder, for
        example EncodingException if the official encoder rejects a metric.
        """
        if batch.group not in self._attributes:
            self._attributes[batch.group] = _Attributes(batch.group)
        encoded = self._attributes[batch.group]
        encoded.update(batch, self._config)
        time_ns = batch.reading.time_ns
        rtts = batch.rtts
        histograms = points.HistogramArrays(*rtts.fitted, rtts.sum_ns, rtts.min_ns, rtts.max_ns)
        attributes = [encoded.of_rtts[rtts.rows], encoded.of_methods[rtts.methods]]
        rtt_points = points.histogram_points(attributes, rtts.start_ns, time_ns, histograms)
        metrics = [request.rtt_metric(rtt_points, batch.temporality)]
        for series in batch.counters:
            attributes = [encoded.of_subnets[series.rows], encoded.of_columns[series.columns]]
            numbers = points.number_points(attributes, series.start_ns, time_ns, series.values)
            metrics.append(request.sum_metric(series.metric, numbers, series.temporality, series.is_monotonic))
        return request.request(resources, batch.others, metrics)
