# SPDX-License-Identifier: Apache-2.0
"""Explicit-bucket histograms, for readers that know no exponential ones: Prometheus' text format, above all.

The SDK's PrometheusMetricReader fails the whole scrape when it meets an exponential histogram.
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

# Two buckets per doubling: 53 from 1 us to 64 s, each a line per subnet in a scrape.
_SCALE = 1


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


def _explicit(metric: Metric, scale: int) -> Metric:
    """The metric with its exponential histograms, made at `scale`, as explicit ones; any other metric as it is.

    Bounds are bounds of the exponential buckets, so no count is moved.
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


def explicit(scope: ScopeMetrics, scale: int) -> ScopeMetrics:
    """The metrics of a scope; those that are exponential histograms, made at `scale`, as explicit-bucket ones."""
    return ScopeMetrics(scope.scope, [_explicit(each, scale) for each in scope.metrics], scope.schema_url)
