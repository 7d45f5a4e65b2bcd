# SPDX-License-Identifier: Apache-2.0
"""Converts series to OpenTelemetry metrics, and exports the metrics."""
