# SPDX-License-Identifier: Apache-2.0
"""Exports metrics without an application, through the exporters that the standard OTEL_* variables name."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource, ServiceInstanceIdResourceDetector

from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.exporter import ProducerExporter, temporality_of
from otel_epping.otel.install import attach_producer, export_without_data
from otel_epping.otel.no_exporter import NoExporter
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.otlp.file_sender import FileSender
from otel_epping.otel.otlp.official_exporters import build
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.self_metrics import observe
from otel_epping.otel.variables import standard
from otel_epping.process.escaping import escaped, printable
from otel_epping.process.signals import STOP_S
from otel_epping.series.limits import Limits
from otel_epping.version import __version__

_log = logging.getLogger(__name__)

_SERVICE = "otel-epping"
_RECORD = "record"  # the name of the exporter that writes the recording
# The temporality of recorded counts. With deltas, each line of the file can be used without earlier lines, and series
# without new counts need no space.
_DELTA: dict[type, AggregationTemporality] = dict.fromkeys(
    (Counter, ObservableCounter, Histogram), AggregationTemporality.DELTA
)


def exporter_classes(names: Iterable[str] | None = None) -> list[tuple[str, type[Any]]]:
    """Returns the name and the class of each exporter. For a pull exporter, the class is a MetricReader.

    `names` are names of entry points. By default, the names come from the OTEL_* variables. Raises EppingError for a
    name without an entry point, and for invalid variables.
    """
    classes = []
    for name in standard.read().exporters if names is None else names:
        found = list(entry_points(group="opentelemetry_metrics_exporter", name=name))
        if not found:
            raise EppingError(f"OTEL_METRICS_EXPORTER: there is no exporter {name!r}: install its package with pip")
        classes.append((name, found[0].load()))
    return classes


def _printable(value: Any) -> Any:
    """Escapes unprintable text in a resource attribute.

    OTLP requires UTF-8, but environment variables may contain any bytes.
    """
    if isinstance(value, str):
        return printable(value)
    return tuple(map(_printable, value)) if isinstance(value, (list, tuple)) else value


def default_resource(instance_id: str | None = None) -> Resource:
    """Returns the resource from OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, the detectors and our defaults.

    `instance_id` replaces a service.instance.id that the SDK generated for this process. A configured
    service.instance.id is not replaced.
    """
    configured = Resource.create()
    ours = {"service.name": _SERVICE, "service.version": __version__, "host.name": escaped(socket.gethostname())}
    named = {printable(key): _printable(value) for key, value in configured.attributes.items()}
    if str(named.get("service.name", "")).startswith("unknown_service"):
        del named["service.name"]
    else:
        del ours["service.version"]
    if instance_id and ServiceInstanceIdResourceDetector().detect().attributes.items() <= named.items():
        named["service.instance.id"] = instance_id
    return Resource({**ours, **named}, configured.schema_url)


class Pipelines:
    """A MeterProvider with one reader for each exporter in OTEL_METRICS_EXPORTER.

    `exporters` are the push exporters; each of them exports once per `interval_s`. `instance_id` becomes
    service.instance.id if the OTEL_* variables do not set this attribute. If `instance_id` is None, the SDK generates
    an id. `on_result` is called after each export with the exporter's name and the failure; after a success, the
    failure is None. `variables` are the parsed OTEL_* variables; by default, the constructor reads the variables.
    `settings` decide what each exporter exports. `record` is a file to which all exports are also appended as
    OTLP/JSON, with delta temporality. Raises EppingError for invalid variables, and if the file cannot be opened.
    """

    def __init__(
        self,
        collector: EppingCollector,
        interval_s: float | None,
        on_result: Callable[[str, Failure | None], None],
        instance_id: str | None = None,
        variables: standard.StandardVariables | None = None,
        settings: ExportSettings | None = None,
        record: str | None = None,
    ) -> None:
        if variables is None:
            variables = standard.read()
            variables.apply()
        self._resource = default_resource(instance_id)
        self._settings = settings or ExportSettings()
        try:
            self._build(collector, interval_s or variables.interval_s, variables, on_result, record)
        except ValueError as error:
            raise EppingError(f"an OTEL_* variable is invalid: {' '.join(str(error).split())}") from error

    def _build(
        self,
        collector: EppingCollector,
        interval_s: float,
        variables: standard.StandardVariables,
        on_result: Callable[[str, Failure | None], None],
        record: str | None,
    ) -> None:
        push: list[MetricReader] = []
        pull: list[MetricReader] = []
        self.exporters: list[ProducerExporter] = []
        self.interval_s = interval_s
        for name, exporter_class in exporter_classes(variables.exporters):
            try:
                otlp = variables.otlp.get(name)
                built = build(name, exporter_class, otlp) if otlp else exporter_class()
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
                self._settings,
                name=name,
                on_result=partial(on_result, name),
                explicit_buckets=variables.explicit_buckets,
                certificates=otlp.certificates if otlp else None,
            )
            self.exporters.append(exporter)
            push.append(PeriodicExportingMetricReader(exporter, interval_s * 1e3, variables.timeout_s * 1e3))
        if record:
            recorder = ProducerExporter(
                NoExporter(_DELTA),
                collector,
                self._settings,
                name=_RECORD,
                on_result=partial(on_result, _RECORD),
                request_sender=FileSender(record),
            )
            self.exporters.append(recorder)
            push.append(PeriodicExportingMetricReader(recorder, interval_s * 1e3, variables.timeout_s * 1e3))
        self._readers = [*push, *pull]
        self.provider = MeterProvider(resource=self._resource, metric_readers=self._readers, shutdown_on_exit=False)
        self._producers = [exporter.producer for exporter in self.exporters]
        for reader in push:
            export_without_data(reader, self._resource)
        for reader in pull:
            producer = EppingMetricProducer(collector, temporality_of(reader), self._settings)
            self._producers.append(producer)
            attach_producer(reader, producer, self._resource)
        observe(self.provider, collector, self.exporters, self._settings.selection.exported)

    def change_limits(self, limits: Limits) -> None:
        """Sets new limits for all exporters, from the next reading of each exporter on (see EppingMetricProducer)."""
        for producer in self._producers:
            producer.limits = limits

    def shutdown(self, timeout_s: float = STOP_S) -> bool:
        """Exports the last interval and stops. Returns true if all exporters finished in time.

        Exporters that did not finish in time keep running. If the last interval must be complete, detach the eBPF
        program from the interfaces before you call shutdown().
        """
        deadline = time.monotonic() + timeout_s
        for exporter in self.exporters:
            exporter.end_pause()
        # The readers are shut down in parallel, because the shutdown of one reader may block. The provider's shutdown()
        # would shut down one reader after the other.
        threads = [threading.Thread(target=_shut_down, args=(reader,), daemon=True) for reader in self._readers]
        for thread, reader in zip(threads, self._readers, strict=True):
            try:
                thread.start()
            except RuntimeError:  # the limit on threads is reached: the current thread shuts down the reader
                _shut_down(reader)
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)


def _shut_down(reader: MetricReader) -> None:
    """Shuts down a reader, which exports one last time. The shutdown has no timeout."""
    try:
        reader.shutdown(timeout_millis=threading.TIMEOUT_MAX)
    except Exception as error:
        _log.warning("cannot shut down %s: %s", type(reader).__name__, error)
