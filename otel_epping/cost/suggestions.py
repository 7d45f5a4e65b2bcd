# SPDX-License-Identifier: Apache-2.0
"""Finds the settings that would reduce an export most.

Each candidate is tried: from the start of the measurement, an exporter with the changed settings reads the same counts
as the exporter with the chosen settings.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from otel_epping.cost.export import Export
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric import GROUPS, RTTS
from otel_epping.otel.metric_selection import CORE, MetricSelection, attributes_of
from otel_epping.otel.semconv import AS_NUMBER, ATTRIBUTES, COUNTRY, NETWORK_NAME, NETWORK_TAG, SUBNET
from otel_epping.series import grouping

# A suggestion must reduce the data points per minute, the series or the bytes per minute by at least this share.
_LEAST_EFFECT = 0.05
_MAX_SERIES = (1000, 200, 50, 10)
# Value of group_by -> the attributes that say what a series stands for. With any other value, this is a tag.
_SUBJECTS = {
    grouping.SUBNET: {SUBNET},
    grouping.NAME: {NETWORK_NAME},
    grouping.ASN: {AS_NUMBER},
    grouping.COUNTRY: {COUNTRY},
}
_INTERVALS = {"1m": 60.0, "5m": 300.0}


class Candidate(NamedTuple):
    """Changed settings, and the options of the command line that change the settings."""

    options: str
    settings: ExportSettings


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


def suggestions(chosen: Export, tried: Sequence[tuple[str, Export]], interval_s: float) -> list[Suggestion]:
    """Returns the suggestions that reduce the cost. The suggestion with the fewest data points per minute is the first.

    chosen  the export with the chosen settings
    tried   the options of each candidate, and the export with these options
    """
    if not chosen.points:
        return []
    now = Suggestion("", chosen, interval_s)
    found = [Suggestion(options, export, interval_s) for options, export in tried]
    longer = [Suggestion(f"--interval {text}", chosen, time_s) for text, time_s in _INTERVALS.items()]
    found += [each for each in longer if each.interval_s > interval_s][:1]
    helping = [each for each in found if _effect(now, each) >= _LEAST_EFFECT]
    return sorted(helping, key=lambda each: (each.points_per_minute, each.bytes_per_minute))


def _effect(now: Suggestion, other: Suggestion) -> float:
    """Returns the greatest of three reductions: of the data points, of the series and of the bytes.

    Each reduction is a share of the current number.
    """
    shares = [
        (other.points_per_minute, now.points_per_minute),
        (other.export.series, now.export.series),
        (other.bytes_per_minute, now.bytes_per_minute),
    ]
    return max(1 - less / more for less, more in shares)


def candidates(settings: ExportSettings, *, has_names: bool) -> list[Candidate]:
    """Returns changed settings that may help. `has_names` is true if there are named networks."""
    selection = settings.selection
    found = [*_fewer_metrics(settings), *_fewer_attributes(settings, has_names=has_names)]
    found = [each for each in found if each.settings.selection.exported != selection.exported]
    for limit in _MAX_SERIES:
        if limit < (settings.limits.max_series or math.inf):
            limits = replace(settings.limits, max_series=limit)
            found.append(Candidate(f"--max-series {limit}", replace(settings, limits=limits)))
    return found


def _fewer_metrics(settings: ExportSettings) -> Iterator[Candidate]:
    """Yields settings that export `core`, and settings that export only RTTs."""
    exported, attributes = settings.selection.exported, settings.selection.attributes
    for name in (CORE, RTTS):
        groups = {metric.group for metric in MetricSelection((name,)).exported}
        kept = {group: names for group, names in attributes.items() if group in groups}
        selection = MetricSelection((name,), kept)
        options = f"--metrics {name}" + (f" --attributes {_text(selection)}" if kept != attributes and kept else "")
        if selection.exported.keys() <= exported.keys():
            yield Candidate(options, replace(settings, selection=selection))


def _fewer_attributes(settings: ExportSettings, *, has_names: bool) -> Iterator[Candidate]:
    """Yields settings that leave out all optional attributes of one group except what a series stands for."""
    selection, group_by = settings.selection, settings.grouping.group_by
    subject = {SUBNET, NETWORK_NAME} if group_by == grouping.SUBNET and has_names else _SUBJECTS.get(group_by)
    for group in GROUPS:
        exported = {key for metric, keys in selection.exported.items() if metric.group == group for key in keys}
        kept = [
            name
            for name, key in attributes_of(group).items()
            if ATTRIBUTES[key].needed or (key in (subject or {NETWORK_TAG}) and key in exported)
        ]
        if exported:
            changed = MetricSelection(selection.metrics, {**selection.attributes, group: tuple(kept)})
            yield Candidate(f"--attributes {_text(changed)}", replace(settings, selection=changed))


def _text(selection: MetricSelection) -> str:
    """Returns the selected attributes as the value of the option --attributes."""
    text = ";".join(f"{group}={','.join(names)}" for group, names in selection.attributes.items())
    return f'"{text}"' if ";" in text else text
