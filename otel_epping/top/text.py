# SPDX-License-Identifier: Apache-2.0
"""Texts of numbers, and pictures made of characters: strips and bars."""

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from otel_epping.history.histograms import Floats

UNKNOWN = "-"
_BLOCKS = " ▁▂▃▄▅▆▇█"
_SHADES = " .:-=+*#%@"
_ELLIPSIS = "…"
_K = 1000
_UNITS = ("", "k", "M", "G", "T")
# A number with at most 3 digits before the point.
_THREE_DIGITS = 999.5


class Glyphs:
    """The characters with which pictures are drawn.

    `levels` are the characters for values from 0 to the maximum. With `is_ascii`, all texts are ASCII.
    """

    def __init__(self, *, is_ascii: bool) -> None:
        self.is_ascii = is_ascii
        self.levels = _SHADES if is_ascii else _BLOCKS
        self.ellipsis = "~" if is_ascii else _ELLIPSIS
        self.bar, self.rule, self.marker = ("#", "-", "^") if is_ascii else ("█", "─", "▲")
        self.down, self.up = ("v", "^") if is_ascii else ("▼", "▲")

    def strip(self, values: Sequence[float] | Floats, maximum: float | None = None) -> str:
        """Returns a character for each value. A value above 0 never has the character of 0. NaN has the character of 0.

        `maximum` is the value of the highest character; by default, the maximum of the values.
        """
        known = np.nan_to_num(np.asarray(values, np.float64))
        highest = maximum or float(known.max(initial=0))
        if highest <= 0:
            return " " * len(known)
        steps = len(self.levels) - 1
        levels = np.clip(np.ceil(known / highest * steps), 0, steps).astype(np.int64)
        return "".join(self.levels[level] for level in levels.tolist())

    def fit(self, text: str, width: int, *, right: bool = False) -> str:
        """Returns the text with exactly `width` columns of the terminal. A longer text is cut off."""
        if self.is_ascii:
            text = text.encode("ascii", "replace").decode()
        if (missing := width - cells(text)) >= 0:
            return " " * missing + text if right else text + " " * missing
        kept = ""
        for character in text:
            if cells(kept + character) > width - 1:
                break
            kept += character
        kept += self.ellipsis if width > 0 else ""
        return kept + " " * (width - cells(kept))


def cells(text: str) -> int:
    """Returns the number of columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def wrapped(words: str, width: int) -> list[str]:
    """Splits a text into lines of at most `width` columns of the terminal. A longer word is cut into parts."""
    lines = [""]
    for word in words.split():
        if lines[-1] and cells(lines[-1]) + 1 + cells(word) > width:
            lines.append("")
        elif lines[-1]:
            lines[-1] += " "
        for character in word:
            if lines[-1] and cells(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def has_unicode(environ: Mapping[str, str] = os.environ) -> bool:
    """Returns true if the locale of the terminal has the encoding UTF-8 (locale(7)).

    Python sets LC_CTYPE=C.UTF-8 if the locale is C (PEP 538), so C.UTF-8 does not show the encoding of the terminal.
    """
    ctype = environ.get("LC_CTYPE", "")
    names = (environ.get("LC_ALL", ""), "" if ctype == "C.UTF-8" else ctype, environ.get("LANG", ""))
    locale = next(filter(None, names), "C").lower()
    return "utf-8" in locale or "utf8" in locale


def milliseconds(seconds: float) -> str:
    """Returns a time in ms with three significant digits or more, for example 0.123, 12.3 and 1,234."""
    if math.isnan(seconds):
        return UNKNOWN
    value = seconds * 1e3
    size = abs(value)
    digits = 3 if size < 0.9995 else 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{value:,.{digits}f}"


def change(seconds: float) -> str:
    """Returns a difference in ms with the sign."""
    text = milliseconds(seconds)
    return text if text in (UNKNOWN, "0.000") or text.startswith("-") else f"+{text}"


def count(number: float) -> str:
    """Returns a count in at most 6 characters, for example 12,345 and 1.23M."""
    if math.isnan(number):
        return UNKNOWN
    return f"{number:,.0f}" if number < 99_999.5 else scaled(number)


def scaled(number: float) -> str:
    """Returns a number with a unit prefix and three significant digits, for example 1.23k."""
    if math.isnan(number):
        return UNKNOWN
    place = 0
    while abs(number) >= _THREE_DIGITS and place < len(_UNITS) - 1:
        number /= _K
        place += 1
    if not place:
        return f"{number:.0f}" if number == round(number) else f"{number:.3g}"
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}{_UNITS[place]}"


def megabits(bits: float) -> str:
    """Returns a rate in Mbit/s."""
    if math.isnan(bits):
        return UNKNOWN
    value = bits / 1e6
    digits = 3 if value < 0.9995 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """Returns a share in %. A share above 0 is never shown as 0."""
    if math.isnan(share):
        return UNKNOWN
    value = share * 100
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def clock(time_ns: int) -> str:
    """Returns the local time of day of a Unix time."""
    return datetime.fromtimestamp(time_ns / 1e9).strftime("%H:%M:%S")


def date_and_clock(time_ns: int) -> str:
    """Returns the local date and time of day of a Unix time."""
    return datetime.fromtimestamp(time_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def moment(time_ns: int, session: tuple[int, int]) -> str:
    """Returns the local time of day of a Unix time. Adds the date if the session is longer than a day.

    `session` are the begin and the end of the session, Unix time, ns.
    """
    is_long = session[1] - session[0] > 86_400 * 10**9
    return datetime.fromtimestamp(time_ns / 1e9).strftime("%m-%d %H:%M" if is_long else "%H:%M:%S")


def duration(seconds: float) -> str:
    """Returns a duration, for example 12 s, 3 min or 5 h."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
