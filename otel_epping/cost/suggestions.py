# SPDX-License-Identifier: Apache-2.0
"""Finds the settings that would reduce an export most.

Each suggestion is tried on the same counts: an exporter with the changed settings makes an export, and the export is
counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from otel_epping.cost import usage
from otel_epping.cost.counting_exporter import CountingExporter, ExportSettings
from otel_epping.cost.export import Export
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel import agent_metrics
from otel_epping.otel.metric import GROUPS, RTTS
from otel_epping.otel.metric_selection import CORE, MetricSelection, attributes_of
from otel_epping.otel.semconv import ATTRIBUTES, SUBNET

# A suggestion must reduce the data points per minute, the series or the bytes per minute by this share.
_LEAST_EFFECT = 0.05
_MAX_SERIES = (1000, 500, 200, 100, 50, 20, 10)
_INTERVALS = {"1m": 60.0, "5m": 300.0}
_NS = 1e9


@dataclass(frozen=True)
class Suggestion:
    """Other settings, and the export with these settings. `options` are the changed options of the command line."""

    options: str
    export: Export
    interval_s: float

    @property
    def points_per_minute(self) -> float:
        """Number of data points per minute."""
        return self.export.points * 60 / self.interval_s

    @property
    def bytes_per_minute(self) -> float:
        """Bytes per minute without compression."""
        return self.export.encoded_bytes * 60 / self.interval_s


def suggestions(
    collector: EppingCollector, settings: ExportSettings, chosen: Export, complete: Export, interval_s: float
) -> list[Suggestion]:
    """Returns the suggestions that help. The suggestion with the fewest data points per minute is the first."""
    if not chosen.points:
        return []
    now = Suggestion("", chosen, interval_s)
    found = [
        Suggestion(options, CountingExporter(collector, changed).export(), interval_s)
        for options, changed in _candidates(settings, chosen, complete)
    ]
    found += [
        Suggestion(f"--interval {text}", chosen, longer_s)
        for text, longer_s in _INTERVALS.items()
        if longer_s > interval_s
    ][:1]
    helping = [each for each in found if _effect(now, each) >= _LEAST_EFFECT]
    return sorted(helping, key=lambda each: (each.points_per_minute, each.bytes_per_minute))


def _effect(now: Suggestion, other: Suggestion) -> float:
    """Returns the greatest of three shares: by how much data points, series and bytes become fewer."""
    shares = [
        (other.points_per_minute, now.points_per_minute),
        (other.export.series, now.export.series),
        (other.bytes_per_minute, now.bytes_per_minute),
    ]
    return max(1 - less / more for less, more in shares)


def _candidates(settings: ExportSettings, chosen: Export, complete: Export) -> Iterator[tuple[str, ExportSettings]]:
    """Yields changed settings that may help, and the options that change them."""
    yield from _fewer_metrics(settings, chosen, complete)
    yield from _fewer_attributes(settings, chosen)
    series = int(next(iter(complete.metrics[agent_metrics.SERIES_USAGE.name].values.values())))
    for limit in [each for each in _MAX_SERIES if 2 * each <= series][:1]:
        yield f"--max-series {limit}", replace(settings, limits=replace(settings.limits, max_series=limit))


def _fewer_metrics(settings: ExportSettings, chosen: Export, complete: Export) -> Iterator[tuple[str, ExportSettings]]:
    """Yields settings without the groups that are not in `core`, without the largest group, and with RTTs only."""
    selection = settings.selection
    exported = {each.group: each for each in usage.groups(chosen, complete) if each.points and each.group in GROUPS}
    choices: list[tuple[str, ...]] = [(CORE,), (RTTS,)]
    if CORE not in selection.metrics and len(exported) > 1:
        largest = max(exported, key=lambda group: exported[group].points)
        choices.append(tuple(group for group in exported if group != largest))
    for names in dict.fromkeys(choices):
        kept = {group: value for group, value in selection.attributes.items() if names == (CORE,) or group in names}
        yield f"--metrics {','.join(names)}", replace(settings, selection=MetricSelection(names, kept))


def _fewer_attributes(settings: ExportSettings, chosen: Export) -> Iterator[tuple[str, ExportSettings]]:
    """Yields settings without the optional attributes of one group, except the subnet."""
    selection = settings.selection
    for group in GROUPS:
        known = attributes_of(group)
        kept = tuple(name for name, key in known.items() if key == SUBNET or ATTRIBUTES[key].needed)
        if any(metric.group == group and metric.name in chosen.metrics for metric in selection.exported):
            changed = MetricSelection(selection.metrics, {**selection.attributes, group: kept})
            yield f"--attributes {_text(changed)}", replace(settings, selection=changed)


def _text(selection: MetricSelection) -> str:
    """Returns the selected attributes as the value of the option --attributes."""
    text = ";".join(f"{group}={','.join(names)}" for group, names in selection.attributes.items())
    return f'"{text}"' if ";" in text else text
