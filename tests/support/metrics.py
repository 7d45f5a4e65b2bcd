# SPDX-License-Identifier: Apache-2.0
"""Selections of metrics for tests."""

from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric_selection import ALL, MetricSelection
from otel_epping.series.limits import Limits

ALL_METRICS = MetricSelection((ALL,))
# All metrics of all subnets.
EVERYTHING = ExportSettings(ALL_METRICS, Limits(max_series=None))
