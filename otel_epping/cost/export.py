# SPDX-License-Identifier: Apache-2.0
"""Counts the data points, series and bytes of the OTLP requests of one export."""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_epping.otel.otlp.protobuf import varint

# The attributes of a data point. Together with the name of the metric, the attributes identify a series.
Series = frozenset[tuple[str, Any]]


@dataclass
class MetricUsage:
    """The data points of a metric in one export.

    values         the value of each number point, and the number of RTTs of each histogram, by series
    points         number of data points
    histograms     number of data points that are histograms
    buckets        number of buckets that are not empty, in all histograms
    encoded_bytes  encoded size of the metric in all requests
    """

    values: dict[Series, float] = field(default_factory=dict)
    points: int = 0
    histograms: int = 0
    buckets: int = 0
    encoded_bytes: int = 0

    def add(self, metric: Metric) -> None:
        """Adds the part of the metric that is in one request."""
        size = metric.ByteSize()
        self.encoded_bytes += size + len(varint(size)) + 1  # with the key and the length of the field in the request
        kind = metric.WhichOneof("data")
        points = getattr(metric, kind).data_points if kind else ()
        self.points += len(points)
        for point in points:
            series = frozenset(_pair(each.SerializeToString()) for each in point.attributes)
            if kind == "exponential_histogram":
                self.histograms += 1
                self.buckets += sum(map(bool, point.positive.bucket_counts))
                self.values[series] = point.count
            else:
                self.values[series] = getattr(point, point.WhichOneof("value"))


@dataclass
class Export:
    """One export: all requests that were made from one reading.

    metrics        the metrics, by name
    requests       number of requests
    encoded_bytes  size of all requests in bytes, without compression
    gzip_bytes     size of all requests in bytes, compressed with gzip
    """

    metrics: dict[str, MetricUsage] = field(default_factory=dict)
    requests: int = 0
    encoded_bytes: int = 0
    gzip_bytes: int = 0

    def add(self, body: bytes) -> None:
        """Adds a request, which is a serialized ExportMetricsServiceRequest."""
        self.requests += 1
        self.encoded_bytes += len(body)
        self.gzip_bytes += len(gzip.compress(body))
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.metrics.setdefault(metric.name, MetricUsage()).add(metric)

    @property
    def points(self) -> int:
        """Number of data points."""
        return sum(metric.points for metric in self.metrics.values())

    @property
    def series(self) -> int:
        """Number of time series. Each histogram is one series, like a native histogram of Prometheus."""
        return sum(len(metric.values) for metric in self.metrics.values())

    @property
    def histograms(self) -> int:
        """Number of series that are histograms."""
        return sum(metric.histograms for metric in self.metrics.values())

    @property
    def buckets(self) -> int:
        """Number of buckets that are not empty, in all histograms."""
        return sum(metric.buckets for metric in self.metrics.values())

    def of(self, names: Iterable[str]) -> "Export":
        """Returns the part of the export that consists of the metrics `names`, without sizes of requests."""
        return Export({name: self.metrics[name] for name in names if name in self.metrics})


@lru_cache(65_536)
def _pair(encoded: bytes) -> tuple[str, Any]:
    """Returns the key and the value of an attribute. Equal attributes are one object, which saves memory."""
    pair = KeyValue.FromString(encoded)
    return pair.key, getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
