# SPDX-License-Identifier: Apache-2.0
"""The widgets of the screen. Each widget draws only the visible lines."""

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from otel_epping.process.escaping import printable
from otel_epping.top.measuring import Update
from otel_epping.top.pages import Line
from otel_epping.top.table import TableLines

_WHEEL_ROWS = 3


class Updated(Message):
    """The thread has computed an update."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        self.update = update


class Failed(Message):
    """The thread has ended with an exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Text(Widget):
    """A few lines of text that do not scroll. `set_lines` replaces them."""

    class Clicked(Message):
        """The user clicked on a column of the text."""

        def __init__(self, widget: "Text", x: int) -> None:
            super().__init__()
            self.widget, self.x = widget, x

    def __init__(self, id: str, lines: int) -> None:
        super().__init__(id=id)
        self._lines: Sequence[Line] = [[] for _ in range(lines)]
        self.styles.height = lines

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Shows these lines."""
        if len(lines) != len(self._lines):
            self.styles.height = len(lines)
        self._lines = lines
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Returns a line (the line API of textual)."""
        return _strip(self._lines[y] if y < len(self._lines) else [], self.size.width)

    def on_click(self, event: events.Click) -> None:
        """Reports the click."""
        self.post_message(self.Clicked(self, event.x))


class Page(ScrollView, can_focus=True):
    """Lines of text that scroll."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._lines: Sequence[Line] = []

    @property
    def position(self) -> str:
        """The numbers of the visible lines, or "" if all lines are visible."""
        top, height, lines = int(self.scroll_offset.y), self.size.height, len(self._lines)
        return f"lines {top + 1}-{min(top + height, lines)} of {lines}" if lines > height > 0 else ""

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Shows these lines. The scroll position does not change."""
        self._lines = lines
        self.virtual_size = Size(self.size.width, len(lines))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Returns a visible line (the line API of textual)."""
        place = y + int(self.scroll_offset.y)
        return _strip(self._lines[place] if place < len(self._lines) else [], self.size.width)


class NetworkTable(Widget, can_focus=True):
    """The table of networks with a cursor. The first line is the heading."""

    class Opened(Message):
        """The user chose a row."""

    class HeadingClicked(Message):
        """The user clicked on a column of the heading."""

        def __init__(self, x: int) -> None:
            super().__init__()
            self.x = x

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.table: TableLines | None = None
        self.cursor = 0
        self._top = 0

    @property
    def rows(self) -> int:
        """Number of rows of the table."""
        return len(self.table.shown) if self.table else 0

    @property
    def position(self) -> str:
        """The numbers of the visible rows, or "" if all rows are visible."""
        height = max(self.size.height - 1, 1)
        if self.rows <= height:
            return ""
        return f"rows {self._top + 1:,}-{min(self._top + height, self.rows):,} of {self.rows:,}"

    @property
    def selected(self) -> int | None:
        """The number of the line under the cursor, or None if the table is empty."""
        return int(self.table.shown[self.cursor]) if self.table and self.rows else None

    def set_table(self, table: TableLines) -> None:
        """Shows a table. The cursor stays in the row with the same number."""
        self.table = table
        self.move_to(self.cursor)

    def move_to(self, row: int) -> None:
        """Moves the cursor to a row, and scrolls so that the row is visible."""
        self.cursor = max(0, min(row, self.rows - 1))
        height = max(self.size.height - 1, 1)
        self._top = max(min(self._top, self.cursor), self.cursor - height + 1, 0)
        self._top = max(0, min(self._top, self.rows - height))
        self.refresh()

    def on_resize(self, _: events.Resize) -> None:
        """Keeps the cursor visible."""
        self.move_to(self.cursor)

    def render_line(self, y: int) -> Strip:
        """Returns a visible line (the line API of textual)."""
        if self.table is None:
            return Strip.blank(self.size.width)
        if y == 0:
            return _strip(self.table.heading(), self.size.width)
        row = self._top + y - 1
        if row >= self.rows:
            return Strip.blank(self.size.width)
        return _strip(self.table.row(row, is_selected=row == self.cursor), self.size.width)

    def on_click(self, event: events.Click) -> None:
        """Moves the cursor to a row, or opens the row that has the cursor."""
        if event.y == 0:
            self.post_message(self.HeadingClicked(event.x))
        elif (row := self._top + event.y - 1) < self.rows:
            is_selected = row == self.cursor
            self.move_to(row)
            if is_selected:
                self.post_message(self.Opened())

    def on_mouse_scroll_down(self, _: events.MouseScrollDown) -> None:
        """Moves the cursor down."""
        self.move_to(self.cursor + _WHEEL_ROWS)

    def on_mouse_scroll_up(self, _: events.MouseScrollUp) -> None:
        """Moves the cursor up."""
        self.move_to(self.cursor - _WHEEL_ROWS)


def _strip(line: Line, width: int) -> Strip:
    """Returns a line with exactly `width` columns. Control characters, for example of a pasted filter, are escaped."""
    line = [each if each.text.isprintable() else Segment(printable(each.text), each.style) for each in line]
    return Strip(line).adjust_cell_length(width, Style())
