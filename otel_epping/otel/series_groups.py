# SPDX-License-Identifier: Apache-2.0
"""Groups the exported metrics of subnets by the attributes that identify a subnet's series.

All metrics of a group have the same series (series/projection.py). With the default settings, there is one group. A row
of a group stands for a series, and a column stands for a counter of the series. A histogram of RTTs belongs to a row
and a method.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reading import FAMILY_NAMED, OVERFLOW_SLOT, SHARED_SLOTS, UNANSWERED_SLOT
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.columns import Columns, Labels
from otel_epping.otel.counters import SUBNET_COUNTERS
from otel_epping.otel.metric_selection import Exported
from otel_epping.series.details import Details
from otel_epping.series.projection import Projection, SeriesReading
from otel_epping.series.subnet import prefix_of

# The attribute of each field of Details.
_DETAILS = {
    semconv.NETWORK_NAME: "name",
    semconv.NETWORK_TAG: "tags",
    semconv.AS_NUMBER: "as_number",
    semconv.AS_ORGANIZATION: "as_organization",
    semconv.COUNTRY: "country",
}
# The attributes that identify the series of a row. A metric with the attribute SUBNET is a metric of subnets.
_ROW_ATTRIBUTES = frozenset({semconv.SUBNET, semconv.NETWORK_TYPE, *_DETAILS, semconv.INTERFACE, semconv.SIDE})
# The attributes of each shared row.
_SHARED_LABELS: dict[int, Labels] = {
    OVERFLOW_SLOT: {semconv.OVERFLOW: True},
    UNANSWERED_SLOT: {semconv.UNANSWERED: True},
}


@dataclass(frozen=True, eq=False)
class SeriesGroup:
    """Metrics of subnets. The rows of all these metrics have the same attributes.

    attributes     the attributes of rows
    projection     how the series of the group are made from rows of readings
    columns        the metric and attributes of each counter of a row
    method_labels  the attributes of each method's RTTs; the last entry, method_labels[NO_LABELS], is empty
    """

    attributes: frozenset[str]
    projection: Projection
    columns: Columns
    method_labels: list[Labels]

    def labels(self, reading: SeriesReading, row: int, config: EppingConfig) -> Labels:
        """Returns the attributes that the counters and the RTTs of a row have."""
        if row < SHARED_SLOTS:
            return _SHARED_LABELS[row]
        key = reading.slots["key"][row]
        labels: Labels = {
            semconv.INTERFACE: reading.names[int(key["interface"])],
            semconv.SIDE: semconv.SIDES[key["side"]],
        }
        if key["family"] != FAMILY_NAMED:
            prefix = prefix_of(key, config)
            labels |= {semconv.SUBNET: str(prefix), semconv.NETWORK_TYPE: semconv.FAMILIES[prefix.version]}
        labels = {name: value for name, value in labels.items() if name in self.attributes}
        # The projection has already removed the details that are not exported.
        return labels | _labels_of(reading.details[int(key["details"])])


def _labels_of(details: Details) -> Labels:
    labels = {name: getattr(details, field) for name, field in _DETAILS.items() if name != semconv.NETWORK_TAG}
    tags = {f"{semconv.NETWORK_TAG}.{tag}": value for tag, value in details.tags}
    return {name: value for name, value in labels.items() if value is not None} | tags


def _methods(exported: Exported) -> tuple[int, ...] | None:
    """Returns the value of Projection.methods for the attributes with which the RTT metric is exported."""
    if metric_table.RTT not in exported:
        return None
    transports = [method.transport for method in METHODS]
    if semconv.METHOD in exported[metric_table.RTT]:
        return tuple(range(len(METHODS)))
    if semconv.NETWORK_TRANSPORT in exported[metric_table.RTT]:
        return tuple(map(transports.index, transports))
    return (0,) * len(METHODS)


def _method_labels(exported: Exported) -> list[Labels]:
    kept = exported.get(metric_table.RTT, ())
    names = (((semconv.NETWORK_TRANSPORT, method.transport), (semconv.METHOD, method.name)) for method in METHODS)
    return [*(Labels({key: name for key, name in each if key in kept}) for each in names), {}]


def _group(attributes: frozenset[str], exported: Exported, counters: np.dtype[Any]) -> SeriesGroup:
    columns = Columns(SUBNET_COUNTERS, counters, exported)
    projection = Projection(
        has_subnet=semconv.SUBNET in attributes,
        has_family=semconv.NETWORK_TYPE in attributes,
        has_interface=semconv.INTERFACE in attributes,
        details=frozenset(field for name, field in _DETAILS.items() if name in attributes),
        sums=columns.sums,
        methods=_methods(exported),
        has_active=metric_table.ACTIVE_FLOWS in exported,
    )
    return SeriesGroup(attributes, projection, columns, _method_labels(exported))


def series_groups(exported: Exported, counters: np.dtype[Any]) -> list[SeriesGroup]:
    """Returns the groups. If no metric of subnets is exported, returns one group without metrics.

    `counters` is the numpy type of the record of counters that a reading contains for each row.
    """
    found: dict[frozenset[str], Exported] = {}
    for metric, keys in exported.items():
        if semconv.SUBNET in metric.keys:
            found.setdefault(_ROW_ATTRIBUTES & set(keys), {})[metric] = keys
    return [_group(attributes, metrics, counters) for attributes, metrics in (found or {frozenset(): {}}).items()]
