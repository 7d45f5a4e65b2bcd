# SPDX-License-Identifier: Apache-2.0
"""Tests the input line of the filter, without a terminal."""

import pytest

from otel_epping.top.session import Session
from tests.top.provider import Provider
from tests.top.screen import FakeFeed, Screen, run

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

WORST = f"Customer {Provider.WORST}"


def session_of() -> tuple[Session, FakeFeed]:
    session = Session()
    provider = Provider(session.history.numbering, 12)
    session.add(provider.slice())
    return session, FakeFeed(provider)


def test_the_filter_is_applied_while_it_is_written_and_a_bad_word_is_explained() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("20.0.1.0/24")
        await screen.press("slash", *"customer")
        text = await screen.hides("20.0.1.0/24")
        assert WORST in text
        await screen.press("space", *"p96>1")
        text = await screen.shows("p96>1: unknown column")
        assert "p95" in text[text.index("unknown column") :]
        await screen.press("escape")
        await screen.shows("20.0.1.0/24")
        await screen.press("slash", *"nothing", "enter")
        await screen.shows("No network matches the filter nothing")
        await screen.press("r")
        await screen.shows("20.0.1.0/24")

    run(test, *session_of())


def test_an_invalid_filter_keeps_the_previous_filter() -> None:
    async def test(screen: Screen) -> None:
        await screen.shows("20.0.1.0/24")
        await screen.press("slash", *"name:customer n>0")
        await screen.hides("20.0.1.0/24")
        await screen.press("backspace")
        text = await screen.shows("n>: write a number")
        assert "filter name:customer n>0" in text
        await screen.press("enter")
        text = await screen.shows("n>: write a number", "filter name:customer n>0", WORST)
        assert "20.0.1.0/24" not in text
        await screen.press("0", "enter")
        text = await screen.hides("n>: write a number")
        assert "filter name:customer n>0" in text
        await screen.press("slash", "backspace", "escape")
        assert "filter" not in (await screen.shows("20.0.1.0/24")).partition("network ")[0]

    run(test, *session_of(), size=(160, 24))
