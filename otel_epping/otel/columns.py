# SPDX-License-Identifier: Apache-2.0
"""Maps each column of a record of counters to a metric and attributes, if the metric is exported."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from otel_epping.kernel.arrays import Records
from otel_epping.kernel.sparse_histograms import starts_of
from otel_epping.otel.counters import Counter
from otel_epping.otel.metric import Metric
from otel_epping.otel.metric_selection import Exported
from otel_epping.series.projection import ColumnSums

Labels = dict[str, str | bool | int]

# A data point with this number as its column or method has no attributes of a column or method.
NO_LABELS = -1


class Columns:
    """Maps the columns of a record of 64-bit counters to metrics and attributes.

    A column of a metric that is not exported is left out. Columns that differ only in attributes that are not exported
    are added up. The column number of a data point is the index of its sum in `sums`.

    sums       the columns of the record whose counts are added up
    by_metric  the sums of each metric
    labels     the attributes of each sum's points; the last entry, labels[NO_LABELS], is empty
    """

    def __init__(self, counters: Sequence[Counter], record: np.dtype[Any], exported: Exported) -> None:
        # `columns` is a record in which the value of each counter is the number of the counter's column.
        columns: Records = np.arange(record.itemsize // 8, dtype=np.uint64).view(record)
        found: dict[tuple[Metric, tuple[tuple[str, str], ...]], list[int]] = {}
        for counter in counters:
            values = columns
            for part in counter.field.split("."):
                values = values[part]
            key, labels = counter.axis or ("", ("",))
            for column, label in zip(values.ravel().tolist(), labels, strict=True):
                attributes = (counter.attributes | ({key: label} if key else {})).items()
                if counter.metric in exported:
                    kept = tuple(each for each in attributes if each[0] in exported[counter.metric])
                    found.setdefault((counter.metric, kept), []).append(column)
        numbers = np.array([column for summed in found.values() for column in summed], np.int64)
        self.sums = ColumnSums(numbers, starts_of(np.array([*map(len, found.values())], np.int64))[:-1])
        self.labels: list[Labels] = [*(Labels(kept) for _, kept in found), {}]
        self.by_metric: dict[Metric, list[int]] = {}
        for number, (metric, _) in enumerate(found):
            self.by_metric.setdefault(metric, []).append(number)
