# SPDX-License-Identifier: Apache-2.0
"""Filters of networks: words such as `as:3320 p95>100 n>50 side:internal method:dns name:miller`.

A network is shown if it matches all words.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.line import Line
from otel_epping.kernel.arrays import Flags
from otel_epping.kernel.methods import METHODS
from otel_epping.top.columns import BY_KEY
from otel_epping.top.frame import Frame

_COMPARISON = re.compile(r"([a-z0-9]+)(>=|<=|>|<|=)(.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?=\.?\d)\d*\.?(\d*)(?:e([+-]?\d{1,3}))?", re.ASCII | re.IGNORECASE)
_COMPARE: dict[str, Callable[[Floats, float], Flags]] = {
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}
# AS numbers have 32 bits (RFC 6793).
_MAX_AS_NUMBER = 2**32 - 1
_AS_NUMBER = re.compile(r"(?:AS)?(\d{1,10})", re.ASCII | re.IGNORECASE)
_SIDES = ("external", "internal", "unknown")
_METHODS = tuple(method.name for method in METHODS)

LineTest = Callable[[Line], bool]
ValueTest = Callable[[Floats], Flags]


def _has(name: str) -> Callable[[str], LineTest]:
    """Returns a function that makes a test: the field `name` of a line contains a text. The test ignores case."""

    def make(value: str) -> LineTest:
        folded = value.casefold()
        return lambda line: folded in str(getattr(line, name)).casefold()

    return make


def _name(value: str) -> LineTest:
    folded = value.casefold()
    return lambda line: any(folded in each.casefold() for each in (line.label, line.as_organization))


def _as(value: str) -> LineTest:
    found = _AS_NUMBER.fullmatch(value)
    number = int(found[1]) if found else _MAX_AS_NUMBER + 1
    if number > _MAX_AS_NUMBER:
        raise ValueError(f"an AS is a number up to {_MAX_AS_NUMBER}: as:3320")
    return lambda line: line.as_number == number


def _side(value: str) -> LineTest:
    found = [side for side in _SIDES if value and side.startswith(value.lower())]
    if not found:
        raise ValueError(f"sides are {', '.join(_SIDES)}")
    return lambda line: line.side == found[0]


def _net(value: str) -> LineTest:
    try:
        wanted = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("write a network in CIDR notation: net:192.0.2.0/24") from None

    def matches(line: Line) -> bool:
        if not line.subnet:
            return False
        subnet = ipaddress.ip_network(line.subnet)
        return subnet.version == wanted.version and subnet.overlaps(wanted)

    return matches


# The filter words that compare texts: name -> (the selected networks, the function that makes the test).
TEXT_WORDS: dict[str, tuple[str, Callable[[str], LineTest]]] = {
    "name": ("networks whose name, subnet or organisation contains a text", _name),
    "as": ("networks of an AS", _as),
    "org": ("networks whose organisation contains a text", _has("as_organization")),
    "country": ("networks of a country, for example country:DE", _has("country")),
    "net": ("subnets that overlap with a network, for example net:192.0.2.0/24", _net),
    "side": (f"networks on a side: {', '.join(_SIDES)}", _side),
    "if": ("networks at an interface", _has("interface")),
}
METHOD_WORD = "method"


@dataclass(frozen=True)
class NetworkFilter:
    """A parsed filter.

    text      the words as the user wrote them
    methods   the methods whose RTTs are used; None stands for all methods
    problems  a message about each invalid word, with the allowed words or values
    """

    text: str = ""
    methods: tuple[str, ...] | None = None
    problems: tuple[str, ...] = ()
    tests: tuple[LineTest, ...] = ()
    comparisons: tuple[tuple[str, ValueTest], ...] = ()

    def matching(self, frame: Frame) -> Flags:
        """Returns an array that is true for each line that matches all words: (lines,)."""
        matching: Flags = np.ones(len(frame.lines), np.bool_)
        for key, test in self.comparisons:
            column = BY_KEY[key]
            with np.errstate(invalid="ignore"):
                matching &= test(column.values(frame) * column.unit)
        if self.tests:
            for place in np.flatnonzero(matching).tolist():
                line = frame.lines[place]
                matching[place] = all(test(line) for test in self.tests)
        return matching


def allowed() -> str:
    """Returns the words that a filter may contain, for messages."""
    texts = " ".join(f"{name}:" for name in (*TEXT_WORDS, METHOD_WORD))
    return f"{texts} a tag: or {'|'.join(BY_KEY)} with > < >= <= ="


def parse(text: str, tags: frozenset[str] = frozenset()) -> NetworkFilter:
    """Parses a filter. `tags` are the tags of named networks. A tag can be used like a word, as in site:Berlin."""
    tests: list[LineTest] = []
    comparisons: list[tuple[str, ValueTest]] = []
    methods: list[str] = []
    problems: list[str] = []
    for word in text.split():
        try:
            if found := _COMPARISON.fullmatch(word):
                comparisons.append(_comparison(*found.groups()))
                continue
            name, colon, value = word.partition(":")
            if colon and (name in tags or not _is_address(word)):
                if name == METHOD_WORD:
                    methods += _methods(value)
                else:
                    tests.append(_test(name, value, tags))
            else:
                tests.append(_name(word))
        except ValueError as error:
            problems.append(f"{word}: {error}")
    return NetworkFilter(text, tuple(methods) or None, tuple(problems), tuple(tests), tuple(comparisons))


def _is_address(word: str) -> bool:
    """Returns true for a part of an IPv6 address, such as 2001:db8:."""
    return re.fullmatch(r"[0-9a-f]{1,4}(:[0-9a-f]{0,4})+(/\d*)?", word, re.IGNORECASE) is not None


def _comparison(key: str, operator: str, value: str) -> tuple[str, ValueTest]:
    """Returns the key of a column and the test of its values.

    `=` is true if a value, rounded to the digits that the user wrote, is equal: p95=12.3 is true from 12.25 to 12.35.
    """
    key = key.lower()
    if key not in BY_KEY:
        raise ValueError(f"unknown column; columns are {' '.join(BY_KEY)}")
    found = _NUMBER.fullmatch(value)
    number = float(value) if found else math.nan
    if not found or not math.isfinite(number):
        raise ValueError(f"write a number after {operator}, for example {key}{operator}50")
    if operator == "=":
        decimals = max(len(found[1]) - int(found[2] or 0), 0)
        return key, lambda values: np.abs(values - number) <= 0.5 * 10.0**-decimals
    return key, lambda values: _COMPARE[operator](values, number)


def _methods(value: str) -> list[str]:
    found = [method for method in _METHODS if value and method.startswith(value.lower())]
    if not found:
        raise ValueError(f"methods are {', '.join(_METHODS)}")
    return found


def _test(name: str, value: str, tags: frozenset[str]) -> LineTest:
    if not value:
        raise ValueError(f"write a value after {name}:")
    if name.lower() in TEXT_WORDS:
        return TEXT_WORDS[name.lower()][1](value)
    if name in tags:
        folded = value.casefold()
        return lambda line: folded in line.tag(name).casefold()
    raise ValueError(f"unknown word; words are {allowed()}")
