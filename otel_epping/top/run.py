# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping top`."""

import logging
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.captures import read_captures
from otel_epping.history.sources.watching import WatchedInterfaces
from otel_epping.kernel.load import capabilities
from otel_epping.networks.follower import FilesFollower
from otel_epping.networks.pseudonyms import SOURCE, Pseudonyms, redacted_notes, unchanged
from otel_epping.otel import metric_table
from otel_epping.process import redaction
from otel_epping.process.escaping import escaped, escaped_path, printable
from otel_epping.process.signals import Stop
from otel_epping.replay.capture import STANDARD_INPUT
from otel_epping.replay.progress import progress_bar
from otel_epping.replay.run import last_error
from otel_epping.series.grouping import SUBNET, Grouping
from otel_epping.settings.model import Settings
from otel_epping.top import filter, text
from otel_epping.top.batch import Printer
from otel_epping.top.columns import BY_KEY
from otel_epping.top.measuring import FrameRequest, Measuring
from otel_epping.top.reasons import reasons
from otel_epping.top.session import Session
from otel_epping.top.terminal import SIGNALS, prepared_terminal
from otel_epping.top.view import SORT_BY_NAME, View

_LOG_LINES = 100


@dataclass(frozen=True)
class Options:
    """The options of the command.

    files       the captures; empty for a live run
    is_batch    true if tables are printed instead of shown
    iterations  number of printed tables; None means that there is no limit
    format      format of printed tables: `table`, `csv` or `json`
    delay_s     time between two readings, in seconds
    words       the filter
    sort        the column by which the table is sorted
    redact      true if pseudonyms are shown
    """

    files: tuple[str, ...] = ()
    is_batch: bool = False
    iterations: int | None = None
    format: str = "table"
    delay_s: float = 2.0
    words: str = ""
    sort: str = "impact"
    redact: bool = False


def run(settings: Settings, files: FilesFollower, options: Options) -> None:
    """Runs the command until the user ends it. Raises EppingError if the command cannot start.

    Raises SystemExit after a signal that comes before the first table is shown.
    """
    try:
        _run(settings, files, options)
    except SystemExit:
        click.echo("otel-epping: stopped before the first table", err=True)
        raise


def _run(settings: Settings, files: FilesFollower, options: Options) -> None:
    view = _view(settings, files, options)
    for number in SIGNALS:
        signal.signal(number, _end)
    if not options.is_batch:
        _load_screen()
    if options.files:
        _show_captures(settings, files, view, options)
        return
    session = Session(max_lines=2 * settings.kernel.max_slots)
    with WatchedInterfaces(settings, files, _grouping(files), session.history.numbering) as feed:
        if feed.kept:
            click.echo(f"otel-epping: {capabilities.describe(feed.kept)}", err=True)
        if options.is_batch:
            _print_live(feed, session, view, options)
        else:
            _show(session, feed, feed.name, view, options, files)


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Handles a signal. The command ends after the program is detached."""
    raise SystemExit(128 + number)


def _show_captures(settings: Settings, files: FilesFollower, view: View, options: Options) -> None:
    """Shows the readable parts of captures. Prints all failures but the last, which is raised as EppingError."""
    names = ["standard input" if file == STANDARD_INPUT else escaped_path(file) for file in options.files]
    if view.is_redacted:
        names = [view.show(SOURCE, file) for file in options.files]
    name = names[0] if len(names) == 1 else f"{len(names)} files"
    history = _read(settings, files, options)
    session = Session(history)
    if history.failures and not history.total().agent_sum(metric_table.INTERFACE_PACKETS.name):
        raise last_error(history.failures)
    if options.is_batch:
        frame = session.frame(None, view.group_by, view.filter.methods)
        why = reasons(frame, name, causes=history.causes, is_live=False)
        notes = [note for note in history.notes if note not in history.failures]
        if view.is_redacted:
            notes = redacted_notes(notes, options.files, view.show)
        click.echo(Printer(options.format, name).output(frame, view, why, notes))
    else:
        _show(session, None, name, view, options, files)
    if history.failures:
        raise last_error(history.failures)


def _view(settings: Settings, files: FilesFollower, options: Options) -> View:
    """Returns the first view. Raises EppingError if the filter or the column is invalid."""
    tags = frozenset(files.networks.tags if files.networks else ())
    parsed = filter.parse(escaped(options.words), tags)
    if parsed.problems:
        raise EppingError(f"--filter: {'; '.join(parsed.problems)}")
    if options.sort not in (*BY_KEY, SORT_BY_NAME):
        raise EppingError(f"--sort: there is no column {options.sort}: columns are {', '.join(BY_KEY)}, {SORT_BY_NAME}")
    show = Pseudonyms() if options.redact else unchanged
    return View(
        None if options.files else 60.0, settings.group_by, parsed, options.sort, options.sort == SORT_BY_NAME, show
    )


def _grouping(files: FilesFollower) -> Grouping:
    """Returns the grouping of the session.

    Lines have all tags, because filters and groups can use each tag. settings.network_tags selects exported tags only.
    """
    tags = files.networks.tags if files.networks else ()
    return Grouping(SUBNET, tags, files.databases)


def _read(settings: Settings, files: FilesFollower, options: Options) -> History:
    with progress_bar("reading", sum(map(_size, options.files))) as progress:
        return read_captures(
            options.files,
            settings.kernel,
            grouping=_grouping(files),
            networks=files.networks,
            progress=progress,
        )


def _size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).is_file() else 0


class _LogLines(logging.Handler):
    """Keeps the latest log messages for the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        message = printable(redaction.redact(record.getMessage()))
        self.lines.append(f"{text.clock(round(record.created * 1e9))} {message}")


