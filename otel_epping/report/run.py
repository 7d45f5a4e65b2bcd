# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping report`: reads or measures the sources, builds the report, and writes it."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from otel_epping.history.history import History
from otel_epping.history.sources.kinds import source_size
from otel_epping.history.verdict import Thresholds
from otel_epping.networks.follower import FilesFollower
from otel_epping.networks.pseudonyms import Pseudonyms, Show, redacted_notes, unchanged
from otel_epping.process.escaping import escaped_path
from otel_epping.process.signals import enable_keyboard_interrupt
from otel_epping.replay.progress import progress_bar
from otel_epping.report.as_json import as_json
from otel_epping.report.build import build
from otel_epping.report.document import Report
from otel_epping.report.html import html
from otel_epping.report.live import measure
from otel_epping.report.markdown import markdown
from otel_epping.report.measurement import Source
from otel_epping.report.output_file import OutputFile
from otel_epping.report.sources import read, title_of
from otel_epping.report.text import plural
from otel_epping.series.grouping import SUBNET, Grouping
from otel_epping.settings.model import Settings

FORMATS: dict[str, Callable[[Report], str]] = {"html": html, "markdown": markdown, "json": as_json}
STANDARD_OUTPUT = "-"


@dataclass(frozen=True)
class ReportOptions:
    """The options of a report.

    paths       the sources; without sources, interfaces are measured
    output      the path of the output file, or `-` for standard output
    format      a key of FORMATS
    duration_s  duration of the measurement of interfaces in seconds
    thresholds  the thresholds of the verdict and of the marks in tables
    is_merged   true if the counts of two sources are added up, and false if two sources are compared
    is_redacted true if the report contains pseudonyms instead of names and addresses
    group_by    the attribute by which the lines of sources are grouped (Line.grouped())
    """

    paths: Sequence[str]
    output: str
    format: str
    duration_s: float
    thresholds: Thresholds
    is_merged: bool
    is_redacted: bool
    group_by: str = SUBNET


def run(settings: Settings, files: FilesFollower, grouping: Grouping, options: ReportOptions) -> None:
    """Writes the report. Raises EppingError if a source cannot be read, or if the output cannot be written."""
    enable_keyboard_interrupt()
    show: Show = Pseudonyms() if options.is_redacted else unchanged
    if options.output == STANDARD_OUTPUT:
        _, content = _report(settings, files, grouping, options, show)
        sys.stdout.buffer.write(content.encode())  # UTF-8, as the page declares, in each locale
        return
    path = Path(options.output)
    with OutputFile(path, in_place=not options.paths and _belongs_to_another(path)) as file:
        report, content = _report(settings, files, grouping, options, show)
        file.write(content)
    click.echo(f"otel-epping: {report.sections[0].sentences[0]}", err=True)
    if report.notes:
        click.echo(f"otel-epping: the report ends with {plural(len(report.notes), 'note')} about the source", err=True)
    click.echo(f"otel-epping: wrote {escaped_path(str(path))} ({len(content) / 1e6:.1f} MB)", err=True)


def _belongs_to_another(path: Path) -> bool:
    """Returns true if root without capabilities may not create files in the directory of the path."""
    try:
        return os.geteuid() == 0 and path.parent.stat().st_uid != 0
    except OSError:
        return False


def _report(
    settings: Settings, files: FilesFollower, grouping: Grouping, options: ReportOptions, show: Show
) -> tuple[Report, str]:
    if options.paths:
        # Files have millions of objects without cycles. To search them for cycles takes 9 % of the time of a report.
        gc.disable()
        sources = _read(settings, files, grouping, options, show)
    else:
        history = measure(settings, files, grouping, options.duration_s)
        # The measurement has ended. From now on, Ctrl-C ends the command.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        names = ", ".join(show("interface", name) for name in settings.selection.all)
        sources = [Source(names, history)]
    report = build(sources, options.thresholds, show, progress_bar)
    return report, FORMATS[options.format](report)


def _read(
    settings: Settings, files: FilesFollower, grouping: Grouping, options: ReportOptions, show: Show
) -> list[Source]:
    is_compared = len(options.paths) == 2 and not options.is_merged
    parts = [[path] for path in options.paths] if is_compared else [list(options.paths)]

    def history(paths: Sequence[str]) -> History:
        with progress_bar("reading", source_size(paths)) as progress:
            found = read(paths, settings.kernel, grouping, files.networks, options.group_by, progress)
        if options.is_redacted:
            found.notes = redacted_notes(found.notes, paths, show)
        return found

    pseudonyms = show if options.is_redacted else None
    return [Source(title_of(paths, pseudonyms), history(paths)) for paths in parts]
