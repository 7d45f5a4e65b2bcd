# SPDX-License-Identifier: Apache-2.0
"""Tests the page of `otel-epping report` in headless Chromium without a network, on a wide screen and on a phone."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otel_epping.history.history import History
from otel_epping.history.line import Line
from otel_epping.history.verdict import Thresholds
from otel_epping.networks.pseudonyms import unchanged
from otel_epping.report.build import build
from otel_epping.report.html import html
from otel_epping.report.measurement import Source
from tests.support.browser import Browser
from tests.support.histories import MS, SECOND, TIMESTAMP, octets, packets, slice_of
from tests.support.provider import provider

WIDTHS = (1440, 390)
EVIL = "<img src=x onerror=document.title='hacked'> & <b>Söhne</b>"
NETWORKS, MONTH_HOURS = 1000, 30 * 24


def page_of(path: Path, *histories: History) -> Path:
    @contextmanager
    def no_progress(_: str, __: int) -> Iterator[Any]:
        yield lambda _: None

    sources = [Source(f"source {number}", history) for number, history in enumerate(histories)]
    path.write_text(html(build(sources, Thresholds(), unchanged, no_progress)))
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("page") / "page.html", provider(60, 72), provider(60, 48, seed=2))


def draw_all(browser: Browser) -> int:
    """Scroll through the page until each figure is drawn. Return the number of figures."""
    for number in range(int(browser.evaluate("elements().length"))):
        browser.evaluate(f"elements()[{number}].scrollIntoView()")
        browser.wait(f"!!elements()[{number}].drawing")
        browser.evaluate(f"elements()[{number}].drawing.then(() => 0)")
    return int(browser.evaluate("elements().filter((each) => each.querySelector('svg.main-svg')).length"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_all_figures_are_drawn_without_errors_and_requests(page: Path, width: int, dark: bool) -> None:
    with Browser(width, dark=dark) as browser:
        browser.open(page)
        # 30 smoke plots, 2 heat maps, 2 CDFs, 2 figures of spreads, 2 of traffic, 1 of load and 1 of protocols
        assert draw_all(browser) == 40
        assert browser.messages == []
        assert browser.requests == []
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(18, 22, 28)" if dark else "rgb(255, 255, 255)")
        # No text extends beyond the left or the right edge of its figure.
        assert browser.evaluate(
            "[...document.querySelectorAll('.plot')].every((plot) => [...plot.querySelectorAll('.ytick text')]"
            ".every((text) => text.getBoundingClientRect().left >= plot.getBoundingClientRect().left - 1))"
        )


def test_the_theme_button_switches_the_figures(page: Path) -> None:
    with Browser() as browser:
        browser.open(page)
        browser.evaluate("document.getElementById('heat_map.p95').scrollIntoView()")
        figure = "document.getElementById('heat_map.p95')"
        browser.wait(f"!!{figure}.querySelector('svg.main-svg')")
        colour = f"{figure}.querySelector('.plot')._fullLayout.font.color"
        before = browser.evaluate(colour)
        browser.evaluate("document.getElementById('theme').click()")
        browser.wait(f"{colour} !== {json.dumps(before)}")
        assert browser.evaluate("document.documentElement.dataset.theme") == "dark"
        # The position of the colour bar does not change.
        assert browser.evaluate(f"{figure}.querySelectorAll('.colorbar').length") == 1
        assert browser.evaluate(f"{figure}.querySelector('.nsewdrag').getBoundingClientRect().width") > 900
        assert browser.messages == []


def test_tooltips(page: Path) -> None:
    with Browser() as browser:
        browser.open(page)
        for figure in ("heat_map.p95", "smoke.network_1", "distributions.cdf", "load.networks", "features.protocols"):
            element = f"document.getElementById('{figure}')"
            browser.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
            browser.wait(f"!!{element}.querySelector('.nsewdrag')")
            box = json.loads(
                browser.evaluate(f"JSON.stringify({element}.querySelector('.nsewdrag').getBoundingClientRect())")
            )
            browser.wait("new Promise((done) => setTimeout(() => done(true), 100))")
            for step in range(40):  # until the mouse points at a value
                x = box["x"] + box["width"] * (0.1 + 0.02 * step)
                y = box["y"] + box["height"] * (0.3 + 0.01 * step)
                browser.move(x, y)
                time.sleep(0.03)
                if browser.evaluate(f"!!{element}.querySelector('.hoverlayer text')"):
                    break
            shown = browser.evaluate(f"{element}.querySelector('.hoverlayer').textContent")
            assert any(unit in shown for unit in (" ms", " %")), (figure, shown)


def test_tables_sort_and_copy_with_the_keyboard(page: Path) -> None:
    with Browser() as browser:
        browser.open(page)
        table = "document.getElementById('worst_networks-networks')"
        column = browser.evaluate(f"[...{table}.tHead.rows[0].cells].findIndex((th) => th.innerText.startsWith('p95'))")
        values = f"[...{table}.tBodies[0].rows].map((row) => Number(row.cells[{column}].dataset.v))"
        button = f"{table}.tHead.rows[0].cells[{column}].querySelector('button')"
        browser.evaluate(f"{button}.focus()")
        for is_descending in (True, False):
            browser.press("Enter", 13, "\r")
            found = browser.evaluate(values)
            assert found == sorted(found, reverse=is_descending)
            assert len(found) == 60
        assert browser.evaluate(f"[...{table}.tBodies[0].rows].filter((row) => !row.hidden).length") == 25
        browser.evaluate(f"{table}.closest('.table').querySelector('button.all').click()")
        assert browser.evaluate(f"[...{table}.tBodies[0].rows].filter((row) => !row.hidden).length") == 60
        browser.evaluate(
            "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }"
        )
        browser.evaluate(f"{table}.closest('.table').querySelector('button.copy').click()")
        lines = browser.evaluate("window.copied").splitlines()
        assert len(lines) == 61
        assert lines[0].split("\t")[0] == "network"
        assert {line.count("\t") for line in lines} == {lines[0].count("\t")}
        assert browser.messages == []


def test_the_heat_map_has_pages_and_a_filter(page: Path) -> None:
    with Browser() as browser:
        browser.open(page)
        figure = "document.getElementById('heat_map.p95')"
        browser.evaluate(f"{figure}.scrollIntoView()")
        browser.wait(f"!!{figure}.querySelector('.tools')")
        rows = f"{figure}.querySelector('.plot')._fullLayout.yaxis.ticktext.length"
        assert browser.evaluate(rows) == 40
        browser.evaluate(f"{figure}.querySelectorAll('.tools button')[1].click()")
        browser.wait(f"{figure}.querySelector('.tools span').textContent === 'networks 41 to 60 of 60'")
        browser.evaluate(f"{figure}.querySelector('.tools input').focus()")
        for letter in "Khan":
            browser.press(letter, ord(letter.upper()), letter)
        browser.wait(f"{rows} === 6")
        assert browser.messages == []


def test_names_are_texts_in_figures_too(tmp_path: Path) -> None:
    history = History()
    line = Line(name=EVIL)
    for second in range(40):
        traffic = {(line, packets("to")): 100, (line, octets("to")): 1000 * (second + 1)}
        rtts = {(line, TIMESTAMP): [10 * MS + second * MS] * 30}
        begin_ns = 1_700_000_040 * SECOND + second * SECOND
        history.add(slice_of(history.numbering, begin_ns, begin_ns + SECOND, traffic, rtts))
    with Browser() as browser:
        browser.open(page_of(tmp_path / "page.html", history, history))
        draw_all(browser)
        assert browser.evaluate("document.title").startswith("Network latency")
        assert browser.evaluate("document.querySelectorAll('.plot b, .plot img, td b, td img').length") == 0
        ticks = browser.evaluate("[...document.querySelectorAll('.ytick text')].map((text) => text.textContent)")
        assert EVIL in ticks
        assert browser.messages == []


def test_paper(page: Path, tmp_path: Path) -> None:
    """The printed page has all figures in light colours, including figures that were never in view."""
    with Browser(dark=True) as browser:
        browser.open(page)
        theme = "document.documentElement.dataset.theme"
        browser.evaluate(f"addEventListener('beforeprint', () => (window.printed = {theme}))")
        browser.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
        assert browser.evaluate("window.printed") == "light"
        assert browser.evaluate("elements().filter((each) => each.querySelector('svg.main-svg')).length") == 40
        assert browser.evaluate("document.documentElement.dataset.theme") == "dark"


def test_one_month_of_a_thousand_networks(tmp_path: Path) -> None:
    began_s = time.monotonic()
    history = provider(NETWORKS, MONTH_HOURS)
    built_s = time.monotonic()
    path = page_of(tmp_path / "page.html", history)
    print(f"history {built_s - began_s:.1f} s, report {time.monotonic() - built_s:.1f} s")
    assert time.monotonic() - built_s < 30
    assert path.stat().st_size < 15e6
    for width in WIDTHS:
        with Browser(width) as browser:
            seconds = min(browser.open(path) for _ in range(3))
            print(f"{width}: {seconds:.2f} s")
            assert seconds < 3
            assert browser.messages == []
