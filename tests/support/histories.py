# SPDX-License-Identifier: Apache-2.0
"""Builds slices from plain counts and single RTTs."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from otel_epping.history.columns import ColumnKey, Numbering
from otel_epping.history.line import Line
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.kernel import buckets
from otel_epping.kernel.sparse_histograms import SparseHistograms
from otel_epping.otel import metric_table

SECOND = 10**9
MS = 10**6
TIMESTAMP = "tcp_timestamp"


def octets(way: str, traffic_class: str = TIMESTAMP) -> ColumnKey:
    """Return the column of the bytes of a direction and class."""
    return ColumnKey(metric_table.SUBNET_BYTES.name, (("direction", way), ("traffic_class", traffic_class)))


def packets(way: str, traffic_class: str = TIMESTAMP) -> ColumnKey:
    """Return the column of the packets of a direction and class."""
    return ColumnKey(metric_table.SUBNET_PACKETS.name, (("direction", way), ("traffic_class", traffic_class)))


def histogram_of(rtts_ns: Sequence[int], scale: int) -> tuple[int, list[int]]:
    """Return the OTLP index of the first bucket, and the counts of the buckets."""
    counts = Counter(buckets.index_of(rtt_ns, scale) for rtt_ns in rtts_ns)
    first = min(counts)
    return first, [counts[index] for index in range(first, max(counts) + 1)]


def rtts_of(numbering: Numbering, rtts_ns: Mapping[tuple[Line, str], Sequence[int]], scale: int = 4) -> Rtts:
    """Return the histograms of the RTTs of each line and method. No sequence may be empty."""
    if not rtts_ns:
        return Rtts.empty()
    runs = [histogram_of(each, scale) for each in rtts_ns.values()]
    starts = np.concatenate([[0], np.cumsum([len(counts) for _, counts in runs])])
    return Rtts(
        np.array([numbering.lines.find(line) for line, _ in rtts_ns]),
        np.array([numbering.methods.find(method) for _, method in rtts_ns]),
        np.full(len(runs), scale),
        SparseHistograms(
            np.array([first for first, _ in runs]), starts, np.array([n for _, run in runs for n in run], np.uint64)
        ),
        np.array([sum(each) for each in rtts_ns.values()], np.uint64),
        np.array([min(each) for each in rtts_ns.values()], np.uint64),
        np.array([max(each) for each in rtts_ns.values()], np.uint64),
    )


def slice_of(
    numbering: Numbering,
    begin_ns: int,
    end_ns: int,
    counts: Mapping[tuple[Line, ColumnKey], int] | None = None,
    rtts_ns: Mapping[tuple[Line, str], Sequence[int]] | None = None,
    *,
    scale: int = 4,
    agent: AgentValues | None = None,
) -> Slice:
    """Return a slice with these counts and RTTs."""
    counts = counts or {}
    lines = sorted({numbering.lines.find(line) for line, _ in counts})
    columns = {key: numbering.columns.find(key) for _, key in counts}
    counters = np.zeros((len(lines), len(numbering.columns)), np.uint64)
    for (line, key), count in counts.items():
        counters[lines.index(numbering.lines.find(line)), columns[key]] = count
    rtts = rtts_of(numbering, rtts_ns or {}, scale)
    return Slice(begin_ns, end_ns, np.array(lines, np.int64), counters, rtts, agent or {})
