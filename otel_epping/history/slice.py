# SPDX-License-Identifier: Apache-2.0
"""A slice: the counts of one interval of time."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from otel_epping.history.columns import ColumnKey
from otel_epping.kernel.arrays import Counts, Indexes
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of

# The values of metrics without a line: the agent's own metrics, and the metrics of interfaces.
AgentValues = dict[ColumnKey, float]


@dataclass(frozen=True)
class Rtts:
    """n histograms. A line has at most one histogram for each method.

    lines    (n,) the number of each histogram's line
    methods  (n,) the number of each histogram's method
    scales   (n,) the scale of each histogram. A sum of histograms has the lowest scale of these histograms
    buckets  (n,) number of RTTs in each bucket. Bucket numbers are OTLP indexes
    sum_ns   (n,) sum of RTTs, ns
    min_ns   (n,) minimum RTT, ns; 0 if the minimum is unknown
    max_ns   (n,) maximum RTT, ns; 0 if the maximum is unknown
    """

    lines: Indexes
    methods: Indexes
    scales: Indexes
    buckets: SparseHistograms
    sum_ns: Counts
    min_ns: Counts
    max_ns: Counts

    @classmethod
    def empty(cls) -> "Rtts":
        """Returns a table without histograms."""
        number, count = np.zeros(0, np.int64), np.zeros(0, np.uint64)
        return cls(number, number, number, SparseHistograms.empty(0), count, count, count)

    @classmethod
    def joined(cls, parts: "Sequence[Rtts]") -> "Rtts":
        """Returns the histograms of all parts."""
        if not parts:
            return cls.empty()
        buckets = SparseHistograms(
            np.concatenate([part.buckets.first for part in parts]),
            starts_of(np.concatenate([part.buckets.lengths for part in parts])),
            np.concatenate([part.buckets.counts for part in parts]),
        )
        lines, methods, scales, sum_ns, min_ns, max_ns = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("lines", "methods", "scales", "sum_ns", "min_ns", "max_ns")
        )
        return cls(lines, methods, scales, buckets, sum_ns, min_ns, max_ns)

    def select(self, which: Indexes) -> "Rtts":
        """Returns a copy of the given histograms."""
        return Rtts(
            self.lines[which],
            self.methods[which],
            self.scales[which],
            self.buckets.select(which),
            self.sum_ns[which],
            self.min_ns[which],
            self.max_ns[which],
        )


@dataclass(frozen=True)
class Slice:
    """The counts of one interval: the increments of counters, and the current values at the end of the interval.

    begin_ns, end_ns  Unix times, ns
    lines     (n,) the numbers of lines, each once
    counters  (n, columns) the counts of each line. There may be fewer columns than in the numbering
    rtts      the histograms of lines. These lines need not be in `lines`
    agent     values without a line, by metric and attributes. These values have no columns in the numbering
    """

    begin_ns: int
    end_ns: int
    lines: Indexes
    counters: Counts
    rtts: Rtts
    agent: AgentValues = field(default_factory=dict)
