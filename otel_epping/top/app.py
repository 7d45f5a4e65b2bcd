# SPDX-License-Identifier: Apache-2.0
"""The keys and the mouse of `otel-epping top`. Needs the package textual."""

from dataclasses import replace
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

from otel_epping.networks.pseudonyms import unchanged
from otel_epping.top import filter, head
from otel_epping.top.columns import DEFAULT_SORT
from otel_epping.top.screen import NETWORKS, TABS, TopScreen
from otel_epping.top.table import TableLines, sort_keys
from otel_epping.top.view import WINDOWS_S
from otel_epping.top.widgets import NetworkTable, Page, Text

# While a capture is played, the slider moves by one interval after each _PLAY_S seconds.
_PLAY_S = 0.5


class TopApp(TopScreen):
    """The screen with keys and the mouse. The actions change the view, and request updates."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number + 1), f"tab({number})", show=False) for number in range(len(TABS))),
        Binding("q", "leave", show=False),
        Binding("ctrl+c", "leave", show=False, priority=True),
        Binding("Q", "leave_table", show=False),
        Binding("s", "sort(1)", show=False),
        Binding("S", "sort(-1)", show=False),
        Binding("i", "invert", show=False),
        Binding("slash", "filter", show=False),
        Binding("g", "group", show=False),
        Binding("w", "window", show=False),
        Binding("space", "freeze", show=False),
        Binding("b", "baseline", show=False),
        Binding("p", "redact", show=False),
        Binding("r", "reset", show=False),
        Binding("question_mark", "help", show=False),
        Binding("enter", "open", show=False),
        Binding("escape", "close", show=False, priority=True),
        Binding("down,j", "move(1)", show=False),
        Binding("up,k", "move(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("home", "ends(0)", show=False),
        Binding("end", "ends(1)", show=False),
        Binding("left", "slide(-1)", show=False),
        Binding("right", "slide(1)", show=False),
    ]

    def on_mount(self) -> None:
        """Starts the clock that plays captures."""
        self.set_interval(_PLAY_S, self._play)

    # ---- keys

    def action_tab(self, number: int) -> None:
        """Opens a tab."""
        self._tab, self._is_help, self._opened = number, False, None
        self.query_one(Page).scroll_home(animate=False)
        self._request()

    def action_leave(self) -> None:
        """Ends the screen."""
        self.exit()

    def action_leave_table(self) -> None:
        """Ends the screen, and prints the lines above the table and the table in the terminal."""
        lines = []
        if self._update:
            table = TableLines(self._update.frame, self._view, self.size.width, self._glyphs)
            lines = [
                head.title(self._update, self._view, self.size.width, self._glyphs, is_frozen=False),
                head.numbers(self._update.frame, self._view, self.size.width),
            ]
            lines += [head.verdict(self._update.frame, self._view), *table.text_lines(self.size.height - 5)]
        self.exit("\n".join(lines))

    def action_sort(self, step: int) -> None:
        """Sorts by the next or the previous column."""
        table = self.query_one(NetworkTable).table
        if table:
            keys = sort_keys(table.layout)
            place = keys.index(self._view.sort) if self._view.sort in keys else 0
            self._sort_by(keys[(place + step) % len(keys)])

    def _sort_by(self, key: str) -> None:
        is_same = key == self._view.sort
        ascending = not self._view.ascending if is_same else False
        self._view = replace(self._view, sort=key, ascending=ascending)
        self.query_one(NetworkTable).cursor = 0
        self._draw()

    def action_invert(self) -> None:
        """Inverts the order of the rows."""
        self._sort_by(self._view.sort)

    def action_filter(self) -> None:
        """Opens the input line of the filter."""
        words = self.query_one("#words", Input)
        words.value, words.display = self._view.filter.text, True
        words.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Applies a valid filter at once. Shows the problem of the first invalid word, and keeps the filter."""
        if self.query_one("#words").display:
            self._set_filter(message.value)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Closes the input line of a valid filter."""
        if not filter.parse(message.value, self._tags).problems:
            self.query_one("#words").display = False
            self._draw()

    def _set_filter(self, words: str) -> None:
        found = filter.parse(words, self._tags)
        self._problem = found.problems[0] if found.problems else ""
        if found.problems:
            self._draw()
            return
        methods = self._view.filter.methods
        self._view = replace(self._view, filter=found)
        self._draw() if found.methods == methods else self._request()

    def action_group(self) -> None:
        """Groups the networks by the next attribute."""
        if len(self._groups) == 1:
            self._problem = "nothing to group by: use --networks or --database for names, tags, AS and countries"
            self._draw()
            return
        place = self._groups.index(self._view.group_by) if self._view.group_by in self._groups else -1
        self._view = replace(self._view, group_by=self._groups[(place + 1) % len(self._groups)])
        self._opened = None
        self._request()

    def action_window(self) -> None:
        """Sets the window to the next duration of WINDOWS_S."""
        windows = WINDOWS_S
        place = windows.index(self._view.window_s) if self._view.window_s in windows else -1
        self._view = replace(self._view, window_s=windows[(place + 1) % len(windows)])
        self._request()

    def action_freeze(self) -> None:
        """Freezes a live screen or continues the updates. Plays or pauses captures."""
        if not self._is_live:
            self._is_playing = not self._is_playing
            if self._is_playing and self._position is None:
                self._position = 0
            self._request()
        elif self._update:
            self._frozen_ns = self._update.frame.end_ns if self._frozen_ns is None else None
            self._request()

    def action_baseline(self) -> None:
        """Makes the RTTs of the window the baseline."""
        self._baselines += 1
        self._request()

    def action_redact(self) -> None:
        """Shows or hides names and addresses."""
        self._view = replace(self._view, show=unchanged if self._view.is_redacted else self._pseudonyms)
        self._draw()

    def action_reset(self) -> None:
        """Resets the view and the time slider. Pseudonyms stay as they are."""
        first = self._first_view
        self._view = replace(
            first, filter=filter.NetworkFilter(), sort=DEFAULT_SORT, ascending=False, show=self._view.show
        )
        self._frozen_ns, self._position, self._is_playing, self._problem = None, None, False, ""
        self._opened, self._is_help = None, False
        self._request()

    def action_help(self) -> None:
        """Opens or closes the help."""
        self._is_help = not self._is_help
        self.query_one(Page).scroll_home(animate=False)
        self._draw()

    def action_open(self) -> None:
        """Opens the page about the selected network."""
        selected = self.query_one(NetworkTable).selected
        if self._tab == NETWORKS and not self._is_help and self._opened is None and selected is not None:
            assert self._update
            self._opened = self._update.frame.lines[selected]
            self.query_one(Page).scroll_home(animate=False)
            self._request()

    def on_network_table_opened(self, _: NetworkTable.Opened) -> None:
        """Opens the page about the clicked network."""
        self.action_open()

    def action_close(self) -> None:
        """Closes the input line and removes the filter, or removes the displayed problem.

        Without an input line or a problem, closes the help and the page about a network.
        """
        words = self.query_one("#words", Input)
        if words.display:
            words.display = False
            self._set_filter("")
        elif self._problem:
            self._problem = ""
        else:
            self._is_help, self._opened = False, None
        self._request()

    def action_move(self, rows: int) -> None:
        """Moves the cursor, or scrolls the page."""
        table, page = self.query_one(NetworkTable), self.query_one(Page)
        if table.display:
            table.move_to(table.cursor + rows)
        else:
            page.scroll_to(y=page.scroll_offset.y + rows, animate=False)
        self.call_after_refresh(self._draw_foot)

    def action_page(self, pages_down: int) -> None:
        """Moves the cursor by a page, or scrolls by a page."""
        self.action_move(pages_down * max(self.query_one(NetworkTable).size.height - 2, self.size.height - 8))

    def action_ends(self, end: int) -> None:
        """Moves the cursor to the first or the last row, or scrolls to the begin or the end."""
        self.action_move((1 if end else -1) * 10**9)

    # ---- mouse

    def on_text_clicked(self, message: Text.Clicked) -> None:
        """Opens the clicked tab, or moves the slider to the clicked time."""
        if message.widget.id == "tabs":
            position = 0
            for number, name in enumerate(TABS):
                position += len(name) + 5
                if message.x < position:
                    self.action_tab(number)
                    return
        elif message.widget.id == "slider" and self._update:
            begin, width = self._slider_place(self._update)
            share = min(max((message.x - begin) / width, 0), 1)
            self._slide_to(round(share * (len(self._update.ends_ns) - 1)))

    def on_network_table_heading_clicked(self, message: NetworkTable.HeadingClicked) -> None:
        """Sorts by the column whose heading was clicked."""
        table = self.query_one(NetworkTable).table
        if table and (key := table.column_at(message.x)):
            self._sort_by(key)

    # ---- captures

    def action_slide(self, step: int) -> None:
        """Moves the time slider."""
        if not self._is_live and self._update and self._update.ends_ns:
            position = len(self._update.ends_ns) - 1 if self._position is None else self._position
            self._slide_to(position + step)

    def _slide_to(self, position: int) -> None:
        assert self._update
        last = len(self._update.ends_ns) - 1
        self._position = min(max(position, 0), last)
        self._is_playing &= self._position < last
        self._request()

    def _play(self) -> None:
        if self._is_playing:
            self.action_slide(1)
