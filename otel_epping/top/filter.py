# SPDX-License-Identifier: Apache-2.0
"""Filters of networks: words such as `as:3320 p95>100 n>50 side:internal method:dns name:miller`.

A network is shown if it matches all words.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.line import Line
from otel_epping.kernel.arrays import Flags
from otel_epping.kernel.methods import METHODS
from otel_epping.top.columns import BY_KEY
from otel_epping.top.frame import Frame

_COMPARISON = re.compile(r"([a-z0-9]+)(>=|<=|>|<|=)(.*)", re.IGNORECASE)
_COMPARE: dict[str, Callable[[Floats, float], Flags]] = {
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
    "=": np.isclose,
}
_SIDES = ("external", "internal", "unknown")
_METHODS = tuple(method.name for method in METHODS)

LineTest = Callable[[Line], bool]


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
    number = value.upper().removeprefix("AS")
    if not number.isdecimal():
        raise ValueError("an AS is a number: as:3320")
    return lambda line: line.as_number == int(number)


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
    problems  a message about each invalid word, with the allowed words or values. Invalid words are ignored
    """

    text: str = ""
    methods: tuple[str, ...] | None = None
    problems: tuple[str, ...] = ()
    tests: tuple[LineTest, ...] = ()
    comparisons: tuple[tuple[str, str, float], ...] = field(default=())

    def matching(self, frame: Frame) -> Flags:
        """Returns an array that is true for each line that matches all words: (lines,)."""
        matching: Flags = np.ones(len(frame.lines), np.bool_)
        for key, operator, number in self.comparisons:
            column = BY_KEY[key]
            with np.errstate(invalid="ignore"):
                matching &= _COMPARE[operator](column.values(frame) * column.unit, number)
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
    comparisons: list[tuple[str, str, float]] = []
    methods: list[str] = []
    problems: list[str] = []
    for word in text.split():
        try:
            if found := _COMPARISON.fullmatch(word):
                comparisons.append(_comparison(*found.groups()))
            elif ":" in word and not _is_address(word):
                name, _, value = word.partition(":")
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
    return re.fullmatch(r"[0-9a-f]{1,4}(:[0-9a-f]{0,4})+(/\d*)?", word, re.IGNORECASE) is not None and (
        word.partition(":")[0] not in TEXT_WORDS
    )


def _comparison(key: str, operator: str, value: str) -> tuple[str, str, float]:
    key = key.lower()
    if key not in BY_KEY:
        raise ValueError(f"unknown column; columns are {' '.join(BY_KEY)}")
    with suppress(ValueError):
        if math.isfinite(number := float(value)):
            return key, operator, number
    raise ValueError(f"write a number after {operator}, for example {key}{operator}50")


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
