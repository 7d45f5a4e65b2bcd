# SPDX-License-Identifier: Apache-2.0
"""Writes lines of OTLP/JSON by hand, and compares histories."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from opentelemetry.sdk import metrics
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource

from otel_epping.history.history import History
from otel_epping.history.line import Line
from otel_epping.history.sources.otlp_files import read_otlp
from otel_epping.history.sources.reading import InputFile
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.metric_selection import ALL, MetricSelection
from otel_epping.otel.no_exporter import NoExporter
from otel_epping.otel.otlp.file_sender import FileSender
from otel_epping.series.grouping import Grouping
from otel_epping.series.limits import Limits

S = 10**9
T0 = 1_700_000_000 * S
DELTA, CUMULATIVE = "AGGREGATION_TEMPORALITY_DELTA", "AGGREGATION_TEMPORALITY_CUMULATIVE"
EVERYTHING = ExportSettings(MetricSelection((ALL,)), Limits(max_series=None, roll_up=False), Grouping())


def attributes(**values: Any) -> list[dict[str, Any]]:
    """Returns attributes. Each `__` in a name stands for a dot."""

    def value(each: Any) -> dict[str, Any]:
        if isinstance(each, bool):
            return {"boolValue": each}
        return {"intValue": str(each)} if isinstance(each, int) else {"stringValue": each}

    return [{"key": name.replace("__", "."), "value": value(each)} for name, each in values.items()]


def subnet_attributes(subnet: str, **others: Any) -> list[dict[str, Any]]:
    return attributes(**{semconv.SUBNET: subnet}, **others)


def number(subnet: str, start: int, end: int, value: Any, **others: Any) -> dict[str, Any]:
    """Returns a point of a counter. Times are in seconds after T0."""
    return {
        "attributes": subnet_attributes(subnet, **{semconv.SUBNET_DIRECTION: "to"}, **others),
        "startTimeUnixNano": str(T0 + start * S),
        "timeUnixNano": str(T0 + end * S),
        "asInt": value,
    }


def rtts(subnet: str, start: int, end: int, counts: list[Any], offset: int = -100, scale: int = 4) -> dict[str, Any]:
    """Returns a point of the RTT histogram."""
    return {
        "attributes": subnet_attributes(subnet, **{semconv.METHOD: "tcp_timestamp"}),
        "startTimeUnixNano": str(T0 + start * S),
        "timeUnixNano": str(T0 + end * S),
        "count": str(sum(map(int, counts))),
        "sum": 0.01 * sum(map(int, counts)),
        "scale": scale,
        "zeroCount": "0",
        "positive": {"offset": offset, "bucketCounts": counts},
        "min": 0.005,
        "max": 0.02,
    }


def io(*points: dict[str, Any], temporality: Any = DELTA) -> dict[str, Any]:
    data = {"dataPoints": list(points), "aggregationTemporality": temporality, "isMonotonic": True}
    return {"name": metric_table.SUBNET_BYTES.name, "unit": "By", "sum": data}


def durations(*points: dict[str, Any], temporality: Any = DELTA) -> dict[str, Any]:
    data = {"dataPoints": list(points), "aggregationTemporality": temporality}
    return {"name": metric_table.RTT.name, "unit": "s", "exponentialHistogram": data}


def line(*metrics: dict[str, Any], agent: str = "a", **resource: Any) -> str:
    """Returns a line of a file, with the metrics of one agent."""
    own = attributes(service__instance__id=agent, **resource)
    scopes = [{"scope": {"name": "otel_epping", "version": "0.0.1"}, "metrics": list(metrics)}]
    return json.dumps({"resourceMetrics": [{"resource": {"attributes": own}, "scopeMetrics": scopes}]})


def read(*paths: Path) -> History:
    return read_otlp([InputFile(str(path)) for path in paths])


def write(folder: Path, *lines: str, name: str = "file.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{each}\n" for each in lines))
    return path


def octets(history: History, begin_ns: int | None = None, end_ns: int | None = None) -> dict[str, int]:
    """Returns the number of bytes of each line. Lines without bytes are left out."""
    found = history.total(begin_ns, end_ns).sum(metric_table.SUBNET_BYTES.name)
    assert found is not None
    return {each.label + each.agent: int(n) for each, n in zip(history.lines, found, strict=True) if n}


def buckets(history: History, subnet: str) -> tuple[int, dict[int, int]]:
    """Returns the scale and the counts of the buckets of a line."""
    number = history.lines.index(Line(subnet=subnet))
    found = history.total().rtts()
    first, counts = found.buckets.run(number)
    return int(found.scales[number]), {first + i: int(n) for i, n in enumerate(counts.tolist()) if n}


def content(history: History, scale: int | None = None) -> dict[Any, Any]:
    """Returns all counts of the lines of a history, as values that a test can compare.

    If `scale` is set, the histograms are converted to this scale.
    """
    total = history.total()
    found: dict[Any, Any] = {}
    for number, column in enumerate(history.numbering.columns):
        for each, n in zip(history.lines, total.counters[number].tolist(), strict=True):
            if n:
                found[each, column] = n
    for method in history.numbering.methods:
        table = total.rtts([method])
        for number, each in enumerate(history.lines):
            first, counts = table.buckets.run(number)
            if counts.any():
                its_scale = int(table.scales[number])
                held: Counter[int] = Counter()
                for i, n in enumerate(counts.tolist()):
                    held[first + i >> (0 if scale is None else its_scale - scale)] += n
                times = (int(table.sum_ns[number]), int(table.min_ns[number]), int(table.max_ns[number]))
                found[each, method] = its_scale if scale is None else scale, dict(+held), times
    return found


class Recording:
    """Records the exports of a collector in a file, as `run --record` does."""

    def __init__(self, collector: Any, path: Path, temporality: AggregationTemporality) -> None:
        preferred: Any = dict.fromkeys((metrics.Histogram, metrics.Counter), temporality)
        self.sender = FileSender(str(path))
        self.failures: list[str] = []
        self._exporter = ProducerExporter(
            NoExporter(preferred),
            collector,
            EVERYTHING,
            forward_sdk=False,
            request_sender=self.sender,
            on_result=lambda failure: self.failures.append(failure.text if failure else ""),
        )

    def export(self) -> None:
        resource = Resource({"service.instance.id": "a"})
        self._exporter.export(MetricsData([ResourceMetrics(resource, [], "")]))
