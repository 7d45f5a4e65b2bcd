# SPDX-License-Identifier: Apache-2.0
"""Adds the collector's metrics to an application that uses the OpenTelemetry SDK.

install(provider, exporter, collector)  adds a reader and an exporter to a MeterProvider; acknowledges each request
attach(reader, collector, resource)     adds the metrics to an existing reader of any kind, for example Prometheus
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
from otel_epping.otel.exporter import ProducerExporter, temporality_of
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.self_metrics import observe
from otel_epping.series.limits import Limits

_log = logging.getLogger(__name__)


class _InstalledReader(PeriodicExportingMetricReader):
    """A reader that is shut down once, in the process that made it: by the application, or at exit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._process = os.getpid()
        super().__init__(*arguments, **options)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Exports the last interval and stops. Does nothing in a forked child: the connection belongs to the parent."""
        atexit.unregister(self.shutdown)
        if os.getpid() != self._process:
            return
        super().shutdown(timeout_millis, **kwargs)


def install(
    provider: MeterProvider,
    exporter: MetricExporter,
    collector: EppingCollector,
    interval_s: float | None = None,
    limits: Limits | None = None,
) -> PeriodicExportingMetricReader:
    """Exports the collector's metrics through `exporter`, with the resource of an application's provider.

    Returns the reader. Shut it down before the process ends; otherwise it is shut down at exit. Call the reader's own
    shutdown() and force_flush(): the provider's skip readers that were added later (SDK 1.45). `interval_s` defaults to
    OTEL_METRIC_EXPORT_INTERVAL. `limits` bound the series that are exported.

    Only the process that calls install() exports. Its forked children, for example the workers of a server that loads
    the application first, export nothing of the collector.
    """
    wrapped = ProducerExporter(exporter, collector, limits, forward_sdk=False)
    observe(provider, collector, [wrapped])
    reader = _InstalledReader(wrapped, interval_s and interval_s * 1e3)
    provider.add_metric_reader(reader)
    atexit.register(reader.shutdown)
    return reader


def attach(
    reader: MetricReader,
    collector: EppingCollector,
    resource: Resource,
    limits: Limits | None = None,
    *,
    explicit_buckets: bool | None = None,
) -> Callable[[], None]:
    """Adds the collector's metrics to what an existing reader collects. Returns a function that removes them again.

    A reader does not report whether an export succeeded. With delta temporality, the counts of a failed export are
    lost: prefer install() where possible. `explicit_buckets` converts histograms to explicit buckets; by default only
    for a Prometheus reader.
    """
    producer = EppingMetricProducer(collector, temporality_of(reader), limits)
    return attach_producer(reader, producer, resource, explicit_buckets=explicit_buckets)


def attach_producer(
    reader: MetricReader,
    producer: EppingMetricProducer,
    resource: Resource,
    *,
    explicit_buckets: bool | None = None,
) -> Callable[[], None]:
    """Does what attach() does, with a producer that exists already."""
    if explicit_buckets is None:
        explicit_buckets = "prometheus" in type(reader).__module__
    inner = private.collect_callback(reader)
    process = os.getpid()

    def collect(collecting: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        data = inner(collecting, timeout_millis=timeout_millis) if inner else None
        # The SDK starts the reader's thread again in a forked child, which would export the same counts once more.
        if os.getpid() != process:
            return data
        try:
            ours = producer.produce()
        except Exception:
            # An exception would end the reader's thread, and with it all exports of the application.
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
