# SPDX-License-Identifier: Apache-2.0
"""Adds the collector's metrics to an application that uses the OpenTelemetry SDK.

install(provider, exporter, collector)  adds a reader with an exporter to a MeterProvider; failed exports lose no counts
attach(reader, collector, resource)     adds the metrics to an existing reader of any kind, for example for Prometheus
"""

import atexit
import logging
import os
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
)
from opentelemetry.sdk.resources import Resource

from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel import private
from otel_epping.otel.explicit_buckets import to_explicit
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.exporter import ProducerExporter, temporality_of
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.self_metrics import observe

_log = logging.getLogger(__name__)


class _InstalledReader(PeriodicExportingMetricReader):
    """A reader that the application shuts down, or that is shut down at exit.

    In a forked child, shutdown() does nothing.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._process = os.getpid()
        super().__init__(*arguments, **options)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Exports the last interval and stops. Does nothing in a forked child of the process."""
        atexit.unregister(self.shutdown)
        if os.getpid() != self._process:
            return
        super().shutdown(timeout_millis, **kwargs)


def install(
    provider: MeterProvider,
    exporter: MetricExporter,
    collector: EppingCollector,
    interval_s: float | None = None,
    settings: ExportSettings | None = None,
) -> PeriodicExportingMetricReader:
    """Exports the collector's metrics through `exporter`, with the resource of the application's provider.

    Adds a reader to the provider, and returns the reader. Shut down the reader before the process ends. If the
    application does not shut down the reader, the reader is shut down at exit. Call shutdown() and force_flush() on the
    reader, and not on the provider: the methods of the provider skip readers that were added after the provider was
    created (SDK 1.45). `interval_s` is the time between exports. By default, the variable OTEL_METRIC_EXPORT_INTERVAL
    sets this time. `settings` decide what is exported.

    Only the process that calls install() exports the collector's metrics. Forked children of this process do not export
    the collector's metrics. For example, the workers of a server are forked children if the server loads the
    application before it forks.
    """
    wrapped = ProducerExporter(exporter, collector, settings, forward_sdk=False)
    observe(provider, collector, [wrapped], wrapped.producer.exported)
    reader = _InstalledReader(wrapped, interval_s and interval_s * 1e3)
    provider.add_metric_reader(reader)
    export_without_data(reader, private.resource_of(provider))
    atexit.register(reader.shutdown)
    return reader


def attach(
    reader: MetricReader,
    collector: EppingCollector,
    resource: Resource,
    settings: ExportSettings | None = None,
    *,
    explicit_buckets: bool | None = None,
) -> Callable[[], None]:
    """Adds the collector's metrics to the metrics that an existing reader collects.

    Returns a function that removes the collector's metrics from the reader again.

    A reader does not report whether an export succeeded. So with delta temporality, the counts of a failed export are
    lost. Prefer install() where possible. `resource` is used only if the reader itself collects no metrics. `settings`
    decide what is exported. With `explicit_buckets`, histograms are converted to explicit buckets. By default,
    histograms are converted only for a Prometheus reader.
    """
    producer = EppingMetricProducer(collector, temporality_of(reader), settings)
    return attach_producer(reader, producer, resource, explicit_buckets=explicit_buckets)


def export_without_data(reader: MetricReader, resource: Resource) -> None:
    """Lets a reader call its exporter even if no instrument of the SDK has data.

    If the group `agent` of metrics is not exported, it can happen that no instrument has data. The exporter must still
    export the metrics that otel-epping builds without instruments.
    """
    inner = private.collect_callback(reader)

    def collect(collecting: MetricReader, timeout_millis: float = 10_000) -> MetricsData:
        data = inner(collecting, timeout_millis=timeout_millis) if inner else None
        return data if data and data.resource_metrics else MetricsData([ResourceMetrics(resource, [], "")])

    private.set_collect_callback(reader, collect)


def attach_producer(
    reader: MetricReader,
    producer: EppingMetricProducer,
    resource: Resource,
    *,
    explicit_buckets: bool | None = None,
) -> Callable[[], None]:
    """Does the same as attach(), but with an existing producer."""
    if explicit_buckets is None:
        explicit_buckets = "prometheus" in type(reader).__module__
    inner = private.collect_callback(reader)
    process = os.getpid()

    def collect(collecting: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        data = inner(collecting, timeout_millis=timeout_millis) if inner else None
        # In a forked child, the SDK starts the reader's thread again. But the parent process already exports the
        # kernel's counts.
        if os.getpid() != process:
            return data
        try:
            ours = producer.produce()
        except Exception:
            # An exception would end the reader's thread, and no more metrics of the application would be exported.
            _log.exception("cannot read the kernel's counts; this export has only the application's metrics")
            return data
        if explicit_buckets:
            ours = to_explicit(ours, producer.config.scale)
        if data is None or not data.resource_metrics:
            return MetricsData([ResourceMetrics(resource, [ours], resource.schema_url)])
        first, *others = data.resource_metrics
        merged = ResourceMetrics(first.resource, [*first.scope_metrics, ours], first.schema_url)
        return MetricsData([merged, *others])

    private.set_collect_callback(reader, collect)
    return lambda: private.set_collect_callback(reader, inner)
