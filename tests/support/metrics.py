# SPDX-License-Identifier: Apache-2.0
"""Selections of metrics for tests."""

from otel_epping.otel.metric_selection import ALL, MetricSelection

ALL_METRICS = MetricSelection((ALL,))
