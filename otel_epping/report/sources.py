# SPDX-License-Identifier: Apache-2.0
"""Reads the sources of a report."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.kinds import read_sources
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.network import Networks
from otel_epping.networks.pseudonyms import SOURCE, Show
from otel_epping.process.escaping import escaped, escaped_path
from otel_epping.series.grouping import SUBNET, Grouping

_MAX_NAMED = 3


def title_of(sources: Sequence[str], show: Show | None = None) -> str:
    """Returns the title of sources: the names of files, and the hosts of URLs. `show` returns pseudonyms instead."""
    names = [show(SOURCE, source) if show else _name(source) for source in sources]
    return ", ".join(names) if len(names) <= _MAX_NAMED else f"{names[0]} and {len(names) - 1} more files"


def _name(source: str) -> str:
    if "://" not in source:
        return "standard input" if source == "-" else escaped_path(Path(source).name)
    # The user name, the password and the query of a URL may be secret.
    with suppress(ValueError):  # read() raises an error about an invalid URL
        return escaped(urlsplit(source).hostname or "a URL")
    return "a URL"


def read(
    sources: Sequence[str],
    config: EppingConfig,
    grouping: Grouping,
    networks: Networks | None,
    group_by: str,
    progress: Callable[[int], object],
) -> History:
    """Returns the sum of sources, grouped by the attribute `group_by` of lines.

    Raises EppingError if a source cannot be read, if no packet was counted, or if only the sources can have the
    attribute and no network has the attribute.
    """
    history = read_sources(sources, config, grouping=grouping, networks=networks, progress=progress)
    if group_by != SUBNET:  # captures are already grouped, but other sources are not
        history = history.group(lambda line: line.grouped(group_by))
    if not history.total().present().any():
        notes = "; ".join(history.notes)
        raise EppingError(f"{title_of(sources)}: no packet of a network was counted" + (f": {notes}" if notes else ""))
    found = [line for line in history.lines if line.is_network]
    # Without a database and a file of networks, only the source can have the attribute.
    if group_by != grouping.group_by and found and not any(line.has_group for line in found):
        raise EppingError(
            f"group_by is {group_by}, but no network of {title_of(sources)} has this attribute: group by {SUBNET}"
        )
    return history
