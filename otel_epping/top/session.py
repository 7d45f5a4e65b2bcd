# SPDX-License-Identifier: Apache-2.0
"""The session: all slices since the start. Computes frames from the slices."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from otel_epping.history.columns import Numbering
from otel_epping.history.histograms import Floats
from otel_epping.history.history import LIVE_AGES, History, grouped_slice
from otel_epping.history.line import OVERFLOW, Line
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.load import latency_under_load
from otel_epping.history.slice import Slice
from otel_epping.history.sources.watching import WatchedInterfaces
from otel_epping.history.stored import StoredSlice
from otel_epping.history.total import Total
from otel_epping.kernel.arrays import Indexes, Times, grow
from otel_epping.series.grouping import SUBNET
from otel_epping.top.frame import Frame, make_frame

_NS = 10**9
_NEVER_NS = 2**63 - 1
# By default, the baseline is the first minute. A window that overlaps with this minute is not compared with the
# baseline.
BASELINE_NS = 60 * _NS
# New slices are added to the sum of the window. When the sum is longer than the duration of the window by more than
# 1/_PARTS of this duration, the slices of the window are summed again.
_PARTS = 6
# Latency under load is computed again after this time, or after half of the session if the session is short.
_LOAD_NS = 60 * _NS


class Session:
    """All slices of a measurement. Only one thread at a time may use a session.

    `history` contains the slices. By default, the session starts with an empty history. This history merges old
    slices, so the memory is limited. If the feed finds more than `max_lines` lines, the lines without packets for the
    longest time are added to the line "all others". The number of slots of the feed may be at most half of `max_lines`.
    """

    def __init__(self, history: History | None = None, max_lines: int | None = None) -> None:
        self._max_lines = max_lines
        self.history = history if history is not None else History(ages=LIVE_AGES)
        self._seen_ns: Times = np.zeros(0, np.int64)
        self._window: Total | None = None
        self._window_s: float | None = None
        self._baseline: tuple[LineRtts, int, int] | None = None
        self._is_baseline_chosen = False
        self._under_load_s: Floats | None = None
        self._load_ns = 0

    @property
    def begin_ns(self) -> int:
        """The begin of the session, Unix time, ns."""
        return self.history.begin_ns

    @property
    def end_ns(self) -> int:
        """The end of the latest slice, Unix time, ns."""
        return self.history.end_ns

    @property
    def baseline(self) -> tuple[int, int]:
        """The begin and the end of the baseline, Unix time, ns; (0, 0) if there is no baseline yet."""
        return self._baseline[1:] if self._baseline else (0, 0)

    def take(self, feed: WatchedInterfaces) -> Slice:
        """Takes a slice from a feed, and adds the slice."""
        slice = feed.take()
        self.add(slice)
        if self._max_lines is not None and len(self.history.numbering.lines) > self._max_lines:
            self._forget_lines(feed, self._max_lines * 3 // 4)
        return slice

    def _forget_lines(self, feed: WatchedInterfaces, kept: int) -> None:
        """Adds lines to the line "all others", until `kept` lines are left. The sums stay exact."""
        numbering = self.history.numbering
        are_needed = ~numbering.are_networks()
        are_needed[feed.lines_in_use] = True
        order = np.argsort(np.where(are_needed, _NEVER_NS, self._seen_ns), kind="stable")
        forgotten = {numbering.lines[number] for number in order[: len(order) - kept].tolist()}
        to, numbering = numbering.grouped(lambda line: Line(OVERFLOW) if line in forgotten else line)
        self.history = self.history.renumbered(to, numbering)
        feed.renumber(to, numbering)
        lines = len(numbering.lines)
        self._seen_ns = _latest(self._seen_ns, to, lines)
        if self._baseline:
            self._baseline = _grouped_rtts(self._baseline[0], to, lines), *self._baseline[1:]
        self._window, self._under_load_s, self._load_ns = None, None, 0

    def add(self, slice: Slice) -> None:
        """Adds a slice. The slice must be later than all slices of the session."""
        self.history.add(slice)
        self._seen_ns = grow(self._seen_ns, len(self.history.numbering.lines))
        self._seen_ns[slice.lines[slice.counters.any(axis=1)]] = slice.end_ns
        if self._window is not None and self._window_s is not None:
            is_too_long = slice.end_ns - self._window.begin_ns > self._window_s * _NS * (1 + 1 / _PARTS)
            if is_too_long:
                self._window = None
            else:
                self._window.add(StoredSlice(slice))
        if self._baseline is None and self.end_ns - self.begin_ns >= BASELINE_NS:
            self._set_baseline(self.history.total(None, self.begin_ns + BASELINE_NS))

    def set_baseline(self, total: Total) -> None:
        """Makes the RTTs of `total` the baseline, from now on."""
        self._is_baseline_chosen = True
        self._set_baseline(total)

    def _set_baseline(self, total: Total) -> None:
        self._baseline = total.rtts().copy(), total.begin_ns, total.end_ns

    def window(self, window_s: float | None, end_ns: int | None = None) -> Total:
        """Returns the sum of the latest slices. `window_s` is the duration; None stands for the whole session.

        `end_ns` is the end of the window; by default, the window ends with the latest slice.
        """
        if end_ns is not None and end_ns < self.end_ns:
            begin_ns = None if window_s is None else self._begin_of_window(end_ns, window_s)
            return self.history.total(begin_ns, end_ns)
        if window_s is None:
            return self.history.total()
        if self._window is None or self._window_s != window_s:
            self._window = self.history.total(self._begin_of_window(self.end_ns, window_s))
            self._window_s = window_s
        return self._window

    def _begin_of_window(self, end_ns: int, window_s: float) -> int:
        """Returns the begin of a window, which contains at least the last slice."""
        last_ns = max((begin for begin, end in self.history.intervals if end <= end_ns), default=end_ns)
        return min(end_ns - round(window_s * _NS), last_ns)

    def frame(
        self,
        window_s: float | None,
        group_by: str = SUBNET,
        methods: Collection[str] | None = None,
        end_ns: int | None = None,
    ) -> Frame:
        """Computes a frame. `end_ns` is the end of the window, for captures."""
        window = self.window(window_s, end_ns)
        everything = self.history.total(None, end_ns) if end_ns is not None else self.history.total()
        session = everything.rtts(methods).copy()
        baseline = None
        if self._baseline and (self._is_baseline_chosen or window.begin_ns >= self._baseline[2]):
            baseline = self._baseline[0].copy()
        # A given history does not contain the time of the latest packet of a line. Such lines do not fade.
        seen_ns = grow(self._seen_ns, window.lines, 0 if len(self._seen_ns) else window.end_ns).copy()
        if group_by != SUBNET:
            to, numbering = self._groups(group_by)
            session = _grouped_rtts(session, to, len(numbering.lines))
            baseline = baseline and _grouped_rtts(baseline, to, len(numbering.lines))
            window, seen_ns = self.grouped(window, group_by), _latest(seen_ns, to, len(numbering.lines))
        under_load_s = self._latency_under_load() if group_by == SUBNET else None
        return make_frame(
            window.copy() if group_by == SUBNET else window,
            session,
            everything.seconds,
            seen_ns,
            baseline,
            under_load_s,
            methods,
        )

    def grouped(self, total: Total, group_by: str) -> Total:
        """Returns the sums of the groups, or `total` itself if lines are not grouped."""
        if group_by == SUBNET:
            return total
        to, numbering = self._groups(group_by)
        grouped = Total(numbering)
        grouped.add(grouped_slice(total.stored(), to, numbering))
        return grouped

    def _groups(self, group_by: str) -> tuple[Indexes, Numbering]:
        """Returns the number of the group of each line, and the numbering of the groups."""
        return self.history.numbering.grouped(lambda line: line.grouped(group_by))

    def _latency_under_load(self) -> Floats | None:
        if self.end_ns - self._load_ns >= min(_LOAD_NS, (self.end_ns - self.begin_ns) // 2):
            self._load_ns = self.end_ns
            self._under_load_s = latency_under_load(self.history).added
        return self._under_load_s


def _grouped_rtts(rtts: LineRtts, to: Indexes, groups: int) -> LineRtts:
    grouped = LineRtts(groups)
    found = rtts.as_rtts(0)
    grouped.add(replace(found, lines=to[found.lines]))
    return grouped


def _latest(seen_ns: Times, to: Indexes, groups: int) -> Times:
    latest = np.zeros(groups, np.int64)
    np.maximum.at(latest, to, seen_ns)
    return latest
