# SPDX-License-Identifier: Apache-2.0
"""Plugs the producer into the OpenTelemetry SDK, in three ways.

install(provider, exporter, collector)   an application's own MeterProvider; public API only
attach(reader, collector)                a reader that is there already, of any kind, Prometheus too
Pipelines(collector)                     no application at all: exporters as the standard OTEL_* variables say
"""

import atexit
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
)
from opentelemetry.sdk.resources import Resource, ServiceInstanceIdResourceDetector

from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.explicit_buckets import explicit
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.otlp.official_exporters import build
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.self_metrics import observe
from otel_epping.otel.variables import standard
from otel_epping.process.signals import STOP_S
from otel_epping.process.text import escaped, printable
from otel_epping.version import __version__

_log = logging.getLogger(__name__)

_SERVICE = "otel-epping"


class _InstalledReader(PeriodicExportingMetricReader):
    """A reader that is shut down once, in the process that made it: by the application, or at exit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._process = os.getpid()
        super().__init__(*arguments, **options)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Exports the last interval, and ends. Does nothing in a forked child, as the connection is its parent's."""
        atexit.unregister(self.shutdown)
        if os.getpid() != self._process:
            return
        super().shutdown(timeout_millis, **kwargs)


def install(
    provider: MeterProvider, exporter: MetricExporter, collector: EppingCollector, interval_s: float | None = None
) -> PeriodicExportingMetricReader:
    """Has an application's provider export the collector's metrics, with its resource, through `exporter`.

    Returns the reader: shut it down before the exporter's process ends, or at exit it is. The provider's own shutdown()
    and force_flush() pass over readers that came later (SDK 1.45), so call the reader's. `interval_s` defaults to
    OTEL_METRIC_EXPORT_INTERVAL. Only the process that calls this exports: its forked children, as the workers of a
    server that loads the application first, export nothing of the collector.
    """
    wrapped = ProducerExporter(exporter, collector, forward_sdk=False)
    observe(provider, collector, [wrapped])
    reader = _InstalledReader(wrapped, interval_s and interval_s * 1e3)
    provider.add_metric_reader(reader)
    atexit.register(reader.shutdown)
    return reader


def attach(
    reader: MetricReader, collector: EppingCollector, resource: Resource, *, explicit_buckets: bool | None = None
) -> Callable[[], None]:
    """Adds the collector's metrics to all that an existing reader collects; returns what undoes it.

    A reader does not say whether an export succeeded, so prefer install() where you can choose: with delta temporality,
    a failed export is lost here. Explicit buckets are made for a Prometheus reader, or as you say.
    """
    if explicit_buckets is None:
        explicit_buckets = "prometheus" in type(reader).__module__
    # Private, all three, but old, and the only way to a reader that exists.
    inner: Callable[..., MetricsData | None] | None = reader._collect  # type: ignore[assignment]
    temporality = ProducerExporter.temporality_of(reader._preferred_temporality)
    process = os.getpid()
    producer = EppingMetricProducer(collector, temporality)

    def collect(collecting: MetricReader, timeout_millis: float = 10_000) -> MetricsData | None:
        data = inner(collecting, timeout_millis=timeout_millis) if inner else None
        if os.getpid() != process:  # a fork: the reader's thread begins anew there, and would tell all of it again
            return data
        try:
            ours = producer.produce()
        except Exception:
            # Raised here, it would end the reader's thread, and with it all of the application's metrics.
            _log.exception("cannot read the kernel's counts")
            return data
        if explicit_buckets:
            ours = explicit(ours, collector.config.scale)
        if data is None or not data.resource_metrics:
            return MetricsData([ResourceMetrics(resource, [ours], resource.schema_url)])
        first, *others = data.resource_metrics
        merged = ResourceMetrics(first.resource, [*first.scope_metrics, ours], first.schema_url)
        return MetricsData([merged, *others])

    reader._set_collect_callback(collect)  # type: ignore[arg-type]
    return lambda: reader._set_collect_callback(inner)  # type: ignore[arg-type]


def exporter_classes(names: Iterable[str] | None = None) -> list[tuple[str, type[Any]]]:
    """Exporters or readers by the names of their entry points; by default those of the standard variables.

    Raises EppingError for one that isn't there, and for variables that are wrong.
    """
    classes = []
    for name in standard.read().exporters if names is None else names:
        found = list(entry_points(group="opentelemetry_metrics_exporter", name=name))
        if not found:
            raise EppingError(f"OTEL_METRICS_EXPORTER: there is no exporter {name!r}: pip install the package it is in")
        classes.append((name, found[0].load()))
    return classes


