# SPDX-License-Identifier: Apache-2.0
"""A history: the slices of a measurement, and their exact sums over any time and any grouping."""

from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.history.columns import Numbering
from otel_epping.history.line import Line
from otel_epping.history.slice import Rtts, Slice
from otel_epping.history.total import Total


class History:
    """The slices of a measurement.

    numbering  the numbers of lines, columns and methods. The sources of the history must use the same numbering
    notes      what the sources could not use, and other remarks of the sources, one sentence each
    """

    def __init__(self, numbering: Numbering | None = None) -> None:
        self.numbering = numbering or Numbering()
        self.notes: list[str] = []
        self._slices: list[Slice] = []
        self._total = Total(self.numbering)

    @property
    def lines(self) -> list[Line]:
        """All lines, in the order of their numbers."""
        return list(self.numbering.lines)

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._slices)

    @property
    def begin_ns(self) -> int:
        """The begin of the first slice, Unix time, ns; 0 if there is no slice."""
        return self._total.begin_ns

    @property
    def end_ns(self) -> int:
        """The latest end of a slice, Unix time, ns; 0 if there is no slice."""
        return self._total.end_ns

    def add(self, slice: Slice) -> None:
        """Adds a slice. Slices may come in any order, may overlap, and may have gaps between them."""
        self._slices.append(slice)
        self._slices.sort(key=lambda each: each.begin_ns)
        self._total.add(slice)

    def total(self, begin_ns: int | None = None, end_ns: int | None = None) -> Total:
        """Returns the sum of all slices, or of the slices whose middle is in the range from begin_ns to end_ns.

        The sum of all slices is kept up to date, so it takes no time. It changes when a slice is added.
        """
        if begin_ns is None and end_ns is None:
            self._total._match()
            return self._total
        total = Total(self.numbering)
        for slice in self._slices:
            middle = (slice.begin_ns + slice.end_ns) // 2
            if (begin_ns is None or middle >= begin_ns) and (end_ns is None or middle < end_ns):
                total.add(slice)
        return total

    def over_time(self, step_ns: int | None = None) -> Iterator[Total]:
        """Yields the sums of the slices of each period of `step_ns`, in the order of time; by default, each slice.

        Periods without slices are left out. Periods start at multiples of `step_ns` since 1970.
        """
        periods: dict[int, list[Slice]] = {}
        for number, slice in enumerate(self._slices):
            middle = (slice.begin_ns + slice.end_ns) // 2
            periods.setdefault(middle // step_ns if step_ns else number, []).append(slice)
        for period in sorted(periods):
            total = Total(self.numbering)
            for slice in periods[period]:
                total.add(slice)
            yield total

    def group(self, key: Callable[[Line], Line]) -> "History":
        """Returns a history whose lines are the groups of this history's lines. The sums are exact.

        `key` returns the line of the group to which a line belongs. For example, lambda line: line.grouped("asn").
        """
        numbering = Numbering()
        numbering.columns, numbering.methods = self.numbering.columns, self.numbering.methods
        to = np.array([numbering.lines.find(key(line)) for line in self.lines], np.int64)
        history = History(numbering)
        history.notes = self.notes
        for slice in self._slices:
            lines, place = np.unique(to[slice.lines], return_inverse=True)
            counters = np.zeros((len(lines), slice.counters.shape[1]), np.uint64)
            np.add.at(counters, place, slice.counters)
            rtts = slice.rtts
            grouped = Rtts(
                to[rtts.lines], rtts.methods, rtts.scales, rtts.buckets, rtts.sum_ns, rtts.min_ns, rtts.max_ns
            )
            history.add(Slice(slice.begin_ns, slice.end_ns, lines, counters, grouped, slice.agent))
        return history
