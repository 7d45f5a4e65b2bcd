# SPDX-License-Identifier: Apache-2.0
"""Writes a history as `otel-epping run --record` would have recorded it: deltas of the metrics of the group `core`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.stored import StoredSlice
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric_selection import CORE, MetricSelection

_EXPORTED = {metric.name: set(keys) for metric, keys in MetricSelection((CORE,)).exported.items()}
_KINDS = {metric.name: metric.kind for metric in metric_table.METRICS}
_LONG = {attribute.short: name for name, attribute in semconv.ATTRIBUTES.items() if attribute.short}
_RESOURCE = {"service.name": "otel-epping", "service.instance.id": "0b1f0f5e-7a3e-4a57-9a55-1de1f1c3a001"}


def _attributes(values: dict[str, Any]) -> str:
    def typed(value: Any) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"boolValue": value}
        return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}

    return json.dumps([{"key": name, "value": typed(value)} for name, value in values.items()], separators=(",", ":"))


def _of_line(line: Line) -> dict[str, Any]:
    if line.kind != "network":
        return {{OVERFLOW: semconv.OVERFLOW, UNANSWERED: semconv.UNANSWERED}[line.kind]: True}
    values = {semconv.SUBNET: line.subnet, semconv.NETWORK_TYPE: line.network_type, semconv.NETWORK_NAME: line.name}
    values |= {semconv.AS_ORGANIZATION: line.as_organization, semconv.COUNTRY: line.country, semconv.SIDE: line.side}
    values |= {semconv.INTERFACE: line.interface, **{f"{semconv.NETWORK_TAG}.{tag}": value for tag, value in line.tags}}
    number = {} if line.as_number is None else {semconv.AS_NUMBER: line.as_number}
    return {name: value for name, value in values.items() if value} | number


class _Writer:
    """Writes the points of slices. The attributes of each series are encoded once."""

    def __init__(self, history: History) -> None:
        self._lines = history.lines
        self._methods = list(history.numbering.methods)
        self._known: dict[Any, str] = {}
        self._columns: dict[ColumnKey, list[int]] = {}
        for number, column in enumerate(history.numbering.columns):
            if (kept := _EXPORTED.get(column.metric)) is not None:
                rest = tuple(each for each in column.attributes if _LONG.get(each[0], each[0]) in kept)
                self._columns.setdefault(ColumnKey(column.metric, rest), []).append(number)

    def _encoded(self, line: int, rest: tuple[tuple[str, str], ...]) -> str:
        if (text := self._known.get((line, rest))) is None:
            others = {_LONG.get(name, name): value for name, value in rest}
            text = self._known[line, rest] = _attributes(_of_line(self._lines[line]) | others)
        return text

    def request(self, stored: StoredSlice) -> str:
        """Return one line."""
        times = f'"startTimeUnixNano":"{stored.begin_ns}","timeUnixNano":"{stored.end_ns}"'
        points: dict[str, list[str]] = {}
        for column, numbers in self._columns.items():
            found = [stored.columns[each].astype(np.uint64) for each in numbers if each in stored.columns]
            if found:
                points.setdefault(column.metric, []).extend(
                    f'{{"attributes":{self._encoded(line, column.attributes)},{times},"asInt":"{value}"}}'
                    for line, value in zip(stored.lines.tolist(), np.sum(found, axis=0).tolist(), strict=True)
                    if value
                )
        metrics = [
            {"name": name, "sum": {"dataPoints": "@", "aggregationTemporality": 1 + (_KINDS[name] != "counter")}}
            for name in points
        ]
        texts = [
            json.dumps(metric, separators=(",", ":")).replace('"@"', f"[{','.join(points[str(metric['name'])])}]")
            for metric in metrics
        ]
        histograms = json.dumps(
            {"name": metric_table.RTT.name, "exponentialHistogram": {"dataPoints": "@", "aggregationTemporality": 1}},
            separators=(",", ":"),
        )
        texts.append(histograms.replace('"@"', f"[{','.join(self._histograms(stored, times))}]"))
        scope = '{"scope":{"name":"otel_epping","version":"0.1.0"},"metrics":[' + ",".join(texts) + "]}"
        resource = '{"resource":{"attributes":' + _attributes(_RESOURCE) + '},"scopeMetrics":[' + scope + "]}"
        return '{"resourceMetrics":[' + resource + "]}\n"

    def _histograms(self, stored: StoredSlice, times: str) -> Iterator[str]:
        for method, kept in stored.rtts.items():
            rtts = kept.load()
            for row, line in enumerate(rtts.lines.tolist()):
                first, counts = rtts.buckets.run(row)
                numbers = '","'.join(map(str, counts.tolist()))
                yield (
                    f'{{"attributes":{self._encoded(line, (("method", self._methods[method]),))},{times},'
                    f'"count":"{counts.sum()}","sum":{rtts.sum_ns[row] / 1e9},"scale":{rtts.scales[row]},'
                    f'"positive":{{"offset":{first},"bucketCounts":["{numbers}"]}},'
                    f'"min":{rtts.min_ns[row] / 1e9},"max":{rtts.max_ns[row] / 1e9}}}'
                )


def write_recording(path: Path, history: History) -> None:
    """Write the slices of a history, one line each."""
    writer = _Writer(history)
    with path.open("w") as file:
        for (stored,) in history.periods(None):
            file.write(writer.request(stored))
