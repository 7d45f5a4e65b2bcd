# SPDX-License-Identifier: Apache-2.0
"""Types of settings, which convert text to values and values to text.

The types are Click parameter types. So the same code checks flags, variables and lines of a file, with the same error
messages.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from otel_epping.errors import EppingError
from otel_epping.kernel import embedded_ipv4, methods
from otel_epping.kernel.attach import selection
from otel_epping.otel import metric_selection
from otel_epping.otel.metric import GROUPS
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET

_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "": 10**9}
_DURATION = r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|)"


class Duration(click.ParamType[int]):
    """A time such as 100ms, 2.5s or 1m. A number without a unit is in seconds.

    The converted value is in ns, from `min_ns` to `max_ns`.
    """

    name = "duration"

    def __init__(self, min_ns: int, max_ns: int) -> None:
        self.min_ns, self.max_ns = min_ns, max_ns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Returns the time in ns. Fails if the text is not a time, or if the time is out of range."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(_DURATION, value.strip(), re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a time such as 100ms, 2.5s or 1m", param, ctx)
        # A text with more than 308 digits is infinity as a float, which has no integer.
        time_ns = round(min(float(match[1]) * _UNITS_NS[match[2]], self.max_ns + 1.0))
        if not self.min_ns <= time_ns <= self.max_ns:
            self.fail(f"{value} is not in the range from {self.min_ns / 1e9:g}s to {self.max_ns / 1e9:g}s", param, ctx)
        return time_ns


class Interfaces(click.ParamType[str]):
    """A text that selects interfaces: a name, a pattern or `auto`.

    A variable may contain several names, patterns or `auto`, separated by commas.
    """

    name = "name|pattern|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the text, escaped and without surrounding white space. Fails if a regular expression is invalid."""
        text = selection.escaped(str(value).strip())
        try:
            selection.check(text)
        except EppingError as error:
            self.fail(str(error), param, ctx)
        return text

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Splits the value at commas, but not inside regular expressions, which are enclosed in slashes."""
        return re.findall(r"\s*/.*?/\s*(?=,|$)|[^,]+", rv, re.DOTALL)


class FilePath(click.ParamType[str]):
    """The path of a file. A variable may contain several paths, separated by commas, if the setting allows this."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the path. Fails if the path is empty."""
        path = str(value).strip()
        if not path:
            self.fail("the path is empty: set a path, or remove the setting", param, ctx)
        return path

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Splits the value at commas."""
        return _names(rv)


class GroupBy(click.ParamType[str]):
    """What a series stands for: one of `known`, or a tag of the file of names."""

    name = "group"
    known = (SUBNET, NAME, ASN, COUNTRY)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the text. Fails if the text is empty."""
        text = str(value).strip()
        if not text:
            self.fail(f"the text is empty: choose among {', '.join(self.known)}, or a tag of the networks", param, ctx)
        return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas.

    known   the names that are always allowed
    check   raises EppingError if a name is not allowed
    others  describes allowed names that are not in `known`; "" if there are none
    """

    name = "name,..."

    def __init__(self, known: Sequence[str], check: Callable[[tuple[str, ...]], object], others: str = "") -> None:
        self.known, self._check, self.others = known, check, others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Returns the names. If a name is unknown, fails with a message that lists the known names."""
        if isinstance(value, tuple):
            return value
        names = _names(value)
        try:
            self._check(names)
        except EppingError as error:
            self.fail(str(error), param, ctx)
        return names


METHODS = Names(methods.ALL, methods.mask)
METRICS = Names(metric_selection.SELECTIONS, metric_selection.check_metrics)
EMBEDDED_IPV4 = Names(embedded_ipv4.NAMES, embedded_ipv4.nat64_prefixes, "prefixes of a NAT64")
# The names of tags are compared with the file of names when the file is read (names.py).
TAGS = Names((), tuple, "tags of the networks")


class Attributes(click.ParamType[dict[str, tuple[str, ...]]]):
    """The attributes of groups of metrics, for example `rtt=subnet,side;traffic=subnet,side,direction`.

    In a settings file, the value is a mapping from each group to a list of attributes.
    """

    name = "group=name,...;..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, tuple[str, ...]]:
        """Returns the names of attributes by group. Fails if a name is unknown or a required attribute is missing."""
        if isinstance(value, dict):
            return value
        parts = [part.partition("=") for part in value.split(";") if part.strip()]
        if not all(equals for _, equals, _ in parts):
            self.fail(f"{value!r} is not a list such as rtt=subnet,side;traffic=subnet,side,direction", param, ctx)
        attributes = {group.strip(): _names(names) for group, _, names in parts}
        if len(attributes) < len(parts):
            self.fail(f"{value!r} has a group twice", param, ctx)
        try:
            metric_selection.check_attributes(attributes)
        except EppingError as error:
            self.fail(str(error), param, ctx)
        return attributes


def text_of(kind: click.ParamType[Any], value: Any) -> Any:
    """Returns a value in the form in which it is written in a file or on the command line."""
    if isinstance(kind, Duration) and value is not None:
        unit = max((unit for unit in _UNITS_NS if unit and value % _UNITS_NS[unit] == 0), key=_UNITS_NS.__getitem__)
        return f"{value // _UNITS_NS[unit]}{unit}" if value else "0s"
    if isinstance(kind, Attributes) and value is not None:
        return {group: list(names) for group, names in value.items()}
    return list(value) if isinstance(value, tuple) else value


def schema_of(kind: click.ParamType[Any]) -> dict[str, Any]:
    """Returns the JSON schema of a value in a file."""
    if isinstance(kind, click.IntRange):
        limits = {"minimum": kind.min, "maximum": kind.max}
        return {"type": "integer"} | {name: limit for name, limit in limits.items() if limit is not None}
    if isinstance(kind, Duration):
        time = {"type": "string", "pattern": f"^{_DURATION}$", "examples": ["100ms", "2.5s", "1m"]}
        seconds = {"type": "number", "minimum": kind.min_ns / 1e9, "maximum": kind.max_ns / 1e9}
        return {"anyOf": [time, seconds]}
    if isinstance(kind, Names):
        return {"type": "array", "items": {"type": "string"} if kind.others else {"enum": list(kind.known)}}
    if isinstance(kind, Attributes):
        groups = {group: list(metric_selection.attributes_of(group)) for group in GROUPS}
        lists = {group: {"type": "array", "items": {"enum": names}} for group, names in groups.items()}
        return {"type": "object", "additionalProperties": False, "properties": lists}
    if isinstance(kind, click.Choice):
        return {"enum": list(kind.choices)}
    return {"type": "boolean" if kind is click.BOOL else "string"}


def allowed(kind: click.ParamType[Any]) -> str:
    """Returns the allowed values as text, for the documentation."""
    if isinstance(kind, click.IntRange):
        return f"{kind.min} to {kind.max}"
    if isinstance(kind, Duration):
        return f"{text_of(kind, kind.min_ns)} to {text_of(kind, kind.max_ns)}"
    if isinstance(kind, Names):
        return ", ".join([*(f"`{name}`" for name in kind.known), *([kind.others] if kind.others else [])])
    if isinstance(kind, GroupBy):
        return ", ".join([*(f"`{name}`" for name in kind.known), TAGS.others])
    if isinstance(kind, Attributes):
        return "see [metrics.md](metrics.md#groups)"
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    return "`true`, `false`" if kind is click.BOOL else kind.name.replace("|", ", ")
