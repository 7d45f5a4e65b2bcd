# SPDX-License-Identifier: Apache-2.0
"""The screen of `otel-epping top`: keys, mouse, tabs and pages. Needs the package textual."""

import asyncio
import signal
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from otel_epping.history.line import Line as NetworkLine
from otel_epping.networks.pseudonyms import Pseudonyms, unchanged
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET
from otel_epping.top import filter, head, pages, text
from otel_epping.top.columns import DEFAULT_SORT
from otel_epping.top.detail import detail
from otel_epping.top.measuring import Request, Update
from otel_epping.top.pages import BOLD, DIM, PLAIN, Line, line_of
from otel_epping.top.table import CURSOR, HIGH, TableLines, sort_keys
from otel_epping.top.text import Glyphs
from otel_epping.top.view import WINDOWS_S, View
from otel_epping.top.widgets import NetworkTable, Page, Text

TABS = ("networks", "heat map", "traffic", "health")
_NETWORKS, _HEAT_MAP, _TRAFFIC, _HEALTH = range(4)
_HINTS = "? help  s sort  / filter  Enter detail  g group  w window  q quit"
_BACK = "Esc back  ? help  q quit"
# While a capture is played, the slider moves by one interval in this time.
_PLAY_S = 0.5


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


class TopApp(App[str]):
    """The screen. The result is the text to print after the end of the screen, or None.

    ask       asks the measuring thread for another update
    messages  the latest log messages
    error     the exception with which the measuring thread has ended, or None
    """

    CSS = """
    Screen { layout: vertical; overflow: hidden; scrollbar-size: 0 0; }
    NetworkTable { height: 1fr; width: 100%; }
    Page { height: 1fr; width: 100%; scrollbar-size: 0 0; }
    Input, Input:focus { height: 1; border: none; padding: 0; width: 100%; }
    """
    ENABLE_COMMAND_PALETTE = False
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

    def __init__(
        self,
        view: View,
        ask: Callable[[Request], object],
        messages: Sequence[str] = (),
        glyphs: Glyphs | None = None,
        tags: frozenset[str] = frozenset(),
        *,
        is_live: bool = True,
    ) -> None:
        super().__init__(ansi_color=True)
        self.error: Exception | None = None
        self._view, self._first_view, self._ask = view, view, ask
        self._messages, self._glyphs = messages, glyphs or Glyphs(is_ascii=not text.has_unicode())
        self._tags, self._is_live = tags, is_live
        self._pseudonyms = view.show if view.show is not unchanged else Pseudonyms()
        self._tab, self._is_help = _NETWORKS, False
        self._opened: NetworkLine | None = None
        self._update: Update | None = None
        self._groups = [SUBNET]
        self._frozen_ns: int | None = None
        self._position: int | None = None  # the number of the last interval that is shown; None is the end
        self._is_playing, self._baselines = False, 0
        self._problem = ""

    # ---- the screen

    def compose(self) -> ComposeResult:
        """Creates the widgets."""
        yield Text("head", 3)
        if not self._is_live:
            yield Text("slider", 1)
        yield Text("tabs", 1)
        yield NetworkTable("table")
        yield Page("page")
        yield Input(self._view.filter.text, placeholder="as:3320 p95>100 n>50 side:internal name:miller", id="words")
        yield Text("foot", 1)

    def on_mount(self) -> None:
        """Starts."""
        self.query_one("#words").display = False
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.set_interval(_PLAY_S, self._play)
        self._draw()

    def on_updated(self, message: Updated) -> None:
        """Shows an update, unless it is of a time when the screen was not frozen."""
        if message.update.request.end_ns != self._end_ns():
            return
        if self._frozen_ns is not None and self._update and self._update.request == message.update.request:
            return
        self._update = message.update
        if self._update.request.group_by == SUBNET:
            self._groups = _groups(self._update.frame.lines)
        self._draw()

    def on_failed(self, message: Failed) -> None:
        """Ends the screen. The caller raises the exception."""
        self.error = message.error
        self.exit()

    def on_resize(self, _: events.Resize) -> None:
        """Draws the screen for another size."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        """Draws everything from the latest update."""
        table, page = self.query_one(NetworkTable), self.query_one(Page)
        self._draw_head()
        body = self._page_lines(page.size.width or self.size.width, self.size.height - 6)
        if self._update and body is None:
            lines = TableLines(self._update.frame, self._view, self.size.width, self._glyphs)
            table.set_table(lines)
            if not len(lines.shown):
                body = self._why_empty()
        table.display, page.display = body is None, body is not None
        page.set_lines(body or [])
        if not self.query_one("#words").display:
            (page if body is not None else table).focus()
        self.call_after_refresh(self._draw_foot)

    def _page_lines(self, width: int, height: int) -> list[Line] | None:
        """Returns the lines of the page that is shown instead of the table, or None."""
        update, glyphs = self._update, self._glyphs
        if self._is_help:
            return list(pages.help_page(width))
        if update is None:
            return [line_of("Starting...")]
        if self._opened is not None:
            return list(detail(update, self._view, self._opened, width, height, glyphs))
        if self._tab == _HEAT_MAP:
            return list(pages.heat_map(update, self._view, width, height, glyphs))
        if self._tab == _TRAFFIC:
            return list(pages.traffic(update, width, glyphs))
        if self._tab == _HEALTH:
            return list(pages.health(update, list(self._messages), glyphs))
        return None

    def _why_empty(self) -> list[Line]:
        assert self._update
        if self._view.filter.text and self._update.frame.present.any():
            words = self._view.filter.text
            return [[], line_of(f"No network matches the filter {words}"), line_of("/ changes it, r removes it", DIM)]
        return [[], *(line_of(each) for each in self._update.reasons or ["No network has traffic in this window."])]

    def _draw_head(self) -> None:
        update, view = self._update, self._view
        tabs: Line = []
        for number, name in enumerate(TABS):
            is_open = number == self._tab and not self._is_help and self._opened is None
            tabs += [Segment(f" {number + 1} {name} ", CURSOR if is_open else PLAIN), Segment(" ")]
        if update:
            why = " ".join(update.reasons) or (update.faults[0] if update.faults else "")
            third = line_of(why, HIGH) if why else line_of(head.verdict(update.frame, view), BOLD)
            first = line_of(head.title(update, view, is_frozen=self._frozen_ns is not None), BOLD)
            self.query_one("#head", Text).set_lines([first, line_of(head.numbers(update)), third])
            tabs.append(Segment("  ".join(head.states(update, view)), DIM))
            if not self._is_live:
                self.query_one("#slider", Text).set_lines([self._slider(update)])
        self.query_one("#tabs", Text).set_lines([tabs])

    def _draw_foot(self) -> None:
        """Draws the last line: the keys and the position, or what is wrong."""
        table, page = self.query_one(NetworkTable), self.query_one(Page)
        hints = _BACK if self._is_help or self._opened is not None else _HINTS
        position = table.position if table.display else page.position
        foot = [
            line_of(hints[: self.size.width - len(position)].ljust(self.size.width - len(position)) + position, DIM)
        ]
        if self._problem:
            foot = [line_of(each, HIGH) for each in textwrap.wrap(self._problem, self.size.width)]
        self.query_one("#foot", Text).set_lines(foot)

    def _slider(self, update: Update) -> Line:
        ends = update.ends_ns
        width = max(self.size.width - 34, 10)
        position = len(ends) - 1 if self._position is None else self._position
        place = round(position / max(len(ends) - 1, 1) * (width - 1))
        bar = self._glyphs.rule * place + self._glyphs.marker + self._glyphs.rule * (width - 1 - place)
        state = "playing" if self._is_playing else "Left Right"
        return [Segment(f"{text.clock(update.session[0])} {bar} {text.clock(update.session[1])}  {state}")]

    # ---- requests

    def _end_ns(self) -> int | None:
        if self._position is not None and self._update and self._position < len(self._update.ends_ns) - 1:
            return int(self._update.ends_ns[self._position])
        return self._frozen_ns

    def _request(self) -> None:
        """Asks for an update that fits the present view."""
        self._ask(self.request)
        self._draw()

    @property
    def request(self) -> Request:
        """The request that fits the present view."""
        view = self._view
        has_time = self._tab == _HEAT_MAP or self._opened is not None
        return Request(
            view.window_s, view.group_by, view.filter.methods, has_time, self._end_ns(), baseline=self._baselines
        )

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
        """Ends the screen. The head and the table stay in the terminal."""
        lines = []
        if self._update:
            table = TableLines(self._update.frame, self._view, self.size.width, self._glyphs)
            lines = [head.title(self._update, self._view, is_frozen=False), head.numbers(self._update)]
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
        """Inverts the order."""
        self._sort_by(self._view.sort)

    def action_filter(self) -> None:
        """Opens the line for the filter."""
        words = self.query_one("#words", Input)
        words.value, words.display = self._view.filter.text, True
        words.focus()

    def on_input_changed(self, message: Input.Changed) -> None:
        """Applies the good words of the filter at once, and shows what is wrong with the others."""
        if self.query_one("#words").display:
            self._set_filter(message.value)

    def on_input_submitted(self, _: Input.Submitted) -> None:
        """Closes the line for the filter."""
        self.query_one("#words").display = False
        self._draw()

    def _set_filter(self, words: str) -> None:
        found = filter.parse(words, self._tags)
        methods = self._view.filter.methods
        self._problem = found.problems[0] if found.problems else ""
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
        """Chooses the next window."""
        windows = WINDOWS_S
        place = windows.index(self._view.window_s) if self._view.window_s in windows else -1
        self._view = replace(self._view, window_s=windows[(place + 1) % len(windows)])
        self._request()

    def action_freeze(self) -> None:
        """Freezes the screen or lets it continue. With captures, plays or pauses."""
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
        """Resets the view."""
        first = self._first_view
        self._view = replace(first, filter=filter.Filter(), sort=DEFAULT_SORT, ascending=False, show=self._view.show)
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
        if self._tab == _NETWORKS and not self._is_help and self._opened is None and selected is not None:
            assert self._update
            self._opened = self._update.frame.lines[selected]
            self.query_one(Page).scroll_home(animate=False)
            self._request()

    def on_network_table_opened(self, _: NetworkTable.Opened) -> None:
        """Opens the page about the network that was clicked on."""
        self.action_open()

    def action_close(self) -> None:
        """Closes the filter line, the help or the page about a network."""
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
        """Moves by a page."""
        self.action_move(pages_down * max(self.query_one(NetworkTable).size.height - 2, self.size.height - 8))

    def action_ends(self, end: int) -> None:
        """Moves to the first or the last row."""
        self.action_move((1 if end else -1) * 10**9)

    # ---- mouse

    def on_text_clicked(self, message: Text.Clicked) -> None:
        """Opens the tab or moves the slider that was clicked on."""
        if message.widget.id == "tabs":
            position = 0
            for number, name in enumerate(TABS):
                position += len(name) + 5
                if message.x < position:
                    self.action_tab(number)
                    return
        elif message.widget.id == "slider" and self._update:
            width = max(self.size.width - 34, 10)
            share = min(max((message.x - 9) / width, 0), 1)
            self._slide_to(round(share * (len(self._update.ends_ns) - 1)))

    def on_network_table_heading_clicked(self, message: NetworkTable.HeadingClicked) -> None:
        """Sorts by the column that was clicked on."""
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


def _groups(lines: Sequence[NetworkLine]) -> list[str]:
    """Returns the attributes by which lines can be grouped."""
    found = [SUBNET]
    for group, has_group in (
        (NAME, any(line.name for line in lines)),
        (ASN, any(line.as_number is not None for line in lines)),
        (COUNTRY, any(line.country for line in lines)),
    ):
        found += [group] * has_group
    return found + list(dict.fromkeys(tag for line in lines for tag, _ in line.tags))
