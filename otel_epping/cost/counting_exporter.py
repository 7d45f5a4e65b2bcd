# SPDX-License-Identifier: Apache-2.0
"""Makes the exports that the agent would make, and counts the requests instead of sending them."""

import math
from threading import Event

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData, ResourceMetrics

from otel_epping.cost.export import Export
from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.no_exporter import NoExporter
from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender
from otel_epping.otel.pipeline import default_resource
from otel_epping.otel.self_metrics import observe
from otel_epping.otel.variables.certificates import Certificates


class _RequestCounter(RequestSender):
    """Counts requests, unless `is_counting` is false. Each request succeeds."""

    def __init__(self) -> None:
        super().__init__(math.inf, Event())
        self.export = Export()
        self.is_counting = True

    def _renew(self, certificates: Certificates) -> None:
        raise NotImplementedError

    def _try(self, request: Request, timeout_s: float) -> Answer:
        if self.is_counting:
            self.export.add(request.body)
        return Answer()


class CountingExporter:
    """Exports the counts of a collector, with the settings of an agent. The temporality is cumulative."""

    def __init__(self, collector: EppingCollector, settings: ExportSettings) -> None:
        self._counter = _RequestCounter()
        self._failure: Failure | None = None
        self._exporter = ProducerExporter(
            NoExporter(),
            collector,
            settings,
            on_result=self._note,
            request_sender=self._counter,
        )
        self._resource = default_resource()
        self._sdk = InMemoryMetricReader()
        provider = MeterProvider(resource=self._resource, metric_readers=[self._sdk], shutdown_on_exit=False)
        observe(provider, collector, [self._exporter], settings.selection.exported)

    def _note(self, failure: Failure | None) -> None:
        self._failure = failure

    def export(self, *, is_counted: bool = True) -> Export:
        """Reads the counts of the collector, and returns what the agent would export now.

        If `is_counted` is false, makes the export, and returns an empty Export. This takes less time. Raises
        EppingError if the counts cannot be read.
        """
        self._counter.export, self._counter.is_counting = Export(), is_counted
        no_metrics = MetricsData([ResourceMetrics(self._resource, [], self._resource.schema_url)])
        self._exporter.export(self._sdk.get_metrics_data() or no_metrics)
        if self._failure:
            raise EppingError(self._failure.text)
        return self._counter.export
