# SPDX-License-Identifier: Apache-2.0
"""Converts numbers to texts for people."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple

from otel_epping.report.document import Value

_NS = 1e9
UNKNOWN = "-"
_MS_DIGITS = ((100, 0), (10, 1), (0.1, 2))
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class CellKind(NamedTuple):
    """A kind of values in a table.

    unit      the unit, which is shown in the heading
    text      returns the text of a value
    is_right  true if the values are aligned on the right
    """

    unit: str
    text: Callable[[float], str]
    is_right: bool = True


def count(number: float) -> str:
    """Returns a count with separators, for example `12,345`."""
    return f"{number:,.0f}"


def plural(number: float, word: str) -> str:
    """Returns a count and a word, for example `1 network` or `2 networks`."""
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def ms(seconds: float) -> str:
    """Returns a time in ms with three digits, without the unit."""
    time_ms = seconds * 1e3
    digits = next((digits for limit, digits in _MS_DIGITS if abs(time_ms) >= limit), 3)
    return f"{time_ms:,.{digits}f}" if time_ms else "0"


def percent(share: float) -> str:
    """Returns a share in percent, without the unit."""
    if 0 < share < 0.0001:
        return "<0.01"
    return f"{share * 100:.2f}" if share < 0.1 else f"{share * 100:.1f}"


def _mbit(bits: float) -> str:
    return _digits(bits / 1e6)


def _kilobytes(octets: float) -> str:
    return _digits(octets / 1e3)


def _digits(number: float) -> str:
    """Returns a number with about three digits, and at most three decimal places."""
    if 0 < number < 0.001:
        return "<0.001"
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3}f}" if number else "0"


KINDS = {
    "text": CellKind("", str, is_right=False),
    "count": CellKind("", count),
    "time": CellKind("ms", ms),
    "change": CellKind("ms", lambda seconds: ("+" if seconds > 0 else "") + ms(seconds)),
    "share": CellKind("%", percent),
    "rate": CellKind("Mbit/s", _mbit),
    "impact": CellKind("kB", _kilobytes),
    "bytes": CellKind("MB", lambda octets: _digits(octets / 1e6)),
    "ratio": CellKind("x", lambda ratio: f"{ratio:.2f}"),
}


def cell(kind: str, value: Value) -> str:
    """Returns the text of a value of a table."""
    if value is None or value == "":
        return UNKNOWN
    return KINDS[kind].text(value)  # type: ignore[arg-type]


def heading(text: str, kind: str) -> str:
    """Returns a heading with its unit."""
    return f"{text} {KINDS[kind].unit}".rstrip()


def moment(time_ns: int) -> str:
    """Returns a Unix time as text, in UTC."""
    return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Returns a duration with up to two units, for example `2 d 3 h`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    rest, parts = round(seconds), []
    for size, unit in _UNITS:
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