def _printable(value: Any) -> Any:
    """An attribute that OTLP can carry: strings must be UTF-8, and those of variables may not be."""
    if isinstance(value, str):
        return printable(value)
    return tuple(map(_printable, value)) if isinstance(value, (list, tuple)) else value


def default_resource(instance_id: str | None = None) -> Resource:
    """What OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and the resource detectors say; where they are silent, us.

    `instance_id` goes before the one that the SDK has made up for this process.
    """
    said = Resource.create()
    ours = {"service.name": _SERVICE, "service.version": __version__, "host.name": escaped(socket.gethostname())}
    named = {printable(key): _printable(value) for key, value in said.attributes.items()}
    if str(named.get("service.name", "")).startswith("unknown_service"):
        del named["service.name"]
    else:
        del ours["service.version"]
    if instance_id and ServiceInstanceIdResourceDetector().detect().attributes.items() <= named.items():
        named["service.instance.id"] = instance_id
    return Resource({**ours, **named}, said.schema_url)


class Pipelines:
    """A MeterProvider of our own, with an exporter for each that OTEL_METRICS_EXPORTER names.

    `exporters` are those that push, each every `interval_s`. `instance_id` is who sends, by default somebody new.

    `on_result` is called after each export with the name of its exporter and the failure, or None. `variables` are the
    standard variables; by default they are read now. Raises EppingError for variables that are wrong.
    """

    def __init__(
        self,
        collector: EppingCollector,
        interval_s: float | None,
        on_result: Callable[[str, Failure | None], None],
        instance_id: str | None = None,
        variables: standard.Standard | None = None,
    ) -> None:
        if variables is None:
            variables = standard.read()
            variables.apply()
        self._resource = default_resource(instance_id)
        try:
            self._build(collector, interval_s or variables.interval_s, variables, on_result)
        except ValueError as error:
            raise EppingError(f"an OTEL_* variable is wrong: {' '.join(str(error).split())}") from error

    def _build(
        self,
        collector: EppingCollector,
        interval_s: float,
        variables: standard.Standard,
        on_result: Callable[[str, Failure | None], None],
    ) -> None:
        push: list[MetricReader] = []
        pull: list[MetricReader] = []
        self.exporters: list[ProducerExporter] = []
        self.interval_s = interval_s
        for name, made in exporter_classes(variables.exporters):
            try:
                otlp = variables.otlp.get(name)
                built = build(name, made, otlp) if otlp else made()
            except EppingError:
                raise
            except Exception as error:
                raise EppingError(f"cannot set up the exporter {name} from its OTEL_* variables: {error}") from error
            if isinstance(built, MetricReader):
                pull.append(built)
                continue
            exporter = ProducerExporter(
                built,
                collector,
                on_result=partial(on_result, name),
                explicit_buckets=variables.explicit_buckets,
                certificates=otlp.certificates if otlp else None,
            )
            self.exporters.append(exporter)
            push.append(PeriodicExportingMetricReader(exporter, interval_s * 1e3, variables.timeout_s * 1e3))
        self._readers = [*push, *pull]
        self.provider = MeterProvider(resource=self._resource, metric_readers=self._readers, shutdown_on_exit=False)
        for pulled in pull:
            attach(pulled, collector, self._resource)
        observe(self.provider, collector, self.exporters)

    def shutdown(self, timeout_s: float = STOP_S) -> bool:
        """Exports the last interval, and ends; whether all exporters were done in time. Others are left to themselves.

        Detach from interfaces first, so that it is whole.
        """
        deadline = time.monotonic() + timeout_s
        for exporter in self.exporters:
            exporter.end_pause()
        # All at once: the provider's own shutdown() would have each wait for those before it, which may hang.
        ending = [threading.Thread(target=_shut_down, args=(reader,), daemon=True) for reader in self._readers]
        for thread, reader in zip(ending, self._readers, strict=True):
            try:
                thread.start()
            except RuntimeError:  # no more threads: one after the other
                _shut_down(reader)
        for thread in filter(threading.Thread.is_alive, ending):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in ending)


def _shut_down(reader: MetricReader) -> None:
    """Has a reader export a last time, however long it takes."""
    try:
        reader.shutdown(timeout_millis=threading.TIMEOUT_MAX)
    except Exception as error:
        _log.warning("cannot shut down %s: %s", type(reader).__name__, error)
