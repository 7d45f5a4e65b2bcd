# SPDX-License-Identifier: Apache-2.0
"""Tests the words of filters, the order of lines, and the columns that fit into a terminal."""

from dataclasses import replace

import numpy as np
import pytest

from otel_epping.history.line import Line
from otel_epping.networks.pseudonyms import Pseudonyms
from otel_epping.top import filter
from otel_epping.top.columns import COLUMNS, DEFAULT_SORT, layout
from otel_epping.top.frame import Frame, summary
from otel_epping.top.session import Session
from otel_epping.top.view import View, shown_lines
from tests.top.provider import Provider

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


@pytest.fixture(scope="module")
def frame() -> Frame:
    session = Session()
    provider = Provider(session.history.numbering, 12)
    session.add(provider.slice(samples=60))
    session.add(provider.slice(samples=60, active=11))
    session.add(provider.slice(samples=4, active=5))
    return session.frame(None)


def names(frame: Frame, words: str, tags: frozenset[str] = frozenset({"site"})) -> list[str]:
    parsed = filter.parse(words, tags)
    assert parsed.problems == ()
    networks = frame.total.numbering.are_networks()
    return [frame.lines[line].label for line in np.flatnonzero(parsed.matching(frame) & networks).tolist()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("as:64503", ["Customer 3"]),
        ("as:AS64503", ["Customer 3"]),
        ("name:customer", ["Customer 0", "Customer 3", "Customer 6", "Customer 9"]),
        ("customer side:ext site:tower3", []),
        ("site:3", ["Customer 3"]),
        ("net:20.0.4.0/23", ["20.0.4.0/24", "20.0.5.0/24"]),
        ("20.0.4.", ["20.0.4.0/24"]),
        ("n>100 side:internal", []),
        ("n<100", ["20.0.11.0/24"]),
        ("org:provider country:de if:wan0 name:20.0.1.0", ["20.0.1.0/24"]),
        ("p95>1e9", []),
    ],
)
def test_a_network_must_match_all_words(frame: Frame, words: str, expected: list[str]) -> None:
    assert names(frame, words) == expected


def test_all_columns_can_be_compared(frame: Frame) -> None:
    for column in COLUMNS:
        above, below = (filter.parse(f"{column.key}{operator}5").matching(frame) for operator in (">=", "<"))
        assert not (above & below).any()


@pytest.mark.parametrize(
    ("word", "allowed"),
    [
        ("p96>100", "p95"),
        ("p95>fast", "write a number"),
        ("p95>nan", "write a number"),
        ("p95<inf", "write a number"),
        ("colour:red", "as:"),
        ("side:left", "internal"),
        ("method:arp", "tcp_timestamp"),
        ("as:Telekom", "as:3320"),
        ("net:lan", "192.0.2.0/24"),
        ("name:", "write a value"),
        ("site:Berlin", "words are"),
    ],
)
def test_a_bad_word_is_shown_with_what_is_allowed(word: str, allowed: str) -> None:
    (problem,) = filter.parse(f"customer {word}").problems
    assert problem.startswith(f"{word}: ")
    assert allowed in problem


def test_a_method_chooses_the_rtts_and_no_networks(frame: Frame) -> None:
    parsed = filter.parse("method:dns method:tcp_h")
    assert parsed.methods == ("dns", "tcp_handshake")
    assert parsed.matching(frame).all()


def test_the_worst_network_is_first_and_sums_are_last(frame: Frame) -> None:
    shown = [frame.lines[line].label for line in shown_lines(frame, View()).tolist()]
    assert shown[0] == f"Customer {Provider.WORST}"
    assert {*shown[-2:]} == {"all others", "never answered"}


def test_lines_with_few_samples_come_after_others_if_the_order_is_a_time() -> None:
    session = Session()
    provider = Provider(session.history.numbering, 6)
    session.add(provider.slice(samples=3))
    session.add(provider.slice(samples=60, active=5))
    frame = session.frame(None)
    frame.statistics.p95[5] = 9.0
    assert shown_lines(frame, View(sort="p95")).tolist()[5] == list(frame.lines).index(provider.line(5))
    ascending = shown_lines(frame, View(sort="p95", ascending=True)).tolist()[:5]
    assert (np.diff(frame.statistics.p95[ascending]) >= 0).all()
    by_name = shown_lines(frame, View(sort="network")).tolist()
    assert [frame.lines[line].label for line in by_name[:3]] == ["20.0.1.0/24", "20.0.2.0/24", "20.0.4.0/24"]


def test_pseudonyms_replace_names_and_addresses() -> None:
    view = View(show=Pseudonyms())
    assert view.label(Provider.line(3)) == "network-1"
    assert view.label(Provider.line(4)) == "subnet-1"
    assert view.system(Provider.line(4)) == "AS-1 organization-1"
    assert view.label(Provider.line(3)) == "network-1"


@pytest.mark.parametrize("width", [20, 40, 80, 100, 132, 200, 400])
@pytest.mark.parametrize("sort", [DEFAULT_SORT, "ce", "network"])
def test_the_columns_fit(frame: Frame, width: int, sort: str) -> None:
    found = layout(width, frame, sort)
    used = sum(each + 1 for _, _, each in found.labels) + sum(column.width + 1 for column in found.columns)
    keys = [column.key for column in found.columns]
    assert "p95" in keys
    assert sort == "network" or sort in keys
    if width >= 60:
        assert used + found.strip <= width
    if width >= 80:
        assert {"impact", "p50", "p95", "change", "n", "mbit"} <= {*keys}
        assert found.strip >= 6
    if width >= 200:
        assert [column.key for column in COLUMNS] == keys
        assert "system" in [field for field, _, _ in found.labels]


def test_the_side_and_the_interface_are_shown_if_they_differ(frame: Frame) -> None:
    both = replace(frame, lines=[*frame.lines[:-1], frame.lines[-1]._replace(side="internal", interface="lan0")])
    assert [field for field, _, _ in layout(80, both, DEFAULT_SORT).labels][:3] == ["label", "side", "interface"]


def test_the_summary_counts_what_is_not_shown_by_network(frame: Frame) -> None:
    found = summary(frame)
    assert found.networks == 12
    assert found.never_answered == 7
    assert found.aggregated is not None
    assert found.unanswered == pytest.approx(2 * found.aggregated)
    assert found.coverage is not None
    assert found.coverage == pytest.approx(np.nanmean(frame.statistics.coverage), abs=0.05)
    assert Line("overflow") in frame.lines
