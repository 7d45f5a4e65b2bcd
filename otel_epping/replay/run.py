# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping replay`: runs the kernel program on captures, and prints and exports the result.

Files are processed in the given order. The packets of a file are processed in the order of the file, not in the
order of their timestamps. Timestamps may go backwards, for example between packets from different queues of a network
card. If the timestamp of a reply is earlier than the timestamp of its request, no RTT is measured. The report shows how
often timestamps went backwards.

Each readable file is processed, even if another file is truncated, is damaged, or is not a capture. The report includes
all packets that were read, even if the replay was stopped by Ctrl-C.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace

import click

from otel_epping.errors import EppingError
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.network import Networks
from otel_epping.networks.pseudonyms import Show, unchanged
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.export_status import ExportStatus
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.pipeline import Pipelines, exporter_classes
from otel_epping.otel.variables import standard
from otel_epping.process import logs, redaction
from otel_epping.process.signals import enable_keyboard_interrupt
from otel_epping.replay.event_printer import EventPrinter
from otel_epping.replay.input_files import InputFiles
from otel_epping.replay.progress import progress_bar
from otel_epping.replay.replayer import Replayer
from otel_epping.replay.report import packet_count, report
from otel_epping.replay.subnet_table import table
from otel_epping.series.grouping import Grouping


def run(
    paths: Sequence[str],
    config: EppingConfig,
    events: str | None = None,
    otlp: ExportSettings | None = None,
    grouping: Grouping | None = None,
    networks: Networks | None = None,
    show: Show = unchanged,
) -> bool:
    """Replays captures and prints the result. If `otlp` is not None, also exports the result.

    `grouping` says what a line of the table stands for. `networks` are the named networks. `show` returns the text to
    print for an address or a name.

    `events` is None or one of events.formats.FORMATS. If `events` is a format, each event is printed to standard output
    in this format, and the report is printed to standard error. Returns True if all files were processed. After Ctrl-C,
    exports nothing and returns False.

    Raises EppingError if a file could not be read or the export failed. Prints the result of all readable files before
    it raises the exception. If several failures occurred, the exception contains the last failure, and the other
    failures are printed.
    """
    # The variables are checked and the first file is opened before the program is compiled, because the compilation
    # takes a second.
    variables = standard.read() if otlp else None
    if variables:
        exporter_classes(variables.exporters)
    files = InputFiles(paths)
    if files.none_readable:
        raise last_error(files.failures)
    with closing(Replayer(replace(config, events=events is not None), networks)) as replayer:
        session = ReplaySession(replayer, files, events, grouping or Grouping(), show)
        session.process_files()
        is_complete = session.is_complete and bool(replayer.latest_ns)
        # The reader of the export must exist before the report reads the counts. When the counts are read, only the
        # readers that already exist receive the minima and maxima of the interval.
        export = _Exporting(replayer, variables, otlp) if otlp and variables and is_complete else None
        session.print_result()
        failures = files.failures
        if export:
            failures += export.run()
        elif otlp and session.is_complete:
            failures.append("nothing was exported: no packet has a valid timestamp")
    if failures:
        raise last_error(failures)
    return session.is_complete


def last_error(failures: Sequence[str]) -> EppingError:
    """Prints all failures except the last, one per line. Returns an exception with the last failure."""
    for failure in failures[:-1]:
        click.echo(logs.exit_message(redaction.redact(failure)), err=True)
    return EppingError(failures[-1])


class ReplaySession:
    """One replay: feeds the packets of all files to the kernel program, and prints the result.

    is_complete   True if process_files() reached the end of the last file. It stays False after Ctrl-C.
    """

    def __init__(
        self, replayer: Replayer, files: InputFiles, event_format: str | None, grouping: Grouping, show: Show
    ) -> None:
        self.is_complete = False
        self._replayer = replayer
        self._files = files
        self._grouping, self._show = grouping, show
        self._reader = replayer.reader()
        self._events = EventPrinter(replayer, event_format, show) if event_format else None
        self._seconds = 0.0

    def process_files(self) -> None:
        """Feeds the packets of all files to the kernel program. Stops at the end of the last file, or at Ctrl-C."""
        feed = self._events.feed if self._events else self._replayer.feed
        started_s = time.monotonic()
        enable_keyboard_interrupt()
        try:
            with self._progress() as progress:
                for batch in self._files.batches(progress):
                    feed(batch)
            self.is_complete = True
        except KeyboardInterrupt:
            pass
        self._seconds = time.monotonic() - started_s

    def print_result(self) -> None:
        """Prints the table of subnets and the report.

        If the events were printed to standard output, does not print the table, and prints the report to standard
        error.
        """
        reading = self._reader.read()
        events_lost = self._events.lost if self._events else 0
        lines = list(report(self._replayer, reading, self._files, self._seconds, events_lost))
        if self._events:
            self._events.close()
            click.echo("\n".join(lines), err=True)
        elif packet_count(self._replayer, reading) or not self._files.failures:
            networks = table(reading, self._reader, self._replayer, self._grouping, self._show)
            click.echo("\n".join([networks, "", *lines]))

    def _progress(self) -> AbstractContextManager[Callable[[int], object]]:
        """Returns a progress bar. The bar is advanced by the number of bytes that were read since the last call."""
        # If the events are also printed to a terminal, the progress bar is not shown, because events and progress bar
        # would mix.
        is_hidden = self._events and sys.stdout.isatty()
        return progress_bar("replaying", 0 if is_hidden else self._files.total_bytes())


class _Exporting(ExportStatus):
    """Exports the result once, to the receivers that are configured by the standard OTEL_* variables."""

    def __init__(self, replayer: Replayer, variables: standard.StandardVariables, export: ExportSettings) -> None:
        super().__init__()
        self._results: dict[str, Failure | None] = {}
        variables.apply()
        self._pipelines = Pipelines(replayer, None, self, variables=variables, settings=export)

    def __call__(self, exporter: str, failure: Failure | None) -> None:
        self._results[exporter] = failure

    def run(self) -> list[str]:
        """Exports the result, and returns the failures."""
        self._pipelines.shutdown()
        if not self._results:
            return ["nothing was exported: OTEL_METRICS_EXPORTER contains no push exporter; use otlp or console"]
        return [
            f"the result was not exported: {self.cause(failure)}; is OTEL_EXPORTER_OTLP_ENDPOINT right?"
            for failure in self._results.values()
            if failure
        ]
