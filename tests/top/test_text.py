# SPDX-License-Identifier: Apache-2.0
"""Tests the texts of numbers, and the strips and bars of characters."""

import math
import re

import numpy as np
import pytest

from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.slice import Rtts
from otel_epping.kernel.sparse_histograms import SparseHistograms
from otel_epping.top import text
from otel_epping.top.strips import DEFAULT_AXIS, axis_of, strip_values
from otel_epping.top.text import Glyphs

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ASCII, UNICODE = Glyphs(is_ascii=True), Glyphs(is_ascii=False)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0001234, "0.123"), (0.0012, "1.20"), (0.0123, "12.3"), (0.0999, "99.9"), (1.234, "1,234"), (math.nan, "-")],
)
def test_times_have_three_digits(seconds: float, shown: str) -> None:
    assert text.milliseconds(seconds) == shown


def test_moments_of_a_long_session_have_dates() -> None:
    begin_ns, day_ns = 1_800_000_000 * 10**9, 86_400 * 10**9
    assert re.fullmatch(r"\d\d:\d\d:\d\d", text.moment(begin_ns, (begin_ns, begin_ns + day_ns)))
    assert re.fullmatch(r"01-1\d \d\d:\d\d", text.moment(begin_ns, (begin_ns, begin_ns + 2 * day_ns)))


def test_a_change_has_a_sign() -> None:
    assert [text.change(each) for each in (0.012, -0.012, math.nan)] == ["+12.0", "-12.0", "-"]


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (99_999, "99,999"), (123_456, "123k"), (1.5e6, "1.50M"), (math.nan, "-")]
)
def test_counts_have_at_most_six_characters(number: float, shown: str) -> None:
    assert text.count(number) == shown


def test_a_share_above_0_is_never_shown_as_0() -> None:
    assert [text.percent(each) for each in (0, 1e-6, 0.0123, 1, math.nan)] == ["0.0", "<0.1", "1.2", "100", "-"]


def test_a_strip_shows_each_value_above_0() -> None:
    assert UNICODE.strip([0, 1, 500, 1000]) == " ▁▄█"
    assert ASCII.strip([0, 1, 500, 1000, math.nan]) == " .+@ "
    assert UNICODE.strip([0, 0]) == "  "


def test_texts_are_fitted_to_the_columns_of_the_terminal() -> None:
    assert UNICODE.fit("Müller", 8) == "Müller  "
    assert UNICODE.fit("a long name", 6) == "a lon…"
    assert ASCII.fit("Müller GmbH", 6, right=True) == "M?lle~"
    assert UNICODE.fit("网络网络", 5) == "网络…"
    assert [text.cells(each) for each in ("ab", "网", "e\u0301")] == [2, 2, 1]


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"LANG": "de_DE.UTF-8"}, True),
        ({"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, False),  # Python sets LC_CTYPE
        ({"LANG": "C.UTF-8"}, True),
        ({"LC_CTYPE": "en_US.utf8"}, True),
        ({}, False),
    ],
)
def test_the_locale_says_whether_the_terminal_shows_unicode(environ: dict[str, str], found: bool) -> None:
    assert text.has_unicode(environ) == found


def rtts_of(times_s: list[list[float]], scale: int = 4) -> LineRtts:
    found = LineRtts(len(times_s))
    for line, each in enumerate(times_s):
        for time_s in each:
            buckets = SparseHistograms(
                np.array([math.floor(math.log2(time_s) * 2**scale)]), np.array([0, 1]), np.array([1], np.uint64)
            )
            ns = np.array([round(time_s * 1e9)], np.uint64)
            found.add(Rtts(np.array([line]), np.array([0]), np.array([scale]), buckets, ns, ns, ns))
    return found


def test_the_axis_has_round_ends_and_contains_the_rtts() -> None:
    rtts = rtts_of([[0.0031, 0.004], [0.25], []])
    axis = axis_of(rtts)
    assert axis == (0.002, 0.5)
    assert axis_of(rtts, 1) == (0.2, 2.0)
    assert axis_of(rtts_of([[]])) == DEFAULT_AXIS
    strip = strip_values(rtts, 0, axis, 12)
    assert strip.sum() == 2
    assert strip[:6].sum() == 2
    assert strip_values(rtts, 1, axis, 12)[6:].sum() == 1
    assert strip_values(rtts, 2, axis, 12).sum() == 0


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("", [""]),
        ("one two", ["one two"]),
        ("one two three", ["one two", "three"]),
        ("a longer-than-ten b", ["a", "longer-tha", "n-ten b"]),
        ("日本語日本語 x", ["日本語日本", "語 x"]),
    ],
)
def test_long_texts_are_wrapped(words: str, lines: list[str]) -> None:
    assert text.wrapped(words, 10) == lines
