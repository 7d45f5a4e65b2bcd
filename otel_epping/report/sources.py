# SPDX-License-Identifier: Apache-2.0
"""Opens the sources of a report: captures, OTLP files, and JSON output of ePPing."""

from collections.abc import Callable, Sequence
from pathlib import Path

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.captures import read_captures
from otel_epping.history.sources.otlp_files import read_otlp
from otel_epping.history.sources.pping import read_pping
from otel_epping.history.sources.reading import InputFile
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.network import Networks
from otel_epping.replay.capture import STANDARD_INPUT
from otel_epping.series.grouping import Grouping

CAPTURE, OTLP, EPPING = "capture", "OTLP file", "JSON output of ePPing"
_OTLP_MARKS = (b'"resourceMetrics"', b'"resource_metrics"')


def kind_of(path: str) -> str:
    """Returns the kind of a source. Raises EppingError if the file cannot be read or is empty."""
    if path == STANDARD_INPUT:  # standard input can be read only once
        return CAPTURE
    file = InputFile(path)
    file.close()
    if file.head[:1] not in (b"{", b"["):
        return CAPTURE
    return OTLP if any(mark in file.head for mark in _OTLP_MARKS) else EPPING


def title_of(paths: Sequence[str]) -> str:
    """Returns the text that names sources for the reader."""
    names = ["standard input" if path == STANDARD_INPUT else Path(path).name for path in paths]
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more files"


def read(
    paths: Sequence[str],
    config: EppingConfig,
    grouping: Grouping,
    networks: Networks | None,
    progress: Callable[[int], object],
) -> History:
    """Returns the sum of sources of the same kind. Raises EppingError if they cannot be read, or differ in kind."""
    kinds = {kind_of(path): path for path in paths}
    if len(kinds) > 1:
        (first, its_path), (second, other_path), *_ = kinds.items()
        raise EppingError(
            f"{its_path}: {first}; {other_path}: {second}: sources of different kinds cannot be added up. "
            "Name one kind, or exactly two sources to compare them"
        )
    if CAPTURE not in kinds:
        read_files = read_otlp if OTLP in kinds else read_pping
        history = read_files([InputFile(path, progress) for path in paths])
    else:
        history = read_captures(paths, config, grouping=grouping, networks=networks, progress=progress)
    if not history.total().present().any():
        notes = "; ".join(history.notes)
        raise EppingError(f"{title_of(paths)}: no packet of a network was counted" + (f": {notes}" if notes else ""))
    return history


def size_of(path: str) -> int:
    """Returns the number of bytes of a file, for the progress bar; 0 if it is not known."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
