# SPDX-License-Identifier: Apache-2.0
"""Converts an export to the units in which vendors of backends charge. Knows no prices.

Data points per minute and active series are the units of Grafana Cloud, which bills the greater of the two:
    https://grafana.com/docs/grafana-cloud/platform/pricing-and-usage/metrics/
    A series is active for 20 minutes after its last data point. For native histograms, the page refers to another
    definition of active series. The number of buckets that are not empty helps to estimate active series by that
    definition.
Samples are the unit of Google Cloud Managed Service for Prometheus. A sample is a data point:
    https://docs.cloud.google.com/stackdriver/docs/managed-prometheus/cost-controls
Custom metrics are the unit of Datadog: distinct combinations of a metric's name and attributes, averaged over the hours
of a month, whatever the interval between exports is:
    https://docs.datadoghq.com/account_management/billing/custom_metrics/
    An exponential histogram becomes a distribution (docs.datadoghq.com/opentelemetry/guide/otlp_histogram_heatmaps).
    A distribution has 5 aggregations: count, min, max, sum and avg. With percentiles there are 5 more aggregations:
    p50, p75, p90, p95 and p99 (docs.datadoghq.com/metrics/distributions). Each aggregation is a custom metric.
Bytes are the unit of backends that charge for ingested data. Most of these backends count bytes after decompression.
"""

from dataclasses import dataclass

from otel_epping.cost.export import Export
from otel_epping.otel.explicit_buckets import bound_count

_MINUTE_S, _DAY_S, _MONTH_DAYS = 60.0, 86_400.0, 30
_AGGREGATIONS, _PERCENTILES = 5, 5
# Besides one series per bound, a classic histogram of Prometheus has these series: the bucket +Inf, count and sum.
_CLASSIC_EXTRA = 3


@dataclass(frozen=True)
class VendorUnits:
    """The units of one export that is repeated in each interval. A month has 30 days. See the start of this file."""

    points_per_minute: float
    points_per_month: float
    active_series: int
    classic_series: int
    histogram_buckets: int
    custom_metrics: int
    custom_metrics_with_percentiles: int
    bytes_per_month: float


def vendor_units(export: Export, interval_s: float, scale: int) -> VendorUnits:
    """Converts an export. `scale` is the scale of the kernel's histograms."""
    numbers = export.series - export.histograms
    exports_per_month = _MONTH_DAYS * _DAY_S / interval_s
    return VendorUnits(
        points_per_minute=export.points * _MINUTE_S / interval_s,
        points_per_month=export.points * exports_per_month,
        active_series=export.series,
        classic_series=numbers + export.histograms * (bound_count(scale) + _CLASSIC_EXTRA),
        histogram_buckets=export.buckets,
        custom_metrics=numbers + export.histograms * _AGGREGATIONS,
        custom_metrics_with_percentiles=numbers + export.histograms * (_AGGREGATIONS + _PERCENTILES),
        bytes_per_month=export.encoded_bytes * exports_per_month,
    )
