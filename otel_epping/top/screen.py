# SPDX-License-Identifier: Apache-2.0
"""The screen of `otel-epping top`: lines above the table, the table or a page, and the last line. Needs textual."""

from collections.abc import Callable, Sequence

from rich.segment import Segment
from textual import events
from textual.app import App, ComposeResult
from textual.widgets import Input

from otel_epping.history.line import Line as NetworkLine
from otel_epping.networks.pseudonyms import Pseudonyms, unchanged
from otel_epping.series.grouping import SUBNET
from otel_epping.top import head, pages, text
from otel_epping.top.detail import detail
from otel_epping.top.measuring import FrameRequest, Update
from otel_epping.top.pages import BOLD, DIM, PLAIN, Line, line_of, paragraphs
from otel_epping.top.table import CURSOR, HIGH, TableLines
from otel_epping.top.terminal import handle_signals
from otel_epping.top.text import Glyphs
from otel_epping.top.view import View, group_names
from otel_epping.top.widgets import Failed, NetworkTable, Page, Text, Updated

TABS = ("networks", "heat map", "traffic", "health")
NETWORKS, _HEAT_MAP, _TRAFFIC, _HEALTH = range(4)
_HINTS = "? help  s sort  / filter  Enter detail  w window  Space freeze  q quit"
_BACK = "Esc back  ? help  q quit"
_SLIDER_STATE = 16
# A terminal with fewer rows shows no tabs, and only the first line above the table.
_LOW = 12
# The texts below the second line take at most this part of the rows. The tab `health` has the whole texts.
_HEAD_SHARE = 3


class TopScreen(App[str]):
    """The content of the screen. TopApp handles the keys and the mouse.

    The result is the text to print after the end of the screen, or None. `problem` is shown in the last line until the
    user presses Esc.

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

    def __init__(
        self,
        view: View,
        ask: Callable[[FrameRequest], object],
        messages: Sequence[str] = (),
        glyphs: Glyphs | None = None,
        tags: frozenset[str] = frozenset(),
        *,
        is_live: bool = True,
        problem: str = "",
    ) -> None:
        super().__init__(ansi_color=True)
        self.error: Exception | None = None
        self._view, self._first_view, self._ask = view, view, ask
        self._messages, self._glyphs = messages, glyphs or Glyphs(is_ascii=not text.has_unicode())
        self._tags, self._is_live = tags, is_live
        self._pseudonyms = view.show if view.show is not unchanged else Pseudonyms()
        self._tab, self._is_help = NETWORKS, False
        self._opened: NetworkLine | None = None
        self._update: Update | None = None
        self._groups = [SUBNET]
        self._frozen_ns: int | None = None
        self._position: int | None = None  # the number of the last interval that is shown; None is the end
        self._is_playing, self._baselines = False, 0
        self._problem = problem

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
        if not self.is_headless:
            handle_signals(self.exit)
        self._draw()

    def on_updated(self, message: Updated) -> None:
        """Shows an update. Ignores an update whose window ends at another time than the current window.

        While the screen is frozen, also ignores each further answer to the displayed request.
        """
        if message.update.request.end_ns != self._end_ns():
            return
        if self._frozen_ns is not None and self._update and self._update.request == message.update.request:
            return
        self._update = message.update
        if self._update.request.group_by == SUBNET:
            self._groups = group_names(self._update.frame.lines)
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
        body = self._page_lines(page.size.width or self.size.width, self.size.height - 5)
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
            return list(pages.heat_map(update, self._view, width, glyphs))
        if self._tab == _TRAFFIC:
            return list(pages.traffic(update, width, glyphs))
        if self._tab == _HEALTH:
            return list(pages.health(update, list(self._messages), width))
        return None

    def _why_empty(self) -> list[Line]:
        assert self._update
        if self._view.filter.text and self._update.frame.present.any():
            words = self._view.filter_text
            found = paragraphs([f"No network matches the filter {words}"], self.size.width)
            return [[], *found, line_of("/ changes it, r removes it", DIM)]
        reasons = self._update.reasons or ["No network has traffic in this window."]
        return [[], *paragraphs(reasons, self.size.width)]

    def _draw_head(self) -> None:
        update, view, is_low = self._update, self._view, self.size.height < _LOW
        tabs: Line = []
        for number, name in enumerate(TABS):
            is_open = number == self._tab and not self._is_help and self._opened is None
            tabs += [Segment(f" {number + 1} {name} ", CURSOR if is_open else PLAIN), Segment(" ")]
        if update:
            width = self.size.width
            why = update.reasons or update.faults[:1]
            third = list(paragraphs(why or [head.verdict(update.frame, view)], width, HIGH if why else BOLD))
            title = head.title(update, view, width, self._glyphs, is_frozen=self._frozen_ns is not None)
            lines = [
                line_of(title, BOLD),
                line_of(head.numbers(update.frame, view, width)),
                *third[: self.size.height // _HEAD_SHARE],
            ]
            self.query_one("#head", Text).set_lines(lines[:1] if is_low else lines)
            tabs.append(Segment("  ".join(head.states(update, view)), DIM))
            if not self._is_live:
                self.query_one("#slider", Text).set_lines([self._slider(update)])
        self.query_one("#tabs", Text).set_lines([tabs])
        self.query_one("#tabs").display = not is_low

    def _draw_foot(self) -> None:
        """Draws the last line: the keys and the position, or the problem."""
        table, page = self.query_one(NetworkTable), self.query_one(Page)
        hints = _BACK if self._is_help or self._opened is not None else _HINTS
        position = table.position if table.display else page.position
        room = self.size.width - len(position) - 2
        while len(hints) > max(room, 0):
            hints = hints.rpartition("  ")[0]
        foot = [line_of(hints.ljust(room + 2) + position, DIM)]
        if self._problem:
            foot = list(paragraphs([self._problem], self.size.width, HIGH))
        self.query_one("#foot", Text).set_lines(foot)

    def _slider(self, update: Update) -> Line:
        ends, (_, width) = update.ends_ns, self._slider_place(update)
        position = len(ends) - 1 if self._position is None else self._position
        place = round(position / max(len(ends) - 1, 1) * (width - 1))
        bar = self._glyphs.rule * place + self._glyphs.marker + self._glyphs.rule * (width - 1 - place)
        last = text.moment(update.session[1], update.session)
        state = "playing" if self._is_playing else "Left Right"
        return [Segment(f"{text.moment(update.session[0], update.session)} {bar} {last}  {state}")]

    def _slider_place(self, update: Update) -> tuple[int, int]:
        """Returns the first column and the width of the time slider."""
        label = len(text.moment(update.session[0], update.session)) + 1
        return label, max(self.size.width - 2 * label - _SLIDER_STATE, 10)

    # ---- requests

    def _end_ns(self) -> int | None:
        if self._position is not None and self._update and self._position < len(self._update.ends_ns) - 1:
            return int(self._update.ends_ns[self._position])
        return self._frozen_ns

    def _request(self) -> None:
        """Requests an update for the current view."""
        self._ask(self.request)
        self._draw()

    @property
    def request(self) -> FrameRequest:
        """The request for the current view."""
        view = self._view
        has_time = self._tab == _HEAT_MAP or self._opened is not None
        return FrameRequest(
            view.window_s, view.group_by, view.filter.methods, has_time, self._end_ns(), baseline=self._baselines
        )
