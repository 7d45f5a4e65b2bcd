# SPDX-License-Identifier: Apache-2.0
"""Translates the names of metrics and labels in Prometheus back to OpenTelemetry's names.

Prometheus' OTLP receiver has four strategies for names (`otlp.translation_strategy`): with underscores or with dots,
and with or without suffixes for the unit and the type. The package is github.com/prometheus/otlptranslator.
"""

import re
from collections.abc import Mapping
from typing import Any

from otel_epping.otel import semconv
from otel_epping.otel.metric import Metric
from otel_epping.otel.metric_table import METRICS

_UNITS = {"s": "seconds", "By": "bytes"}
_TAGS = (f"{semconv.NETWORK_TAG}.", f"{semconv.NETWORK_TAG}.".replace(".", "_"))
# With `otlp.promote_scope_metadata`, series have labels with the version of otel-epping. These labels do not
# identify an agent.
_SCOPE = "otel_scope_"
# With the strategies with underscores, each other character of a label is an underscore.
_REPLACED = re.compile(r"[^A-Za-z0-9_]")
_BOOLEANS = (semconv.OVERFLOW, semconv.UNANSWERED)

LabelSet = frozenset[tuple[str, Any]]


def names_of(metric: Metric) -> set[str]:
    """Returns the names that a metric can have in Prometheus."""
    suffix = f"_{_UNITS[metric.unit]}" if metric.unit in _UNITS else ""
    total = "_total" if metric.kind == "counter" else ""
    return {
        name
        for base in (metric.name, metric.name.replace(".", "_"))
        for name in (base, base + suffix, base + suffix + total)
    }


METRIC_OF = {name: metric for metric in METRICS for name in names_of(metric)}
_ATTRIBUTE_OF = {
    name: attribute for attribute in semconv.ATTRIBUTES for name in (attribute, attribute.replace(".", "_"))
}


def split_labels(labels: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Splits labels. Returns the attributes of the series, and all other labels, which identify the agent."""
    attributes: dict[str, Any] = {}
    others: dict[str, str] = {}
    for label, value in labels.items():
        if label == "__name__" or label.startswith(_SCOPE):
            continue
        attribute = _ATTRIBUTE_OF.get(label)
        if tag := next((label.removeprefix(prefix) for prefix in _TAGS if label.startswith(prefix)), ""):
            attributes[_TAGS[0] + tag] = value
        elif attribute in _BOOLEANS:
            attributes[attribute] = value == "true"
        elif attribute == semconv.AS_NUMBER and value.isdecimal():
            attributes[attribute] = int(value)
        elif attribute:
            attributes[attribute] = value
        else:
            others[label] = value
    return attributes, others


def label_set(labels: Mapping[str, Any]) -> LabelSet:
    """Returns the labels without the name of the metric. The result is the same for all strategies."""
    return frozenset((_REPLACED.sub("_", label), value) for label, value in labels.items() if label != "__name__")
