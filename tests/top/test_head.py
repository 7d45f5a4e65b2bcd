# SPDX-License-Identifier: Apache-2.0
"""Tests the lines above the table: they fit into the terminal, and no text is cut."""

import re
from dataclasses import replace

import pytest

from otel_epping.history.slice import Rtts
from otel_epping.top import head
from otel_epping.top.session import Session
from otel_epping.top.view import View
from tests.top.provider import Provider
from tests.top.screen import FakeFeed, Screen, run
from tests.top.test_app import provider_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


def test_causes_and_remarks_are_wrapped() -> None:
    session = Session()
    slice = Provider(session.history.numbering, 12).slice()
    session.add(replace(slice, rtts=Rtts.empty()))
    session.history.causes = ["A sentence with a cause. " * 5 + "The last cause."]
    session.history.notes = ["A remark. " * 10 + "The last remark."]

    async def test(screen: Screen) -> None:
        text = await screen.shows("The last cause.", "never answered", "1,000 packets were seen on wan0")
        assert text.splitlines()[2].startswith("A sentence with a cause.")
        await screen.press("4")
        await screen.shows("Missing RTTs", "The last remark.")

    run(test, session, size=(80, 60))


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_the_second_line_fits_and_has_whole_numbers(width: int) -> None:
    session, _ = provider_of(1234, slices=1)
    whole = head.numbers(session.frame(None), View())
    text = head.numbers(session.frame(None), View(), width)
    assert len(text) <= width
    assert {each.removesuffix(" of TCP") for each in text.split("  ")} <= {
        each.removesuffix(" of TCP") for each in whole.split("  ")
    }
    assert ("never answered" in text) == (width == 200)


def test_control_characters_are_escaped() -> None:
    session, _ = provider_of(slices=1)

    async def test(screen: Screen) -> None:
        await screen.shows("impact")
        screen.app._set_filter("name:a\x1b]0;b\x07")
        text = await screen.shows(r"No network matches the filter name:a\x1b]0;b\x07")
        assert text.replace("\n", "").isprintable()

    run(test, session)


def test_a_long_source_is_shortened() -> None:
    session, provider = provider_of(slices=1)
    feed = FakeFeed(provider)
    feed.name = ", ".join(f"interface{number}" for number in range(12))

    async def test(screen: Screen) -> None:
        text = await screen.shows("impact")
        assert re.fullmatch(r"interface0, interface1, .*…  [\d:]+  the last 2 s  running 2 s", text.splitlines()[0])

    run(test, session, feed)
