# SPDX-License-Identifier: Apache-2.0
"""From series to OpenTelemetry: metrics, the MetricProducer, and the export."""
