# SPDX-License-Identifier: Apache-2.0
"""Selections of metrics for tests."""

from otel_epping.otel.metric_selection import ALL, MetricSelection
from otel_epping.series.limits import Limits

ALL_METRICS = MetricSelection((ALL,))
# Arguments of install(), EppingMetricProducer() and similar functions: all metrics of all subnets.
EVERYTHING = (Limits(max_series=None), ALL_METRICS)
