# SPDX-License-Identifier: Apache-2.0
"""Parses text, numbers, Booleans and enumerations in variables. Collects all errors instead of raising the first."""

import math
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from otel_epping.errors import EppingError
from otel_epping.process.escaping import printable
from otel_epping.process.redaction import redact

_QUOTES = ('"', "'")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h)", re.IGNORECASE)
_MS_PER_UNIT = {"ms": 1, "s": 1e3, "sec": 1e3, "m": 60e3, "min": 60e3, "h": 3600e3}


class Variable(NamedTuple):
    """A variable that is set. `value` is not empty, and has no white space at the start or end."""

    name: str
    value: str


class Environment:
    """The variables of a process, and the errors found in these variables.

    errors     a sentence for each invalid variable, with name, value, cause and cure
    warnings   a sentence for each valid value that is probably not intended
    canonical  values of the variables that the SDK itself reads, in the form that the SDK understands. None means that
               the variable must be unset
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.canonical: dict[str, str | None] = {}
        self._variables = variables

    def add_error(self, variable: Variable, why: str, *, secret: bool = False) -> None:
        """Collects an error.

        `why` has the cause and the cure: "which ...: set ...". With `secret`, the error omits the value.
        """
        shown = variable.name if secret else f"{variable.name} is {redact(variable.value)!r},"
        self.errors.append(f"{shown} {why}")

    def raise_errors(self) -> None:
        """Raises EppingError with all collected errors, if there are any."""
        if errors := list(dict.fromkeys(self.errors)):  # two exporters may report the same error
            several = f"{len(errors)} errors in OTEL_* variables: " if len(errors) > 1 else ""
            raise EppingError(several + "; ".join(errors))

    def find(self, *names: str) -> Variable | None:
        """Returns the first variable of `names` that is set. Pass the variable for metrics before the general variable.

        A variable with an empty value counts as unset (specification, "Parsing empty value"). A value that has only
        white space counts as empty. White space around a value is removed, because files with secrets or variables
        often end in a line break.
        """
        for name in names:
            if value := self._variables.get(name, "").strip():
                return Variable(name, value)
        return None

    def text(self, *names: str, is_name: bool = False) -> Variable | None:
        """Does the same as find(), and checks that the value is UTF-8 without control characters or surrounding quotes.

        With `is_name`, unprintable characters are escaped and are not an error, because the value is only a name.
        """
        if not (variable := self.find(*names)):
            return None
        if is_name:
            variable = Variable(variable.name, printable(variable.value))
        value = variable.value
        try:
            value.encode()
        except UnicodeEncodeError:
            raw = value.encode("utf-8", "surrogateescape")
            self.errors.append(f"{variable.name} is {raw!r}, which has bytes that are not UTF-8: encode it in UTF-8")
            return None
        if not value.isprintable():
            self.add_error(variable, "which has control characters: remove them")
            return None
        if len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES:
            self.add_error(variable, f"which has quotes around it: write {redact(value[1:-1])} without quotes")
            return None
        return variable

    def boolean(self, *names: str) -> bool:
        """Parses `true` or `false`, in upper or lower case.

        In the specification, any other value means false. Here, any other value is an error, because a user who sets
        `1` expects true.
        """
        variable = self.text(*names)
        if variable and variable.value.lower() not in ("true", "false"):
            self.add_error(variable, "which is neither true nor false: set true or false")
            return False
        return variable is not None and variable.value.lower() == "true"

    def choice(self, values: Collection[str], *names: str) -> str | None:
        """Parses a value that must be one of `values`, in upper or lower case (specification, "Enum")."""
        variable = self.text(*names)
        if variable and variable.value.lower() not in values:
            self.add_error(variable, f"which is not supported: use {in_words(values)}")
            return None
        return variable.value.lower() if variable else None

    def milliseconds(self, variable: Variable) -> float | None:
        """Parses a number of milliseconds, which must be finite and not negative."""
        try:
            number = float(variable.value)
        except ValueError:
            cure = "set a number of milliseconds"
            if duration := _DURATION.fullmatch(variable.value):
                cure = f"write {float(duration[1]) * _MS_PER_UNIT[duration[2].lower()]:.15g}"
            self.add_error(variable, f"which is not a number of milliseconds: {cure}")
            return None
        if not math.isfinite(number) or number < 0:
            why = "negative" if number < 0 else "not finite"
            self.add_error(variable, f"which is {why}: set a number of milliseconds")
            return None
        return number


def in_words(values: Collection[str]) -> str:
    """Returns the values as a text such as "a, b or c"."""
    *some, last = values
    return f"{', '.join(some)} or {last}" if some else last
