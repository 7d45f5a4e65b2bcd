# SPDX-License-Identifier: Apache-2.0
"""An exporter for ProducerExporter if all requests go to a RequestSender."""

from typing import Any

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData


class NoExporter(MetricExporter):
    """Only has preferences, and is never called."""

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Raises NotImplementedError."""
        raise NotImplementedError

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Does nothing."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Does nothing."""
