# SPDX-License-Identifier: Apache-2.0
"""Pseudonyms for addresses and names, for the option --redact."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import count

from otel_epping.process.escaping import escaped_path

# show(kind, text) returns the text that a command prints for `text`. The kind is a word such as "host" or "subnet".
Show = Callable[[str, str], str]
SOURCE = "source"  # the kind of a file or a URL
_URL = re.compile(r"\S*https?://\S*?(?=:?(?:\s|$))", re.IGNORECASE)
# The parts of notes that may quote the content of a source.
_QUOTED = re.compile(r"(; line [\d,]+|\bwarns|other metrics, which are not used: [\d,]+)[: ].*")


def unchanged(kind: str, text: str) -> str:
    """Returns the text itself."""
    return text


class Pseudonyms:
    """Replaces texts by their kind and a number, for example by host-3.

    Within a run, the same text always gets the same pseudonym, and different texts of a kind get different pseudonyms.
    The numbers follow the order in which texts are first shown, so a pseudonym contains no part of the text. All texts
    are stored until the end of the run, about 0.2 kB for each.
    """

    def __init__(self) -> None:
        self._counters: defaultdict[str, count[int]] = defaultdict(lambda: count(1))
        self._pseudonyms: dict[tuple[str, str], str] = {}

    def __call__(self, kind: str, text: str) -> str:
        """Returns the pseudonym of a text."""
        pseudonym = self._pseudonyms.get((kind, text))
        if pseudonym is None:
            pseudonym = self._pseudonyms[kind, text] = f"{kind}-{next(self._counters[kind])}"
        return pseudonym


def redacted_notes(notes: Sequence[str], sources: Sequence[str], show: Show) -> list[str]:
    """Returns the notes about sources without the names of the sources, and without quotations of their content."""
    found = [_QUOTED.sub(r"\1", note) for note in notes]
    for source in sorted(sources, key=len, reverse=True):
        if "://" in source:
            found = [_URL.sub(show(SOURCE, source), note) for note in found]
        name = re.compile(rf"(?<![\w/]){re.escape(escaped_path(source))}(?![\w/])")
        found = [name.sub(show(SOURCE, source), note) for note in found]
    return found
