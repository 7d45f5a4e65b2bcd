# SPDX-License-Identifier: Apache-2.0
"""Encodes arrays as OTLP data points. The encoder of the SDK writes the same fields.

The messages are defined in opentelemetry/proto/metrics/v1/metrics.proto. Field numbers come from the generated classes.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint, NumberDataPoint, Sum

from otel_epping.kernel.arrays import Counts, Indexes, Times
from otel_epping.otel.otlp import protobuf
from otel_epping.otel.otlp.message_columns import Column, join

_NS = 1e9


class Points(NamedTuple):
    """Data points, encoded as the field `data_points` of a metric. `number` is the number of data points."""

    body: bytes
    number: int


class HistogramArrays(NamedTuple):
    """n histograms. Histogram i has the bucket counts counts[starts[i] : starts[i + 1]].

    starts  (n + 1,) index in `counts` of each histogram's first bucket. The last element is the length of `counts`
    counts  (starts[n],) bucket counts of all histograms
    offset  (n,) OTLP index of the first bucket of each histogram
    scale   (n,) scale of each histogram
    sum_ns  (n,) sum of the RTTs of each histogram
    min_ns  (n,) minimum RTT of each histogram, which lies in the first bucket
    max_ns  (n,) maximum RTT of each histogram, which lies in the last bucket; 0 if minimum and maximum are unknown
    """

    starts: Indexes
    counts: Counts
    offset: Indexes
    scale: Indexes
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts


@lru_cache(1024, typed=True)  # True and 1 are different values
def _attribute(number: int, key: str, value: str | bool | int) -> bytes:
    if isinstance(value, bool):
        any_value = AnyValue(bool_value=value)
    else:
        any_value = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return b"".join(protobuf.field(number, KeyValue(key=key, value=any_value).SerializeToString()))


def _attributes(number: int, pairs: Mapping[str, str | bool | int]) -> bytes:
    return b"".join([_attribute(number, key, value) for key, value in pairs.items()])


def number_attributes(pairs: Mapping[str, str | bool | int]) -> bytes:
    """Encodes attributes for number_points()."""
    return _attributes(NumberDataPoint.ATTRIBUTES_FIELD_NUMBER, pairs)


def histogram_attributes(pairs: Mapping[str, str | bool | int]) -> bytes:
    """Encodes attributes for histogram_points().

    The field number differs from the field number of number_attributes().
    """
    return _attributes(ExponentialHistogramDataPoint.ATTRIBUTES_FIELD_NUMBER, pairs)


def _record(message: type[Message], **types: str) -> npt.NDArray[Any]:
    """Returns a record in the layout of the wire format: 8-byte fields with the value 0, and the key of each field."""
    record = np.zeros((), [entry for name, type_ in types.items() for entry in ((f"{name} key", "u1"), (name, type_))])
    for name in types:
        record[f"{name} key"] = protobuf.key(message.DESCRIPTOR.fields_by_name[name].number, protobuf.I64)[0]
    return record


_NUMBER = _record(NumberDataPoint, start_time_unix_nano="<u8", time_unix_nano="<u8", as_int="<u8")
_HISTOGRAM = _record(
    ExponentialHistogramDataPoint, start_time_unix_nano="<u8", time_unix_nano="<u8", count="<u8", sum="<f8"
)
_MIN_MAX = _record(ExponentialHistogramDataPoint, min="<f8", max="<f8")


def _varint_field(number: int, numbers: Indexes) -> Column:
    return Column.of_varints(protobuf.key(number, protobuf.VARINT), numbers)


def _message(number: int, *columns: Column) -> list[Column]:
    """Inserts a column with the key and the length of each field before `columns`.

    The result has n fields of type LEN.
    """
    lengths = np.sum([column.lengths for column in columns], axis=0)
    return [Column.of_varints(protobuf.key(number, protobuf.LEN), lengths), *columns]


def _points(*columns: Column) -> Points:
    # The field `data_points` has the same number in all types of metrics.
    return Points(join(*_message(Sum.DATA_POINTS_FIELD_NUMBER, *columns)), len(columns[0].pieces))


def number_points(attributes: Sequence[Column], start_ns: Times, time_ns: int, values: protobuf.Integers) -> Points:
    """Encodes n data points of counters. `values` and `start_ns` have the shape (n,); times are Unix time, ns.

    The pieces of the columns `attributes` come from number_attributes(). Each point has the attributes of all columns.
    """
    records = np.full(len(values), _NUMBER)
    records["start_time_unix_nano"] = start_ns
    records["time_unix_nano"] = time_ns
    records["as_int"] = values
    return _points(*attributes, Column.of_records(records))


def histogram_points(
    attributes: Sequence[Column], start_ns: Times, time_ns: int, histograms: HistogramArrays
) -> Points:
    """Encodes n histogram points. `start_ns` has the shape (n,); times are Unix time, ns.

    The pieces of the columns `attributes` come from histogram_attributes(). Each point has the attributes of all
    columns.
    """
    records = np.full(len(start_ns), _HISTOGRAM)
    records["start_time_unix_nano"] = start_ns
    records["time_unix_nano"] = time_ns
    records["count"] = np.diff(_sums(histograms.counts)[histograms.starts])
    records["sum"] = histograms.sum_ns / _NS
    min_max = np.full(len(start_ns), _MIN_MAX)
    min_max["min"] = histograms.min_ns / _NS
    min_max["max"] = histograms.max_ns / _NS
    return _points(
        *attributes,
        Column.of_records(records),
        _varint_field(ExponentialHistogramDataPoint.SCALE_FIELD_NUMBER, protobuf.zigzag(histograms.scale)),
        *_buckets(histograms),
        Column.of_records(min_max).where(histograms.max_ns != 0),
    )


def _buckets(histograms: HistogramArrays) -> list[Column]:
    """Encodes the field `positive`. For histograms without buckets, the field `positive` is omitted."""
    message = ExponentialHistogramDataPoint.Buckets
    encoded, lengths = protobuf.varints(histograms.counts)
    ends = _sums(lengths)[histograms.starts]
    counts = encoded.tobytes()
    # The loop over all points slices `counts`. A slice takes 60 ns, and numpy has no faster way to cut pieces of
    # different lengths.
    pieces = [counts[start:end] for start, end in pairwise(ends.tolist())]
    packed = Column(np.array(pieces, object), np.diff(ends))
    columns = _message(
        ExponentialHistogramDataPoint.POSITIVE_FIELD_NUMBER,
        _varint_field(message.OFFSET_FIELD_NUMBER, protobuf.zigzag(histograms.offset)),
        *_message(message.BUCKET_COUNTS_FIELD_NUMBER, packed),
    )
    return [column.where(packed.lengths != 0) for column in columns]


def _sums(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns n + 1 sums: the sums of the first 0, 1, 2, ..., n numbers."""
    return np.concatenate([np.zeros(1, numbers.dtype), np.cumsum(numbers)])
