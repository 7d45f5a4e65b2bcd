# SPDX-License-Identifier: Apache-2.0
"""Collects the errors in the lines of a file, for one message."""

from otel_epping.errors import EppingError
from otel_epping.process.escaping import printable

MAX_LISTED = 5
_MAX_QUOTED = 60


class LineError(Exception):
    """An error in a line. The message states the cause and the cure, but neither the file nor the line."""


class LineErrors:
    """The errors in the lines of the file `path`. The message lists the first MAX_LISTED errors."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listed: list[str] = []
        self._count = 0

    def add(self, line: int, text: object) -> None:
        """Adds the error in a line. Errors are added in the order of the lines."""
        self._count += 1
        if self._count <= MAX_LISTED:
            self._listed.append(f"{self._path}:{line}: {text}")

    def check(self) -> None:
        """Raises EppingError if there are errors."""
        if self._count:
            others = self._count - len(self._listed)
            more = [f"{self._path}: {others:,} more line{'s have errors' if others > 1 else ' has an error'}"]
            raise EppingError("\n".join(self._listed + more * bool(others)))


def quoted(text: str) -> str:
    """Returns the start of a text in quotes, with unprintable characters escaped."""
    return f"'{printable(text[:_MAX_QUOTED])}{'...' * (len(text) > _MAX_QUOTED)}'"
