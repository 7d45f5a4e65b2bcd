# SPDX-License-Identifier: Apache-2.0
"""Computes what each group of metrics and each attribute adds to an export.

The computation needs two exports of the same counts: the export with the chosen settings, and the export of all metrics
with all attributes. Both exports have the same limits on series.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from otel_epping.cost.export import Export, Series
from otel_epping.otel.metric import GROUPS, Metric
from otel_epping.otel.metric_selection import MetricSelection
from otel_epping.otel.metric_table import METRICS, NETWORK_KEYS
from otel_epping.otel.semconv import ATTRIBUTES, NETWORK_TAG

# Metrics that are not ours, for example the metrics of the SDK.
OTHER = "other"


@dataclass(frozen=True)
class GroupUsage:
    """What a group of metrics adds to one export.

    points       data points, with the chosen settings
    bytes        bytes without compression, with the chosen settings
    more_points  data points that are added if all metrics of the group are exported with all attributes
    more_bytes   bytes that are added then
    """

    group: str
    points: int
    bytes: int
    more_points: int
    more_bytes: int


def groups(chosen: Export, complete: Export) -> Iterator[GroupUsage]:
    """Yields what each group of metrics adds."""
    names = {group: [metric.name for metric in METRICS if metric.group == group] for group in GROUPS}
    ours = {name for each in names.values() for name in each}
    names[OTHER] = [name for name in complete.metrics if name not in ours]
    for group, metrics in names.items():
        now, all_ = chosen.of(metrics), complete.of(metrics)
        sizes = [sum(metric.encoded_bytes for metric in each.metrics.values()) for each in (now, all_)]
        if all_.points or group != OTHER:
            more = max(0, all_.points - now.points), max(0, sizes[1] - sizes[0])
            yield GroupUsage(group, now.points, sizes[0], *more)


@dataclass(frozen=True)
class AttributeUsage:
    """What an optional attribute adds to a group of metrics.

    name   the short name of the attribute
    saves  number of series that are saved if the attribute is left out; 0 if the attribute is not exported
    adds   number of series that are added if the attribute is exported; 0 if the attribute is exported already
    """

    group: str
    name: str
    saves: int
    adds: int


def attributes(selection: MetricSelection, complete: Export) -> Iterator[AttributeUsage]:
    """Yields what each optional attribute adds to each exported group.

    To count series, this function merges the series of the complete export in the same way as the agent
    (series/projection.py). Attributes that no series has are left out, for example AS numbers if there is no database.
    """
    present = {_attribute(name) for usage in complete.metrics.values() for series in usage.values for name, _ in series}
    for group in GROUPS:
        exported = {metric: keys for metric, keys in selection.exported.items() if metric.group == group}
        for key in dict.fromkeys(key for metric in exported for key in metric.keys):
            if ATTRIBUTES[key].needed or (key in NETWORK_KEYS and key not in present):
                continue
            saves = adds = 0
            for metric, keys in exported.items():
                now = {*keys}
                if key in now:
                    saves += merged(metric, now, complete) - merged(metric, now - {key}, complete)
                elif key in metric.keys:
                    adds += merged(metric, now | {key}, complete) - merged(metric, now, complete)
            yield AttributeUsage(group, ATTRIBUTES[key].short, saves, adds)


def _attribute(name: str) -> str:
    """Returns the attribute that has an exported name. The name of a tag consists of NETWORK_TAG, a dot and the tag."""
    return NETWORK_TAG if name.startswith(f"{NETWORK_TAG}.") else name


def merged(metric: Metric, keys: set[str], complete: Export) -> int:
    """Returns the number of series of a metric if only the attributes `keys` are exported.

    The overflow point and the aggregate of subnets that never answered are not merged with other series, because each
    has an attribute of its own.
    """
    if metric.name not in complete.metrics:
        return 0
    left_out = {*metric.keys} - keys
    series: set[Series] = {
        frozenset(pair for pair in each if _attribute(pair[0]) not in left_out)
        for each in complete.metrics[metric.name].values
    }
    return len(series)
