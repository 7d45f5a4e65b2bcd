# SPDX-License-Identifier: Apache-2.0
"""Converts series to data points of the OpenTelemetry SDK.

Numbers are converted to Python's int and float here, because exporters fail on numpy's scalars.
"""

from collections.abc import Callable, Iterator, Sequence

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

from otel_epping.kernel.arrays import Counts
from otel_epping.otel import metric_table
from otel_epping.otel.export_batch import CounterSeries, RttSeries
from otel_epping.otel.metric import Metric as TableMetric
from otel_epping.series import histogram

_NS = 1e9
_NO_BUCKETS = Buckets(0, ())


def rtt_point(
    attributes: Attributes,
    start_ns: int,
    time_ns: int,
    buckets: histogram.Buckets,
    sum_ns: int,
    min_max_ns: tuple[int, int],
) -> ExponentialHistogramDataPoint:
    """Returns the data point of one histogram. RTTs are passed in nanoseconds; the point has RTTs in seconds.

    min_max_ns  minimum and maximum RTT. If minimum and maximum are unknown, the maximum is 0, and the data point omits
                min and max, as OTLP allows
    """
    minimum, maximum = (value / _NS for value in min_max_ns) if min_max_ns[1] else (None, None)
    return ExponentialHistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=start_ns,
        time_unix_nano=time_ns,
        count=int(buckets.counts.sum()),
        sum=sum_ns / _NS,
        scale=buckets.scale,
        zero_count=0,
        positive=Buckets(buckets.offset, buckets.counts.tolist()),
        negative=_NO_BUCKETS,
        flags=0,
        min=minimum,  # type: ignore[arg-type]  # exporters omit None
        max=maximum,  # type: ignore[arg-type]
    )


def rtt_points(
    series: RttSeries, attributes: Callable[[int, int], Attributes], time_ns: int
) -> Iterator[ExponentialHistogramDataPoint]:
    """Yields the data point of each histogram, with the attributes of its row and method."""
    starts, counts, offset, scale = series.fitted
    for i, (row, method) in enumerate(zip(series.rows.tolist(), series.methods.tolist(), strict=True)):
        yield rtt_point(
            attributes(row, method),
            int(series.start_ns[i]),
            time_ns,
            histogram.Buckets(counts[starts[i] : starts[i + 1]], int(offset[i]), int(scale[i])),
            int(series.sum_ns[i]),
            (int(series.min_ns[i]), int(series.max_ns[i])),
        )


def counter_points(
    series: CounterSeries, attributes: Callable[[int, int], Attributes], time_ns: int
) -> Iterator[NumberDataPoint]:
    """Yields the data points of a counter, with the attributes of their rows and columns."""
    arrays = (series.rows, series.columns, series.start_ns, series.values)
    for row, column, start_ns, value in zip(*(array.tolist() for array in arrays), strict=True):
        yield NumberDataPoint(attributes(row, column), start_ns, time_ns, value)


def number_points(
    attributes: Callable[[int], Attributes], columns: Sequence[int], counts: Counts, start_ns: int, time_ns: int
) -> list[NumberDataPoint]:
    """Returns a data point for each nonzero count. A point has the attributes of the count's column."""
    return [
        NumberDataPoint(attributes(column), start_ns, time_ns, value)
        for column, value in zip(columns, counts[columns].tolist(), strict=True)
        if value
    ]


def sum_metric(
    metric: TableMetric,
    points: Sequence[NumberDataPoint],
    temporality: AggregationTemporality,
    is_monotonic: bool = True,
) -> Metric:
    """Returns the metric of a counter, or of an up-down counter if `is_monotonic` is false."""
    return Metric(metric.name, metric.description, metric.unit, Sum(points, temporality, is_monotonic))


def rtt_metric(points: Sequence[ExponentialHistogramDataPoint], temporality: AggregationTemporality) -> Metric:
    """Returns the RTT metric with the histograms `points`."""
    metric = metric_table.RTT
    return Metric(metric.name, metric.description, metric.unit, ExponentialHistogram(points, temporality))
