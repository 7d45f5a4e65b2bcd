# SPDX-License-Identifier: Apache-2.0
"""Converts exponential histograms to explicit buckets, for example for the Prometheus text format.

With SDK 1.45, each scrape of a PrometheusMetricReader fails completely if any metric is an exponential histogram.
"""

from collections.abc import Sequence

import numpy as np
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Histogram,
    HistogramDataPoint,
    Metric,
    ScopeMetrics,
)

from otel_epping.kernel import buckets
from otel_epping.series import histogram

# Scale 1 has two buckets per power of two, so 53 buckets cover the range from 1 us to 64 s. A higher scale would make
# scrapes longer, because a scrape has one line for each bucket of each subnet.
_SCALE = 1


def bound_count(scale: int) -> int:
    """Returns the number of explicit bounds of a histogram that was recorded at `scale`."""
    return buckets.bucket_count(min(scale, _SCALE))


def _point(point: ExponentialHistogramDataPoint, bounds: Sequence[float], first: int, scale: int) -> HistogramDataPoint:
    exponential = histogram.Buckets(
        np.array(point.positive.bucket_counts, np.uint64), point.positive.offset, point.scale
    )
    while exponential.scale > scale:
        exponential = histogram.halve(exponential)
    counts = np.zeros(len(bounds) + 1, np.uint64)
    start = exponential.offset - first
    counts[start : start + len(exponential.counts)] = exponential.counts
    return HistogramDataPoint(
        point.attributes,
        point.start_time_unix_nano,
        point.time_unix_nano,
        point.count,
        point.sum,
        counts.tolist(),
        bounds,
        point.min,
        point.max,
    )


def _convert(metric: Metric, scale: int) -> Metric:
    """Converts exponential histograms to explicit buckets. Does not change metrics of other types.

    `scale` is the scale at which the histograms were recorded. Each explicit bound is also a bound of exponential
    buckets, so the conversion is exact.
    """
    if not isinstance(metric.data, ExponentialHistogram):
        return metric
    scale = min(scale, _SCALE)
    first = buckets.first_index(scale)
    bounds = histogram.upper_bounds(
        histogram.Buckets(np.zeros(buckets.bucket_count(scale), np.uint64), first, scale)
    ).tolist()
    points = [_point(point, bounds, first, scale) for point in metric.data.data_points]
    return Metric(metric.name, metric.description, metric.unit, Histogram(points, metric.data.aggregation_temporality))


def to_explicit(scope: ScopeMetrics, scale: int) -> ScopeMetrics:
    """Converts all exponential histograms of a scope to explicit buckets. The histograms were recorded at `scale`."""
    return ScopeMetrics(scope.scope, [_convert(each, scale) for each in scope.metrics], scope.schema_url)
