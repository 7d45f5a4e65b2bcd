# SPDX-License-Identifier: Apache-2.0
"""Registers SDK instruments for the agent's own metrics, for example export duration, failed exports and memory usage.

The kernel program also has counters about its own work. These counters are exported together with all other counters of
the kernel program (counters.INTERFACE_COUNTERS), without SDK instruments. Metrics with an attribute for the interface
do not use SDK instruments, because the SDK never removes an attribute set, and sums all attribute sets beyond the first
2,000.
"""

import os
import resource
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider

from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel import agent_metrics, scope, semconv
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.metric import Metric
from otel_epping.otel.metric_selection import Exported
from otel_epping.version import __version__

_NS = 1e9
_DIRECTIONS = {"epping_ingress": "receive", "epping_egress": "transmit"}


def resident_bytes() -> int:
    """Returns the resident memory of this process in bytes. Raises OSError if /proc cannot be read."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


def _of_collector(collector: EppingCollector) -> dict[Metric, Callable[[], Iterable[Observation]]]:
    def events() -> Iterable[Observation]:
        for event, count in collector.attachments.counts.items():
            yield Observation(count, {semconv.INTERFACE_EVENT: event})

    def runs(value: Callable[[int, int], float]) -> Iterable[Observation]:
        for entry_point, (count, time_ns) in collector.run_stats().items():
            if count:
                yield Observation(value(count, time_ns), {semconv.IO_DIRECTION: _DIRECTIONS[entry_point]})

    return {
        agent_metrics.INTERFACE_EVENTS: events,
        agent_metrics.PROGRAM_RUNS: lambda: runs(lambda count, _: count),
        agent_metrics.PROGRAM_TIME: lambda: runs(lambda _, time_ns: time_ns / _NS),
        agent_metrics.MEMORY_USAGE: lambda: [Observation(resident_bytes())],
    }


def _of_exporters(
    exporters: Sequence[ProducerExporter],
) -> dict[Metric, Callable[[], Iterable[Observation]]]:
    producer = exporters[0].producer  # any producer is suitable, because all producers read the same maps
    return {
        agent_metrics.READ_DURATION: lambda: [Observation(producer.read_seconds)],
        agent_metrics.EXPORT_DURATION: lambda: [Observation(max(each.export_seconds for each in exporters))],
        agent_metrics.EXPORT_FAILED: lambda: [Observation(sum(each.failed for each in exporters))],
        agent_metrics.EXPORT_REJECTED: lambda: [Observation(sum(each.rejected for each in exporters))],
        agent_metrics.FLOW_EVICTED: lambda: [Observation(producer.flows_evicted)],
    }


def observe(
    provider: MeterProvider,
    collector: EppingCollector,
    exporters: Sequence[ProducerExporter],
    exported: Exported,
) -> None:
    """Creates instruments of the provider for the collector and for the push exporters. `exporters` may be empty.

    Creates only the instruments of metrics that are in `exported`.

    The instruments have data only in the process that calls this function, and not in forked children.
    """
    process = os.getpid()
    # The scope of the SDK instruments is not scope.SCOPE, because the OTLP encoder keeps only the last of two
    # equal scopes.
    meter = provider.get_meter(__name__, __version__, scope.SCOPE.schema_url)
    create = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }

    def observe_now(look: Callable[[], Iterable[Observation]], _: CallbackOptions) -> Iterable[Observation]:
        if os.getpid() != process:
            return []
        try:
            return list(look())
        except OSError:  # no file descriptor is free to read /proc: this export omits the metric
            return []

    for metric, look in (_of_collector(collector) | (_of_exporters(exporters) if exporters else {})).items():
        if metric in exported:
            create[metric.kind](
                metric.name, callbacks=[partial(observe_now, look)], unit=metric.unit, description=metric.description
            )
