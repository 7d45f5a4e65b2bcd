# SPDX-License-Identifier: Apache-2.0
"""Selects the metrics that are exported, and the attributes of each metric (settings `metrics` and `attributes`)."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from otel_epping.errors import EppingError
from otel_epping.otel.metric import ECN_GROUP, GROUPS, Metric
from otel_epping.otel.metric_table import METRICS, OUT_OF_ORDER, ZERO_WINDOW
from otel_epping.otel.semconv import ATTRIBUTES, TRAFFIC_CLASS

CORE, ALL = "core", "all"
SELECTIONS = (*GROUPS, CORE, ALL)

# Maps each exported metric to the attributes of its points.
Exported = dict[Metric, tuple[str, ...]]


def _exported_by(selection: str) -> Exported:
    """Returns the metrics and attributes that one name in the setting `metrics` exports."""
    if selection == CORE:
        left_out = [metric for metric in METRICS if metric.group == ECN_GROUP] + [OUT_OF_ORDER, ZERO_WINDOW]
        core = (metric for metric in METRICS if metric not in left_out)
        return {metric: tuple(key for key in metric.keys if key != TRAFFIC_CLASS) for metric in core}
    return {metric: metric.keys for metric in METRICS if selection in (ALL, metric.group)}


def attributes_of(group: str) -> dict[str, str]:
    """Returns the attributes of a group, by their short names."""
    keys = (key for metric in METRICS if metric.group == group for key in metric.keys)
    return {ATTRIBUTES[key].short: key for key in keys}


def _check(kind: str, names: Iterable[str], allowed: Collection[str]) -> None:
    for name in names:
        if name not in allowed:
            raise EppingError(f"there is no {kind} {name!r}: choose among {', '.join(allowed)}")


def check_metrics(selections: Collection[str]) -> None:
    """Raises EppingError if a name in the setting `metrics` is unknown, or if the setting contains no name."""
    _check("group of metrics", selections, SELECTIONS)
    if not selections:
        raise EppingError(f"no metric is exported: choose among {', '.join(SELECTIONS)}")


def check_attributes(attributes: Mapping[str, Collection[str]]) -> None:
    """Raises EppingError if the setting `attributes` has an unknown name, or leaves out an attribute that is needed."""
    _check("group of metrics", attributes, GROUPS)
    for group, names in attributes.items():
        known = attributes_of(group)
        _check(f"attribute in group {group}", names, known)
        for name, key in known.items():
            if name not in names and (reason := ATTRIBUTES[key].needed):
                raise EppingError(f"the attribute {name} cannot be left out of group {group}: {reason}")


@dataclass(frozen=True)
class MetricSelection:
    """The metrics to export, and their attributes. Raises EppingError for names that do not exist.

    metrics     groups of metrics: rtt, traffic, tcp, flows, ecn, interface, agent; `core`: the most important metrics
                and attributes of all groups; `all`: all metrics with all attributes
    attributes  for some groups, the short names of the exported attributes, for example {"traffic": ("subnet", "side",
                "direction")}. Points that differ only in other attributes are added up. For all other groups, `metrics`
                selects the attributes
    """

    metrics: Collection[str] = (CORE,)
    attributes: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        check_attributes(self.attributes)
        for group in self.attributes:
            if not any(metric.group == group for metric in self.exported):
                raise EppingError(f"attributes are selected for group {group}, but metrics does not contain the group")

    @cached_property
    def exported(self) -> Exported:
        """Maps each exported metric to the attributes of its points.

        If several names in `metrics` select a metric, the metric has the attributes of all of these selections.
        """
        parts = [_exported_by(selection) for selection in self.metrics]
        found: Exported = {}
        for metric in METRICS:
            kept = [part[metric] for part in parts if metric in part]
            if kept:
                wanted = set().union(*kept)
                if metric.group in self.attributes:
                    known = attributes_of(metric.group)
                    wanted = {known[name] for name in self.attributes[metric.group]}
                found[metric] = tuple(key for key in metric.keys if key in wanted)
        return found