def _load_screen() -> None:
    """Imports the modules of the screen. Raises EppingError if a package is not installed."""
    try:
        import_module("otel_epping.top.app")
    except ImportError as error:
        if error.name and error.name.partition(".")[0] in ("textual", "rich"):
            raise EppingError("the screen needs textual: pip install 'otel-epping[top]', or use --batch") from error
        raise


def _show(
    session: Session, feed: WatchedInterfaces | None, name: str, view: View, options: Options, files: FilesFollower
) -> None:
    """Shows the screen until the user ends it.

    Raises EppingError after an exception in a handler of the screen. Textual has already printed the traceback.
    """
    from otel_epping.top.app import TopApp
    from otel_epping.top.widgets import Failed, Updated

    # With these variables, textual would ignore the size of the terminal, and each change of the size.
    for variable in ("COLUMNS", "LINES"):
        os.environ.pop(variable, None)
    log = _LogLines()
    logging.getLogger().addHandler(log)
    tags = frozenset(files.networks.tags if files.networks else ())
    request = FrameRequest(view.window_s, view.group_by, view.filter.methods)
    measuring = Measuring(
        session,
        feed,
        name,
        options.delay_s,
        request,
        lambda update: app.post_message(Updated(update)),
        lambda error: app.post_message(Failed(error)),
    )
    problem = "; ".join(session.history.failures)
    app = TopApp(view, measuring.ask, log.lines, tags=tags, is_live=feed is not None, problem=problem)
    with prepared_terminal():
        measuring.start()
        try:
            result = app.run()
        finally:
            measuring.end()
            logging.getLogger().removeHandler(log)
    if app.error:
        raise app.error
    if app.return_code:
        raise EppingError("the screen has ended because of an error in otel-epping")
    if result:
        click.echo(result)


def _print_live(feed: WatchedInterfaces, session: Session, view: View, options: Options) -> None:
    """Prints a table after each delay. After SIGINT or SIGTERM, prints the counts since the last table, and returns."""
    stop = Stop("stopped at once; the last table may be incomplete")
    printer = Printer(options.format, feed.name)
    due_s, printed = time.monotonic(), 0
    while not stop.is_set() and printed != options.iterations:
        due_s = max(due_s + options.delay_s, time.monotonic())
        feed.wait(due_s, stop.wait)
        slice = session.take(feed)
        frame = session.frame((slice.end_ns - slice.begin_ns) / 1e9 * 0.99, view.group_by, view.filter.methods)
        why = reasons(frame, feed.name, feed.faults, feed.other_traffic(), is_live=True)
        if output := printer.output(frame, view, why):
            click.echo(output)
        printed += 1
