# SPDX-License-Identifier: Apache-2.0
"""Tests the screen without a terminal: content, keys, mouse and sizes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from otel_epping.history.line import Line
from otel_epping.history.slice import Rtts, Slice
from otel_epping.top.app import TopApp
from otel_epping.top.columns import COLUMNS
from otel_epping.top.filter import TEXT_WORDS
from otel_epping.top.measuring import Measuring
from otel_epping.top.session import Session
from otel_epping.top.view import View
from otel_epping.top.widgets import NetworkTable
from tests.top.provider import SECOND, START_NS, Provider
from tests.top.screen import FakeFeed, Screen, run

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

WORST = f"Customer {Provider.WORST}"
TABLE = ("\nnetwork", f"\n{WORST} ")


def provider_of(networks: int = 12, slices: int = 0) -> tuple[Session, Provider]:
    session = Session()
    provider = Provider(session.history.numbering, networks)
    for _ in range(slices):
        session.add(provider.slice())
    return session, provider


def first_row(text: str) -> str:
    """Return the first row of the table."""
    lines = text.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("network")) + 1]


def test_the_worst_network_is_first_and_in_a_sentence() -> None:
    async def test(screen: Screen) -> None:
        text = await screen.shows(*TABLE)
        assert first_row(text).startswith(WORST)
        assert f"Worst: {WORST}: mean" in text
        assert "12 networks" in text
        assert "coverage" in text
        assert "never answered 7" in text
        assert max(len(line) for line in text.splitlines()) <= 80

    run(test, provider_of(slices=1)[0], FakeFeed(provider_of()[1]))


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 10), (20, 6)])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_every_page_fits_and_is_ascii_if_the_terminal_has_no_unicode(size: tuple[int, int], is_ascii: bool) -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("network")
        for key in ("1", "2", "3", "4", "1", "enter", "escape", "question_mark", "question_mark", "slash"):
            text = await screen.press(key)
            if is_ascii:
                assert text.isascii(), text
            for line in text.splitlines():
                assert len(line) <= size[0]

    run(test, provider_of(slices=3)[0], FakeFeed(provider_of()[1]), size=size, is_ascii=is_ascii)


def test_a_new_slice_is_shown_unless_the_screen_is_frozen() -> None:
    session, provider = provider_of(slices=1)
    feed = FakeFeed(provider)

    async def test(screen: Screen) -> None:
        await screen.shows("running 2 s")
        feed.due.set()
        await screen.shows("running 4 s")
        await screen.press("space")
        before = await screen.shows("FROZEN")
        feed.due.set()
        await screen.pilot.pause(0.3)
        assert screen.text == before
        await screen.press("space")
        await screen.shows("running 6 s")

    run(test, session, feed)


def test_keys_choose_the_order() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("sort impact")
        assert "sort p50" in await screen.press("s")
        assert "sort p95" in await screen.press("s")
        text = await screen.press("i")
        assert "sort p95 (reversed)" in text
        assert not first_row(text).startswith(WORST)
        assert "sort p50" in await screen.press("S")
        assert "sort impact" in await screen.press("r")

    run(test, provider_of(slices=1)[0], FakeFeed(provider_of()[1]))


def test_a_click_on_a_heading_sorts_and_a_click_on_a_row_opens_it() -> None:
    async def test(screen: Screen) -> None:
        text = await screen.shows(*TABLE)
        heading = next(line for line in text.splitlines() if line.startswith("network"))
        await screen.pilot.click(NetworkTable, offset=(heading.index("p95"), 0))
        await screen.shows("sort p95")
        await screen.pilot.click(NetworkTable, offset=(2, 2))
        assert screen.app.query_one(NetworkTable).cursor == 1
        await screen.pilot.click(NetworkTable, offset=(2, 2))
        await screen.shows("method", "side external")
        await screen.pilot.click("#tabs", offset=(28, 0))
        await screen.shows("Features of the traffic")

    run(test, provider_of(slices=1)[0], FakeFeed(provider_of()[1]))


def test_networks_are_grouped_by_each_attribute() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(*TABLE)
        await screen.press("g")
        await screen.shows("group name", "no name")
        await screen.press("g")
        await screen.shows("group asn", "AS64503 Provider")
        await screen.press("g")
        await screen.shows("group country", "DE")
        await screen.press("g")
        await screen.shows("group site", "Tower 3")
        await screen.press("2")
        await screen.shows("Tower 3", "p95 - minimum RTT")
        await screen.press("1", "enter")
        await screen.shows("no site, side external", "method")
        await screen.press("escape", "g")
        await screen.shows("20.0.1.0/24")

    run(test, provider_of(slices=2)[0], FakeFeed(provider_of()[1]))


def test_nothing_to_group_by_is_said() -> None:
    session = Session()
    provider = Provider(session.history.numbering, 0)
    session.add(provider.slice())

    async def test(screen: Screen) -> None:
        await screen.shows("never answered")
        await screen.press("g")
        await screen.shows("nothing to group by")

    run(test, session, FakeFeed(provider))


def test_the_page_of_a_network_has_its_histogram_methods_history_and_losses() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(*TABLE)
        await screen.press("enter")
        text = await screen.shows("tcp_timestamp", "session")
        for word in (WORST, "AS64503 Provider 3", "min", "samples", "Mbit/s", "loss %", "ECN CE %", "active flows"):
            assert word in text, word
        counts = re.findall(r"^ *[\d.,]+-[\d.,]+ +([\d,]+)", text, re.MULTILINE)
        assert sum(int(each.replace(",", "")) for each in counts) == 4 * 30
        await screen.press("escape")
        await screen.shows("impact")

    run(test, provider_of(slices=4)[0], FakeFeed(provider_of()[1]), size=(100, 60))


def test_the_baseline_gives_changes() -> None:
    session, provider = provider_of(slices=1)
    feed = FakeFeed(provider)

    async def test(screen: Screen) -> None:
        assert first_row(await screen.shows(*TABLE)).split()[6] == "-"
        await screen.press("b", "w", "w", "w")
        for _ in range(7):
            feed.due.set()
            await screen.pilot.pause(0.1)
        await screen.shows("change since")
        assert re.search(r"(0\.000|[+-][\d.]+) +240", first_row(screen.text))

    run(test, session, feed, view=View(window_s=10.0))


def test_redaction_hides_names_and_addresses_on_every_page() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(*TABLE)
        await screen.press("p")
        await screen.shows("network-1", "subnet-1")
        await screen.press("slash", *"name:customer", "enter")
        await screen.shows("filter (hidden)")
        for key in ("1", "2", "3", "4", "1", "enter"):
            text = await screen.press(key)
            await screen.pilot.pause(0.1)
            for secret in ("customer", "20.0.", "as645", "provider"):
                assert secret not in text.lower()
        await screen.press("escape", "slash", *"nothing", "enter")
        assert "nothing" not in await screen.shows("No network matches the filter (hidden)")
        await screen.press("slash", "escape", "p")
        await screen.shows(*TABLE)

    run(test, provider_of(slices=1)[0], FakeFeed(provider_of()[1]), size=(200, 50))


def test_the_help_describes_all_columns_and_words() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(*TABLE)
        text = await screen.press("question_mark")
        for word in (*(column.key for column in COLUMNS), *TEXT_WORDS, "method:", "Space"):
            assert word in text
        assert "impact" in await screen.press("question_mark")

    run(test, provider_of(slices=1)[0], FakeFeed(provider_of()[1]), size=(100, 120))


def test_the_heat_map_has_a_row_per_network_and_the_health_page_the_log() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(*TABLE)
        await screen.press("2")
        text = await screen.shows("p95 - minimum RTT", ">=200")
        (row,) = [line for line in text.splitlines() if line.startswith(f"{WORST} ")]
        assert set(row[26:]) & set("▆▇█")
        await screen.press("4")
        await screen.shows("Faults", "measured", "a message")

    run(test, provider_of(slices=5)[0], FakeFeed(provider_of()[1]), size=(100, 60))


def test_an_empty_screen_says_why() -> None:
    session = Session()
    feed = FakeFeed(Provider(session.history.numbering, 2))

    def take() -> Slice:
        feed.due.clear()
        nothing = np.zeros(0, np.int64), np.zeros((0, 0), np.uint64), Rtts.empty()
        return Slice(START_NS, START_NS + SECOND, *nothing)

    feed.take = take  # type: ignore[method-assign]

    async def test(screen: Screen) -> None:
        await screen.shows("No packet was seen on wan0")
        feed.faults = ["interface wan0 is down: ip link set wan0 up"]
        feed.due.set()
        await screen.shows("eth9 (1,200 packets/s)", "interface wan0 is down")
        for key in ("2", "3", "4", "1", "enter", "s", "g", "w", "b", "space"):
            await screen.press(key)

    run(test, session, feed)


def test_a_table_without_room_for_networks_says_so() -> None:
    session = Session()
    provider = Provider(session.history.numbering, 1)
    provider._lines[0] = session.history.numbering.lines.find(Line("overflow"))
    slice = provider.slice()
    session.add(replace(slice, lines=slice.lines[[0, 2]], counters=slice.counters[[0, 2]]))

    async def test(screen: Screen) -> None:
        await screen.shows("all others", 'No network has RTTs. If "all others" has RTTs, use a larger --max-subnets')

    run(test, session, FakeFeed(provider))


def test_the_slider_moves_through_a_capture() -> None:
    session, _ = provider_of(slices=10)

    async def test(screen: Screen) -> None:
        text = await screen.shows(*TABLE)
        samples = int(first_row(text).split()[7].replace(",", ""))
        assert samples == 300
        await screen.press("left")
        await screen.shows(" 270 ")
        for _ in range(20):
            await screen.press("left")
        await screen.shows(" 30 ")
        await screen.press("space")
        await screen.shows("playing")
        await screen.shows(" 300 ", "Left Right")
        await screen.pilot.click("#slider", offset=(10, 0))
        await screen.shows(" 30 ")

    run(test, session, view=View(window_s=None))


def test_a_large_q_leaves_the_table() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows(*TABLE)
        await screen.press("Q")

    app: TopApp = run(test, provider_of(slices=1)[0], FakeFeed(provider_of()[1]))
    assert app.return_value is not None
    assert WORST in app.return_value


def test_an_error_of_the_thread_ends_the_screen() -> None:
    session, provider = provider_of()
    feed = FakeFeed(provider)

    def fail() -> None:
        raise OSError(5, "map")

    feed.take = fail  # type: ignore[method-assign]

    async def test(screen: Screen) -> None:
        await screen.shows("wan0")
        feed.due.set()
        await screen.pilot.pause(0.3)

    with pytest.raises(OSError, match="map"):
        run(test, session, feed)


def test_the_thread_ends_at_once() -> None:
    session, provider = provider_of()
    updates: list[object] = []
    measuring = Measuring(session, FakeFeed(provider), "", 60, None, updates.append, updates.append)  # type: ignore[arg-type]
    measuring.start()
    measuring.end()
    assert not measuring.is_alive()
