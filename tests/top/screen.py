# SPDX-License-Identifier: Apache-2.0
"""Runs the screen without a terminal, and reads the text of the screen."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from textual.pilot import Pilot

from otel_epping.top.app import TopApp
from otel_epping.top.measuring import FrameRequest, Measuring
from otel_epping.top.session import Session
from otel_epping.top.text import Glyphs
from otel_epping.top.view import View
from otel_epping.top.widgets import Failed, NetworkTable, Page, Text, Updated
from tests.top.provider import Provider

_WAIT_S = 20.0


class FakeFeed:
    """A feed of the slices of a provider. A slice is due when the test sets `due`."""

    name = "wan0"
    faults: Sequence[str] = ()

    def __init__(self, provider: Provider, samples: int = 30) -> None:
        self.due = threading.Event()
        self.samples = samples
        self._provider = provider

    def wait(self, _: float, is_stopped: Callable[[float], bool]) -> bool:
        while not self.due.is_set():
            if is_stopped(0.02):
                return False
        return True

    def take(self) -> Any:
        self.due.clear()
        return self._provider.slice(samples=self.samples)

    def other_traffic(self) -> list[tuple[str, float]]:
        return [("eth9", 1200.0)]


class Screen:
    """The screen of a test. `pilot` presses keys, and `text` is the visible text."""

    def __init__(self, app: TopApp, pilot: Pilot[str], measuring: Measuring) -> None:
        self.app, self.pilot, self.measuring = app, pilot, measuring

    @property
    def text(self) -> str:
        """The visible text, without the spaces at the ends of lines."""
        lines = []
        for widget in self.app.screen.query("*"):
            if widget.display and isinstance(widget, (Text, Page, NetworkTable)):
                lines += [widget.render_line(y).text.rstrip() for y in range(widget.size.height)]
        return "\n".join(lines)

    async def shows(self, *words: str) -> str:
        """Wait until the screen contains all words, and return the text of the screen."""
        for _ in range(int(_WAIT_S / 0.02)):
            await self.pilot.pause(0.02)
            if all(word in self.text for word in words):
                return self.text
        raise AssertionError(f"{words} not in\n{self.text}")

    async def hides(self, word: str) -> str:
        """Wait until the screen does not contain a word, and return the text of the screen."""
        for _ in range(int(_WAIT_S / 0.02)):
            await self.pilot.pause(0.02)
            if word not in self.text:
                return self.text
        raise AssertionError(f"{word} in\n{self.text}")

    async def press(self, *keys: str) -> str:
        """Press keys, and return the text afterwards."""
        await self.pilot.press(*keys)
        await self.pilot.pause()
        return self.text


def run(
    test: Callable[[Screen], Awaitable[None]],
    session: Session,
    feed: Any = None,
    *,
    size: tuple[int, int] = (80, 24),
    view: View | None = None,
    is_ascii: bool = False,
    delay_s: float = 0.0,
) -> TopApp:
    """Run a test of the screen. Without a feed, the session is a capture. Return the app after the end of the app."""
    view = view or View()
    request = FrameRequest(view.window_s, view.group_by, view.filter.methods)
    measuring = Measuring(
        session,
        feed,
        "wan0",
        delay_s,
        request,
        lambda update: app.post_message(Updated(update)),
        lambda error: app.post_message(Failed(error)),
    )
    app = TopApp(
        view,
        measuring.ask,
        ["12:00:00 a message"],
        Glyphs(is_ascii=is_ascii),
        frozenset({"site"}),
        is_live=feed is not None,
    )

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            measuring.start()
            await test(Screen(app, pilot, measuring))

    try:
        asyncio.run(main())
    finally:
        measuring.end()
    if app.error:
        raise app.error
    return app
