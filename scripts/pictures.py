# SPDX-License-Identifier: Apache-2.0
"""Runs the demo, and writes the pictures of README.md: `python -m scripts.pictures FOLDER`.

The program needs root, Chromium and optipng. It writes two files:

top.svg     the screen of `otel-epping top`
report.png  the top of the page of `otel-epping report`, without the table of methods
"""

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from otel_epping.history.history import History
from otel_epping.history.sources.kinds import read_sources
from otel_epping.history.verdict import Thresholds
from otel_epping.lab import demo
from otel_epping.lab.topology import WAN_INTERFACE
from otel_epping.networks.pseudonyms import unchanged
from otel_epping.replay.progress import progress_bar
from otel_epping.report.build import build
from otel_epping.report.html import html
from otel_epping.report.measurement import Source
from otel_epping.top.app import TopApp
from otel_epping.top.measuring import FrameRequest, Measuring
from otel_epping.top.session import Session
from otel_epping.top.view import View
from otel_epping.top.widgets import Failed, Updated
from tests.support.browser import Browser

_COLUMNS, _LINES = 110, 24
_WIDTH, _HEIGHT = 1440, 1690
# Fonts that are common on the computers of readers. The SVG contains the length of each text, so columns are aligned
# with any of these fonts.
_FONTS = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_HEAT_MAP = "document.getElementById('heat_map.p95')"


class _EndedFeed:
    """Replaces the interface that the demo has measured. An ended feed has no further counts."""

    name = WAN_INTERFACE
    faults = ()

    def wait(self, _: float, is_stopped: Callable[[float], bool]) -> bool:
        is_stopped(60)
        return False


def top_picture(history: History) -> str:
    """Returns the SVG of the screen of `otel-epping top`, after the end of the demo."""
    view = View(60.0)
    measuring = Measuring(
        Session(history),
        _EndedFeed(),  # type: ignore[arg-type]
        WAN_INTERFACE,
        2.0,
        FrameRequest(view.window_s),
        lambda update: app.post_message(Updated(update)),
        lambda error: app.post_message(Failed(error)),
    )
    app = TopApp(view, measuring.ask)

    async def picture() -> str:
        async with app.run_test(size=(_COLUMNS, _LINES)) as pilot:
            measuring.start()
            for _ in range(20):
                await pilot.pause(0.1)
            return app.export_screenshot(title="otel-epping top -i wan0")

    try:
        svg = asyncio.run(picture())
    finally:
        measuring.end()
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"font-family: Fira Code,? ?monospace", f"font-family: {_FONTS}", svg)


def report_picture(page: Path, picture: Path) -> None:
    """Writes a PNG of the top of the report in the file `page`."""
    with Browser(_WIDTH, _HEIGHT) as browser:
        browser.open(page)
        browser.evaluate("document.getElementById('worst_networks-methods').closest('.table').remove()")
        browser.wait(f"!!{_HEAT_MAP}.querySelector('svg.main-svg')")
        browser.screenshot(picture)
    subprocess.run(["optipng", "-quiet", "-o2", picture], check=True)


def _main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        record, page = Path(temporary, "demo"), Path(temporary, "demo.html")
        if not demo.run(record):
            sys.exit("some RTTs do not agree with the delays: run the program again")
        history = read_sources([str(record)])
        (folder / "top.svg").write_text(top_picture(history))
        page.write_text(html(build([Source("demo", history)], Thresholds(), unchanged, progress_bar)))
        report_picture(page, folder / "report.png")


if __name__ == "__main__":
    _main()
