# SPDX-License-Identifier: Apache-2.0
"""The RTTs and the traffic of all lines over time, for the heat map and for the history of a network."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.total import Total
from otel_epping.kernel.arrays import Times
from otel_epping.otel import metric_table
from otel_epping.top import text
from otel_epping.top.session import Session


class Timeline(NamedTuple):
    """The values of T intervals of time and n lines.

    begins_ns, ends_ns  (T,) Unix times, ns
    p50, p95            (T, n) quantiles in seconds; NaN if there is no RTT
    samples             (T, n) number of RTTs
    bits                (T, n) traffic from and to the line, bit/s
    """

    begins_ns: Times
    ends_ns: Times
    p50: Floats
    p95: Floats
    samples: Floats
    bits: Floats

    def ends(self) -> tuple[str, str]:
        """Returns the begin and the end of the timeline as texts."""
        begin_ns, end_ns = int(self.begins_ns[0]), int(self.ends_ns[-1])
        return text.moment(begin_ns, (begin_ns, end_ns)), text.moment(end_ns, (begin_ns, end_ns))

    def columns(self, width: int) -> Times:
        """Divides the time into `width` equal parts. Returns the number of the interval at the middle of each part.

        The number is -1 if the middle is in a gap.
        """
        if not len(self.begins_ns):
            return np.full(width, -1)
        begin, end = int(self.begins_ns[0]), int(self.ends_ns[-1])
        middles = begin + (np.arange(width) + 0.5) * (end - begin) / width
        found = np.searchsorted(self.begins_ns, middles, side="right") - 1
        is_gap = middles >= self.ends_ns[found]
        return np.where(is_gap, -1, found)


class TimelineCache:
    """Computes timelines. Intervals that have not changed since the previous timeline are not computed again."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._intervals: dict[tuple[int, int], Floats] = {}

    def timeline(
        self, session: Session, group_by: str, methods: Collection[str] | None, end_ns: int | None = None
    ) -> Timeline:
        """Returns the timeline of a session, until `end_ns` if it is given."""
        key = session.history.numbering, group_by, tuple(methods) if methods else None
        if key != self._key:
            self._key, self._intervals = key, {}
        intervals = [each for each in session.history.intervals if end_ns is None or each[0] < end_ns]
        lines = 0
        known: dict[tuple[int, int], Floats] = {}
        for begin, end in intervals:
            if (values := self._intervals.get((begin, end))) is None:
                values = _values(session.grouped(session.history.total(begin, end), group_by), methods)
            known[begin, end] = values
            lines = max(lines, values.shape[1])
        self._intervals = known
        table = np.full((4, len(intervals), lines), np.nan)
        for place, each in enumerate(intervals):
            table[:, place, : known[each].shape[1]] = known[each]
        times = np.array(intervals, np.int64).reshape(-1, 2)
        return Timeline(times[:, 0], times[:, 1], *table)


def _values(total: Total, methods: Collection[str] | None) -> Floats:
    rtts = total.rtts(methods)
    p50, p95 = rtts.quantiles(0.5, 0.95)
    octets = total.sum(metric_table.SUBNET_BYTES.name)
    bits = np.zeros(total.lines) if octets is None else octets * 8 / (total.seconds or np.nan)
    return np.array([p50, p95, rtts.counts.astype(np.float64), bits], np.float32)
