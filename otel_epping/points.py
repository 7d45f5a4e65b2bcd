# SPDX-License-Identifier: Apache-2.0
"""From counts to the OpenTelemetry SDK's data points. Numbers leave numpy here: exporters choke on numpy's scalars."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.util.types import Attributes

from otel_epping import histogram, telemetry
from otel_epping.kernel.buckets import edge_ns
from otel_epping.kernel.extremes import Counts

_NS = 1e9
_NO_BUCKETS = Buckets(0, ())


def _within(buckets: histogram.Buckets, extremes: tuple[int, int]) -> tuple[int, int]:
    """The extremes, in ns, no further apart than the buckets are.

    An RTT counted while a reading was taken is in its buckets, and its extreme in the next one's, too (Reader.read()).
    There it would contradict the buckets; so it is put at their edge, at most one bucket from the truth.
    """
    below = edge_ns(buckets.offset, buckets.scale)
    last = edge_ns(buckets.offset + len(buckets.counts), buckets.scale)
    return max(extremes[0], below + 1), min(extremes[1], last)


def rtt_point(
    attributes: Attributes,
    start_ns: int,
    time_ns: int,
    buckets: histogram.Buckets,
    sum_ns: int,
    extremes: tuple[int, int],
) -> ExponentialHistogramDataPoint:
    """One histogram, of at most histogram.MAX_BUCKETS buckets: it is scaled down until it fits, which is exact.

    `extremes` are the least and greatest RTT in ns; (.., 0) if the race described at Collector._end_interval() lost
    them: then the point has no min and max, as OTLP allows.
    """
    fitted = histogram.fit(buckets)
    least, greatest = (value / _NS for value in _within(buckets, extremes)) if extremes[1] else (None, None)
    return ExponentialHistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=start_ns,
        time_unix_nano=time_ns,
        count=int(buckets.counts.sum()),
        sum=sum_ns / _NS,
        scale=fitted.scale,
        zero_count=0,
        positive=Buckets(fitted.offset, fitted.counts.tolist()),
        negative=_NO_BUCKETS,
        flags=0,
        min=least,  # type: ignore[arg-type]  # the exporters leave None off
        max=greatest,  # type: ignore[arg-type]
    )


class Columns:
    """Which counter of a record, all 64-bit numbers one after the other, is which series of which metric."""

    def __init__(self, counters: Sequence[telemetry.Counter], record: np.dtype[Any]) -> None:
        number: npt.NDArray[Any] = np.arange(record.itemsize // 8, dtype=np.uint64).view(record)
        self.by_metric: dict[telemetry.Metric, list[int]] = {}
        self.attributes: dict[int, dict[str, str]] = {}
        for counter in counters:
            values = number
            for part in counter.field.split("."):
                values = values[part]
            key, labels = counter.axis or ("", ("",))
            for column, label in zip(values.ravel().tolist(), labels, strict=True):
                self.attributes[column] = counter.attributes | ({key: label} if key else {})
                self.by_metric.setdefault(counter.metric, []).append(column)


def number_points(
    attributes: Callable[[int], Attributes], columns: Sequence[int], counts: Counts, start_ns: int, time_ns: int
) -> list[NumberDataPoint]:
    """A point for each count that isn't 0, with the attributes of its column."""
    return [
        NumberDataPoint(attributes(column), start_ns, time_ns, value)
        for column, value in zip(columns, counts[columns].tolist(), strict=True)
        if value
    ]


def sum_metric(
    metric: telemetry.Metric,
    points: Sequence[NumberDataPoint],
    temporality: AggregationTemporality,
    is_monotonic: bool = True,
) -> Metric:
    """A counter, or an up-down counter."""
    return Metric(metric.name, metric.description, metric.unit, Sum(points, temporality, is_monotonic))


def rtt_metric(points: Sequence[ExponentialHistogramDataPoint], temporality: AggregationTemporality) -> Metric:
    """The metric of all histograms."""
    metric = telemetry.RTT
    return Metric(metric.name, metric.description, metric.unit, ExponentialHistogram(points, temporality))
