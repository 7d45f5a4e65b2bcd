# SPDX-License-Identifier: Apache-2.0
"""Builds the attributes of series. A row stands for a subnet, and a column stands for a counter of the subnet."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from otel_epping.kernel.arrays import Records
from otel_epping.kernel.methods import METHODS
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.counters import Counter
from otel_epping.series.subnet import Subnet

Labels = dict[str, str | bool]

NO_LABELS = -1
OVERFLOW: Labels = {semconv.OVERFLOW: True}


class Columns:
    """Maps the columns of a record of 64-bit counters to metrics and attributes.

    by_metric  the columns of each metric
    labels     the attributes of each column's points; the last entry, labels[NO_LABELS], is empty
    """

    def __init__(self, counters: Sequence[Counter], record: np.dtype[Any]) -> None:
        # `columns` is a record in which the value of each counter is the number of the counter's column.
        columns: Records = np.arange(record.itemsize // 8, dtype=np.uint64).view(record)
        self.by_metric: dict[metric_table.Metric, list[int]] = {}
        self.labels: list[Labels] = [{} for _ in range(record.itemsize // 8 + 1)]
        for counter in counters:
            values = columns
            for part in counter.field.split("."):
                values = values[part]
            key, labels = counter.axis or ("", ("",))
            for column, label in zip(values.ravel().tolist(), labels, strict=True):
                self.labels[column] = {**counter.attributes, **({key: label} if key else {})}
                self.by_metric.setdefault(counter.metric, []).append(column)


def subnet_labels(subnet: Subnet | None) -> Labels:
    """Returns the attributes of a row's counters. `subnet` is None for the overflow slot."""
    if subnet is None:
        return OVERFLOW
    return {
        semconv.SUBNET: str(subnet.network),
        semconv.NETWORK_TYPE: semconv.FAMILIES[subnet.network.version],
        semconv.INTERFACE: subnet.interface,
        semconv.SIDE: semconv.SIDES[subnet.side],
    }


def rtt_labels(subnet: Subnet | None) -> Labels:
    """Returns the attributes of a row's RTT histogram. `subnet` is None for the overflow slot."""
    if subnet is None:
        return OVERFLOW
    method = METHODS[subnet.method]
    return subnet_labels(subnet) | {semconv.NETWORK_TRANSPORT: method.transport, semconv.METHOD: method.name}
