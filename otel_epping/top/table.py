# SPDX-License-Identifier: Apache-2.0
"""The table of networks as lines of styled text.

Only visible lines are formatted, so the time to format lines does not depend on the number of networks.
"""

from rich.segment import Segment
from rich.style import Style

from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.history.verdict import FAIR, SLOW, Thresholds
from otel_epping.kernel.arrays import Indexes
from otel_epping.top.columns import BY_KEY, Layout, layout
from otel_epping.top.frame import Frame
from otel_epping.top.strips import strip_values
from otel_epping.top.text import Glyphs
from otel_epping.top.view import SORT_BY_NAME, View, shown_lines

# The colours belong to the palette of the terminal. Each state also has an attribute, for terminals without colours.
PLAIN, HEADING, SORTED = Style(), Style(bold=True), Style(bold=True, reverse=True)
FEW, STALE, SUMMED = Style(dim=True), Style(dim=True, italic=True), Style(italic=True)
CURSOR = Style(reverse=True)
LOW, MIDDLE, HIGH = Style(color="cyan"), Style(color="yellow"), Style(color="red", bold=True)
# A row fades if its latest packet is older than this share of the window, and older than _STALE_S seconds.
_STALE_SHARE, _STALE_S = 0.25, 10.0
# The colours of networks by rating. The verdict has the same thresholds.
_STYLES = {FAIR: MIDDLE, SLOW: HIGH}
_THRESHOLDS = Thresholds()
_RATED = ("p50", "p95", "excess", "change")


def style_of(added_s: float) -> Style:
    """Returns the colour for an excess or for a change of p95, in seconds."""
    return _STYLES.get(_THRESHOLDS.rating(added_s), PLAIN)


class TableLines:
    """The lines of the table for one frame, one view and one width. `shown` are the numbers of the shown lines."""

    def __init__(self, frame: Frame, view: View, width: int, glyphs: Glyphs) -> None:
        self.layout: Layout = layout(width, frame, view.sort)
        self.shown: Indexes = shown_lines(frame, view)
        self._frame, self._view, self._glyphs = frame, view, glyphs
        self._values = [column.values(frame) for column in self.layout.columns]
        self._age_s = frame.age_s
        self._stale_s = max(_STALE_S, frame.total.seconds * _STALE_SHARE)
        self._excess_s = frame.statistics.excess

    def heading(self) -> list[Segment]:
        """Returns the heading. The column by which the table is sorted is marked."""
        view, glyphs = self._view, self._glyphs
        arrow = glyphs.up if view.ascending else glyphs.down
        segments = []
        for field, heading, width in self.layout.labels:
            is_sorted = field == "label" and view.sort == SORT_BY_NAME
            heading += f" {arrow}" if is_sorted else ""
            segments.append(Segment(glyphs.fit(heading, width) + " ", SORTED if is_sorted else HEADING))
        for column in self.layout.columns:
            is_sorted = column.key == view.sort
            heading = column.heading
            if is_sorted and len(heading) + 1 <= column.width:
                heading = arrow + heading
            style = SORTED if is_sorted else HEADING
            segments += [Segment(glyphs.fit(heading, column.width, right=True), style), Segment(" ", HEADING)]
        if self.layout.strip:
            segments.append(Segment(self._axis(self.layout.strip), HEADING))
        return segments

    def row(self, place: int, *, is_selected: bool = False) -> list[Segment]:
        """Returns a row. `place` is an index of `shown`."""
        line = int(self.shown[place])
        described, glyphs = self._frame.lines[line], self._glyphs
        base = self._style(line)
        segments = []
        for field, _, width in self.layout.labels:
            segments.append(Segment(glyphs.fit(self._view.cell(described, field), width) + " ", base))
        for column, values in zip(self.layout.columns, self._values, strict=True):
            value = float(values[line])
            style = base
            if column.key in _RATED and base is PLAIN:
                style = style_of(value if column.key == "change" else float(self._excess_s[line]))
            segments += [Segment(glyphs.fit(column.show(value), column.width, right=True), style), Segment(" ", base)]
        if self.layout.strip:
            values = strip_values(self._frame.rtts, line, self._frame.axis, self.layout.strip)
            segments.append(Segment(glyphs.strip(values), base if base is not PLAIN else LOW))
        if is_selected:
            return [Segment(each.text, CURSOR) for each in segments]
        return segments

    def column_at(self, x: int) -> str | None:
        """Returns the key of the column at a position of the heading; None where no column can be sorted."""
        position = 0
        for field, _, width in self.layout.labels:
            position += width + 1
            if x < position:
                return SORT_BY_NAME if field == "label" else None
        for column in self.layout.columns:
            position += column.width + 1
            if x < position:
                return column.key
        return None

    def text_lines(self, rows: int | None = None) -> list[str]:
        """Returns the heading and the first `rows` rows as plain text."""
        count = len(self.shown) if rows is None else min(rows, len(self.shown))
        lines = [self.heading(), *(self.row(place) for place in range(count))]
        return ["".join(segment.text for segment in line).rstrip() for line in lines]

    def _style(self, line: int) -> Style:
        """Returns the style of a row: dim with few samples, faded without recent packets."""
        if not self._frame.lines[line].is_network:
            return SUMMED
        if self._age_s[line] > self._stale_s:
            return STALE
        return FEW if self._frame.statistics.samples[line] < MIN_SAMPLES else PLAIN

    def _axis(self, width: int) -> str:
        """Returns the heading of the strips: the ends of their axis."""
        low, high = (_short_time(each) for each in self._frame.axis)
        if len(low) + len(high) < width:
            return f"{low}{' ' * (width - len(low) - len(high))}{high}"
        return self._glyphs.fit("-".join(f"{each * 1e3:g}" for each in self._frame.axis), width)


def _short_time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:g}s"
    return f"{seconds * 1e3:g}ms" if seconds >= 1e-3 else f"{seconds * 1e6:g}us"


def sort_keys(found: Layout) -> list[str]:
    """Returns the keys by which the table can be sorted, in the order of the columns."""
    visible = [column.key for column in found.columns]
    return [SORT_BY_NAME, *visible, *(key for key in BY_KEY if key not in visible)]
