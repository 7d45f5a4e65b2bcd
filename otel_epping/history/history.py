# SPDX-License-Identifier: Apache-2.0
"""A history: the slices of a measurement. The sums over any time and any grouping are exact."""

import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import NamedTuple

import numpy as np

from otel_epping.history.columns import Numbering
from otel_epping.history.line import Line
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.slice import Rtts, Slice
from otel_epping.history.stored import StoredSlice
from otel_epping.history.total import Total
from otel_epping.kernel.arrays import Flags, Indexes

_S = 10**9


class Age(NamedTuple):
    """Slices that end more than `after_ns` before the end of the history are merged into periods of `step_ns`."""

    after_ns: int
    step_ns: int


# For a live table. Slices are not merged for one minute. The length of older slices is 10 s up to an age of 5 minutes,
# 1 minute up to one hour, 10 minutes up to 6 hours, 1 hour up to one day, 6 hours up to one week, and then one day.
# Each length is a multiple of the previous length.
LIVE_AGES = (
    Age(60 * _S, 10 * _S),
    Age(300 * _S, 60 * _S),
    Age(3_600 * _S, 600 * _S),
    Age(6 * 3_600 * _S, 3_600 * _S),
    Age(24 * 3_600 * _S, 6 * 3_600 * _S),
    Age(7 * 24 * 3_600 * _S, 24 * 3_600 * _S),
)


class History:
    """The slices of a measurement.

    numbering  the numbers of lines, columns and methods. The sources of the history must use the same numbering
    notes      remarks about unused data and other remarks of the sources, one sentence each
    failures   the notes about captures that could not be read to the end
    causes     sentences that explain why captures have no RTT; empty if there are RTTs
    bin_ns     width of the bins in which the source counted RTTs; 0 if the source has exponential histograms

    `ages` contains the ages at which slices are merged. By default, slices are not merged. The sums stay exact.
    """

    def __init__(self, numbering: Numbering | None = None, ages: Sequence[Age] = ()) -> None:
        self.numbering = numbering or Numbering()
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.causes: list[str] = []
        self.bin_ns = 0
        self._ages = ages
        self._slices: list[StoredSlice] = []
        self._nbytes = 0
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

    @property
    def nbytes(self) -> int:
        """Memory of all slices in bytes."""
        return self._nbytes

    @property
    def intervals(self) -> list[tuple[int, int]]:
        """The begin and the end of each slice, Unix time, ns, in the order of time."""
        return [(stored.begin_ns, stored.end_ns) for stored in self._slices]

    def add(self, slice: Slice) -> None:
        """Adds a slice. Slices may come in any order, may overlap, and may have gaps between them."""
        self._insert(StoredSlice(slice))
        for age in self._ages:
            self._merge_older(age)

    def total(self, begin_ns: int | None = None, end_ns: int | None = None) -> Total:
        """Returns the sum of all slices, or of the slices whose middle is in the range from begin_ns to end_ns.

        The sum of all slices is always up to date, so this sum takes no time. This sum changes when a slice is added.
        """
        if begin_ns is None and end_ns is None:
            self._total.match()
            return self._total
        return self._sum(
            stored
            for stored in self._slices
            if (begin_ns is None or stored.middle_ns >= begin_ns) and (end_ns is None or stored.middle_ns < end_ns)
        )

    def over_time(self, step_ns: int | None = None) -> Iterator[Total]:
        """Yields the sum of the slices of each period of `step_ns`, in the order of time; by default, of each slice.

        Periods without slices are left out. Periods start at multiples of `step_ns` since 1970. A slice belongs to the
        period that contains the middle of the slice.
        """
        for stored in self.periods(step_ns):
            yield self._sum(stored)

    def coarsen(self, step_ns: int) -> None:
        """Merges the slices of each period of `step_ns` into one slice (over_time())."""
        self._slices = [self._merged(stored) for stored in self.periods(step_ns)]
        self._nbytes = sum(stored.nbytes for stored in self._slices)

    def group(self, key: Callable[[Line], Line]) -> "History":
        """Returns a history whose lines are the groups of this history's lines. The sums are exact.

        `key` returns the line of the group to which a line belongs. For example, lambda line: line.grouped("asn").
        """
        return self.renumbered(*self.numbering.grouped(key))

    def renumbered(self, to: Indexes, numbering: Numbering) -> "History":
        """Returns a history with another numbering. `to` is the new number of each line (Numbering.grouped())."""
        history = self._without_slices(numbering)
        for stored in self._slices:
            history._insert(grouped_slice(stored, to, numbering))
        return history

    def only(self, kept: Flags) -> "History":
        """Returns a history of the slices for which `kept` is true, in the order of time."""
        history = self._without_slices(self.numbering)
        for stored in compress(self._slices, kept.tolist()):
            history._insert(stored)
        return history

    def _without_slices(self, numbering: Numbering) -> "History":
        history = History(numbering, self._ages)
        history.notes, history.failures, history.bin_ns = self.notes, self.failures, self.bin_ns
        history.causes = self.causes
        return history

    def _insert(self, stored: StoredSlice) -> None:
        bisect.insort(self._slices, stored, key=lambda each: each.begin_ns)
        self._nbytes += stored.nbytes
        self._total.add(stored)

    def _sum(self, slices: Iterable[StoredSlice]) -> Total:
        total = Total(self.numbering)
        for stored in slices:
            total.add(stored)
        return total

    def _merged(self, slices: Sequence[StoredSlice]) -> StoredSlice:
        return slices[0] if len(slices) == 1 else self._sum(slices).stored()

    def periods(self, step_ns: int | None) -> Iterator[list[StoredSlice]]:
        """Yields the slices of each period. over_time() returns the sums of these slices."""
        if step_ns is None:
            yield from ([stored] for stored in self._slices)
            return
        periods: dict[int, list[StoredSlice]] = {}
        for stored in self._slices:
            periods.setdefault(stored.middle_ns // step_ns, []).append(stored)
        yield from (periods[period] for period in sorted(periods))

    def _merge_older(self, age: Age) -> None:
        """Merges the slices that are older than `age`.

        If slices come in the order of time, at most one slice is merged in each call. So no call takes long.
        """
        limit_ns = self.end_ns - age.after_ns
        place = 1
        while place < len(self._slices) and self._slices[place].end_ns <= limit_ns:
            before, stored = self._slices[place - 1 : place + 1]
            if before.middle_ns // age.step_ns == stored.middle_ns // age.step_ns:
                merged = self._merged([before, stored])
                self._slices[place - 1 : place + 1] = [merged]
                self._nbytes += merged.nbytes - before.nbytes - stored.nbytes
            else:
                place += 1


def grouped_slice(stored: StoredSlice, to: Indexes, numbering: Numbering) -> StoredSlice:
    """Returns a slice whose lines are groups. `to` is the number of the group of each line."""
    lines, place = np.unique(to[stored.lines], return_inverse=True)
    counters = np.zeros((len(numbering.columns), len(lines)), np.uint64)
    for column, values in stored.columns.items():
        np.add.at(counters[column], place, values.astype(np.uint64))
    parts = []
    for method, rtts in stored.rtts.items():
        loaded, groups = rtts.load(), LineRtts(len(numbering.lines))
        groups.add(replace(loaded, lines=to[loaded.lines]))
        parts.append(groups.as_rtts(method))
    grouped = Slice(stored.begin_ns, stored.end_ns, lines, counters.T, Rtts.joined(parts), stored.agent)
    return StoredSlice(grouped, stored.covered)
