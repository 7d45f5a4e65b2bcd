# SPDX-License-Identifier: Apache-2.0
"""Builds the attributes of series.

A row stands for a subnet. A column stands for a counter of the subnet. A histogram of RTTs has a row and a method.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from otel_epping.kernel.arrays import Records
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT
from otel_epping.otel import semconv
from otel_epping.otel.counters import Counter
from otel_epping.otel.metric import Metric
from otel_epping.series.subnet import Subnet

Labels = dict[str, str | bool]

NO_LABELS = -1
# The attributes of each shared row.
SHARED_LABELS: dict[int, Labels] = {
    OVERFLOW_SLOT: {semconv.OVERFLOW: True},
    UNANSWERED_SLOT: {semconv.UNANSWERED: True},
}
# The attributes of each method's RTTs. The last entry, METHOD_LABELS[NO_LABELS], is empty.
METHOD_LABELS: list[Labels] = [
    *(Labels({semconv.NETWORK_TRANSPORT: method.transport, semconv.METHOD: method.name}) for method in METHODS),
    {},
]


class Columns:
    """Maps the columns of a record of 64-bit counters to metrics and attributes.

    by_metric  the columns of each metric
    labels     the attributes of each column's points; the last entry, labels[NO_LABELS], is empty
    """

    def __init__(self, counters: Sequence[Counter], record: np.dtype[Any]) -> None:
        # `columns` is a record in which the value of each counter is the number of the counter's column.
        columns: Records = np.arange(record.itemsize // 8, dtype=np.uint64).view(record)
        self.by_metric: dict[Metric, list[int]] = {}
        self.labels: list[Labels] = [{} for _ in range(record.itemsize // 8 + 1)]
        for counter in counters:
            values = columns
            for part in counter.field.split("."):
                values = values[part]
            key, labels = counter.axis or ("", ("",))
            for column, label in zip(values.ravel().tolist(), labels, strict=True):
                self.labels[column] = {**counter.attributes, **({key: label} if key else {})}
                self.by_metric.setdefault(counter.metric, []).append(column)


def subnet_labels(row: int, subnet: Subnet | None) -> Labels:
    """Returns the attributes of a row's counters, which are also attributes of its RTTs.

    `subnet` is the owner of the row. If the row is a shared row, `subnet` is None.
    """
    if subnet is None:
        return SHARED_LABELS[row]
    return {
        semconv.SUBNET: str(subnet.network),
        semconv.NETWORK_TYPE: semconv.FAMILIES[subnet.network.version],
        semconv.INTERFACE: subnet.interface,
        semconv.SIDE: semconv.SIDES[subnet.side],
    }
