# SPDX-License-Identifier: Apache-2.0
"""Builds Networks from the lines of a file of names, and checks names, tags and prefixes."""

import re
from collections.abc import Sequence

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.networks.line_errors import LineError, LineErrors, quoted
from otel_epping.networks.network import PREFIX, Network, Networks
from otel_epping.networks.prefix_text import unpacked

MAX_TEXT = 255  # The maximum number of characters of a name, and of the value of a tag.

# `--group-by` has another meaning for these words.
_RESERVED = {"subnet", "asn", "country"}
_Tags = tuple[tuple[str, str], ...]
_TAG = re.compile("[a-z][a-z0-9_]{0,62}")
_PACKED = np.dtype([("address", "u1", 16), ("length", "u1")])


def tag_name(text: str) -> str:
    """Returns the name of the tag that a column or a key stands for: in lower case, with _ for spaces and hyphens.

    Raises LineError if this name is reserved, or if the name contains other characters than letters, digits and _.
    """
    name = re.sub(r"[\s-]+", "_", text.strip().lower())
    if name in _RESERVED:
        raise LineError(
            f"{name} cannot be a tag, because --group-by {name} has another meaning: rename it, for example to "
            f"own_{name}"
        )
    if not _TAG.fullmatch(name):
        raise LineError(
            f"{quoted(text)} cannot be a tag: rename it with up to 63 letters a-z, digits and _, and a "
            "letter at the start"
        )
    return name


def _clean(text: str, what: str) -> str:
    """Returns a text without white space at its ends, and with a space for each other kind of white space."""
    text = text.strip()
    if text.isprintable() and len(text) <= MAX_TEXT:
        return text
    text = " ".join(text.split())
    if not text.isprintable():
        raise LineError(f"{what} {quoted(text)} contains control characters: remove them")
    if len(text) > MAX_TEXT:
        raise LineError(f"{what} {quoted(text)} has {len(text):,} characters: shorten it to at most {MAX_TEXT}")
    return text


class NetworksBuilder:
    """Builds the Networks of the file `path`, whose further columns are `tags`.

    errors  the errors in lines; build() raises EppingError if there are errors
    """

    def __init__(self, path: str, tags: Sequence[str]) -> None:
        self.errors = LineErrors(path)
        self._path, self._tags = path, tuple(tags)
        self._networks: list[Network] = []
        self._lines: list[int] = []  # The line that first defines each network.
        self._numbers: dict[str, int] = {}  # By name.
        # Equal tags are one object. For 100,000 networks with two tags, this saves 28 MB.
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._combinations: dict[_Tags, _Tags] = {}
        self._numbers_by_fields: dict[tuple[str, ...], int] = {}
        self._rows: dict[bytes, int] = {}  # Packed prefix -> its index in the next two lists.
        self._prefix_numbers: list[int] = []
        self._prefix_lines: list[int] = []

    def add(self, line: int, prefix: bytes, fields: tuple[str, ...]) -> None:
        """Adds a prefix, as packed() returns it, to a network. `fields` are the name and the value of each tag.

        If the name or a value is invalid, or contradicts another line, raises LineError.
        """
        number = self._numbers_by_fields.get(fields)
        if number is None:
            number = self._numbers_by_fields[fields] = self._number(line, fields)
        row = self._rows.setdefault(prefix, len(self._rows))
        if row == len(self._prefix_numbers):
            self._prefix_numbers.append(number)
            self._prefix_lines.append(line)
        elif self._prefix_numbers[row] != number:
            other = self._networks[self._prefix_numbers[row]].name
            raise LineError(
                f"{unpacked(prefix)} is {quoted(self._networks[number].name)} here, and {quoted(other)} in line "
                f"{self._prefix_lines[row]}: keep one of the two lines"
            )

    def _number(self, line: int, fields: tuple[str, ...]) -> int:
        name = _clean(fields[0], "the name")
        if not name:
            raise LineError("the name is missing: add a name after the prefix")
        values = [text and _clean(text, tag) for tag, text in zip(self._tags, fields[1:], strict=True)]
        pairs = [pair for pair in zip(self._tags, values, strict=True) if pair[1]]
        tags = tuple([self._pairs.setdefault(pair, pair) for pair in pairs])
        tags = self._combinations.setdefault(tags, tags)
        number = self._numbers.setdefault(name, len(self._networks))
        if number == len(self._networks):
            self._networks.append(Network(name, tags))
            self._lines.append(line)
        elif tags != self._networks[number].tags:
            old, new = dict(self._networks[number].tags), dict(tags)
            tag = next(tag for tag in self._tags if old.get(tag) != new.get(tag))
            raise LineError(
                f"{quoted(name)} has {tag}={quoted(new.get(tag, ''))} here, and {tag}={quoted(old.get(tag, ''))} in "
                f"line {self._lines[number]}: use the same value in all lines of a name, or another name"
            )
        return number

    def build(self) -> Networks:
        """Returns the networks. If a line has an error, or if there is no network, raises EppingError."""
        self.errors.check()
        if not self._rows:
            raise EppingError(f"{self._path} names no network: add a line with a prefix and a name")
        packed = np.frombuffer(b"".join(self._rows), _PACKED)
        prefixes = np.zeros(len(packed), PREFIX)
        prefixes["address"], prefixes["length"] = packed["address"], packed["length"]
        prefixes["network"] = self._prefix_numbers
        try:
            return Networks(tuple(self._networks), prefixes, self._tags)
        except EppingError as error:
            raise EppingError(f"{self._path}: {error}") from None
