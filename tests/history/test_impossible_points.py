# SPDX-License-Identifier: Apache-2.0
"""Tests that damaged data points of OTLP files are dropped, and that a note counts these points."""

from pathlib import Path
from typing import Any

import pytest

from otel_epping.history.line import OVERFLOW, Line
from otel_epping.otel import semconv
from tests.history.otlp_lines import (
    CUMULATIVE,
    DELTA,
    attributes,
    buckets,
    durations,
    io,
    line,
    number,
    octets,
    read,
    rtts,
    write,
)

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

A, B = "192.0.2.0/24", "198.51.100.0/24"
IMPOSSIBLE = "data points that are not used, because they have an impossible count"


def double(end: int, value: Any, start: int = 0) -> dict[str, Any]:
    point = number(A, start, end, 0) | {"asDouble": value}
    del point["asInt"]
    return point


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", -5.0, 1e30, -1, 2**56 + 1, 2**62])
@pytest.mark.parametrize("temporality", [DELTA, CUMULATIVE])
def test_impossible_counts_are_dropped(tmp_path: Path, value: Any, temporality: str) -> None:
    """The next point of a cumulative series continues from the point before the dropped point."""
    wrong = number(A, 0, 120, value) if isinstance(value, int) else double(120, value)
    points = [double(60, 100.0), wrong, number(A, 0, 180, 300)]
    history = read(write(tmp_path, *(line(io(each, temporality=temporality)) for each in points)))
    assert octets(history) == {A: 300 if temporality == CUMULATIVE else 400}
    assert history.notes == [f"{IMPOSSIBLE}: 1"]


def test_too_many_rtts_are_dropped(tmp_path: Path) -> None:
    lines = [line(durations(rtts(A, 0, 60, counts))) for counts in ([2, 1], [2**56, 1], [2**61] * 2)]
    history = read(write(tmp_path, *lines))
    assert buckets(history, A) == (4, {-100: 2, -99: 1})
    assert history.notes == [f"{IMPOSSIBLE}: 2"]


def test_doubles_do_not_round_other_counts(tmp_path: Path) -> None:
    exact = 2**53 + 1
    path = write(tmp_path, line(io(number(B, 0, 60, exact), double(60, 1.6), double(60, "2.0"))))
    assert octets(read(path)) == {A: 4, B: exact}


@pytest.mark.parametrize("bounds", [[1, 2, -3], [1, 2, "NaN"], [1, "Infinity"], [2, 1], [1, 1, 1], ["NaN", 1]])
def test_bounds_that_do_not_increase_are_not_used(tmp_path: Path, bounds: list[Any]) -> None:
    point = rtts(A, 0, 60, [1, 1]) | {"bucketCounts": [1, 1, *[0] * (len(bounds) - 1)], "explicitBounds": bounds}
    explicit = durations(point)
    explicit["histogram"] = explicit.pop("exponentialHistogram")
    history = read(write(tmp_path, line(explicit), line(durations(rtts(A, 60, 120, [3])))))
    assert buckets(history, A) == (4, {-100: 3})
    assert history.notes == ["data points that are not used, because they have buckets that cannot be converted: 1"]


@pytest.mark.parametrize("value", [1e400, "1e400", "9" * 5000])
def test_integers_that_are_none_make_attributes_invalid(tmp_path: Path, value: Any) -> None:
    wrong = number(A, 0, 60, 1)
    wrong["attributes"][1]["value"] = {"intValue": value}
    text = line(io(wrong, number(A, 0, 60, 2))).replace("Infinity", "1e400")
    history = read(write(tmp_path, text))
    assert octets(history) == {A: 2}
    assert history.notes == ["data points that are not used, because they have invalid attributes: 1"]


@pytest.mark.parametrize("kind", ["stringValue", "intValue"])
def test_a_number_with_too_many_digits_is_no_as_number(tmp_path: Path, kind: str) -> None:
    point = number(A, 0, 60, 1)
    point["attributes"].append({"key": semconv.AS_NUMBER, "value": {kind: "9" * (5000 if kind[0] == "s" else 4200)}})
    history = read(write(tmp_path, line(io(point))))
    assert [each.as_number for each in history.lines] == [None]


@pytest.mark.parametrize("temporality", ["\u00b2", "\u0661", "9" * 5000, "", 3, -1])
def test_other_temporalities_are_not_used(tmp_path: Path, temporality: Any) -> None:
    path = write(tmp_path, line(io(number(A, 0, 60, 1), temporality=temporality), io(number(A, 0, 60, 2))))
    history = read(path)
    assert octets(history) == {A: 2}
    assert history.notes == ["data points that are not used, because they are neither deltas nor cumulative: 1"]


@pytest.mark.parametrize("value", [True, "true", "True"])
def test_the_mark_of_all_others_may_be_a_string(tmp_path: Path, value: Any) -> None:
    point = number(A, 0, 60, 1)
    point["attributes"] = attributes(**{semconv.OVERFLOW: value})
    assert octets(read(write(tmp_path, line(io(point))))) == {Line(kind=OVERFLOW).label: 1}
