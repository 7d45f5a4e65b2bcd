# SPDX-License-Identifier: Apache-2.0
"""`otel-epping replay`: the kernel program over captures, one after the other, and what it made of them.

Packets are fed in the order of the files, and in each file in its order, whatever their times say. Where time goes
back, as it does between the queues of a network card, an answer earlier than its question gives no round-trip time; how
often that may have happened is told.

All that can be read is read: a file that is torn, damaged or no capture keeps none of the others from being read. How
reading ends makes no difference: the result is what was read until then, after Ctrl-C, too.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from otel_epping.errors import EppingError
from otel_epping.events.formats import Writer
from otel_epping.events.idle_flows import Timeouts
from otel_epping.events.ring_buffer import EventReader
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import Reading
from otel_epping.otel.export_status import Delivery
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.pipeline import Pipelines, exporter_classes
from otel_epping.otel.variables import standard
from otel_epping.process import logs, redaction
from otel_epping.process.signals import enable_keyboard_interrupt
from otel_epping.replay import table
from otel_epping.replay.capture import STANDARD_INPUT, Batch, Capture, CaptureError
from otel_epping.replay.replayer import GREATEST_WIRE_LENGTH, UNTIMED_NS, Replayer

# How often idle flows are looked for, in the capture's own time. Each time takes a millisecond.
_IDLE_CHECK_INTERVAL_NS = 10_000_000_000


def run(paths: Sequence[str], config: EppingConfig, events: str | None = None, otlp: bool = False) -> bool:
    """Replays captures and prints the result, or with a format for `events` each event; exports it if `otlp`.

    Returns whether reading came to its end: False after Ctrl-C, and then nothing is exported. Raises EppingError for
    what is wrong with files, when the result of all that could be read is printed, and for a failed export: its message
    is the last failure; a line for each other one was printed before.
    """
    # What is wrong with the variables or with all files is reported before a second of compiling.
    variables = standard.read() if otlp else None
    if variables:
        exporter_classes(variables.exporters)
    captures = _Captures(paths)
    failures = captures.failures
    first = next(captures, None)
    if first is None:
        raise _last(failures)
    finished = True
    with first, closing(Replayer(replace(config, events=events is not None))) as replayer:
        reader = replayer.reader()
        told = _Events(replayer, events) if events else None
        began = time.monotonic()
        enable_keyboard_interrupt()
        try:
            with _progress(paths, events) as progress:
                capture: Capture | None = first
                while capture:
                    captures.feed(capture, replayer, told, progress)
                    capture = next(captures, None)
        except KeyboardInterrupt:
            finished = False
        seconds = time.monotonic() - began
        # Before any reading: what ends an interval hands its extremes to all readers that there are.
        export = _Export(replayer, variables) if variables and finished and replayer.latest_ns else None
        reading = reader.read()
        count = sum(table.packets(reading).values()) + replayer.too_short
        files = f"{captures.read:,} file{'s' * (captures.read != 1)}"
        span_s = max(0, replayer.latest_ns - replayer.started_ns) / 1e9
        lines = [
            f"{files}: {count:,} packets of {span_s:,.3f} s, replayed in {seconds:.3f} s "
            f"({count / seconds:,.0f} a second)",
            *_remarks(replayer, reading, told),
            *captures.remarks(),
        ]
        if told:
            told.close()
            click.echo("\n".join(lines), err=True)
        elif count or not failures:
            click.echo("\n".join([table.table(reading, replayer.config), "", *lines]))
        if export:
            failures += export.failures()
        elif otlp and finished:
            failures.append("nothing to export: no packet has a time")
    if failures:
        raise _last(failures)
    return finished


def _last(failures: list[str]) -> EppingError:
    """The last of the failures, as an error; prints the others, each in a line of its own."""
    for failure in failures[:-1]:
        click.echo(logs.exit_message(redaction.redact(failure)), err=True)
    return EppingError(failures[-1])


class _Captures(Iterator[Capture]):
    """Opens captures, in the order of their names; a file that has two names is read once.

    failures  what is wrong with those that could not be read, or not to their end
    read      how many were read, or at least some packets of them
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.failures: list[str] = []
        self.read = 0
        self._paths = iter(paths)
        self._seen: set[tuple[int, int]] = set()
        self._repeated: list[str] = []
        self._too_late: list[str] = []

    def __next__(self) -> Capture:
        for path in self._paths:
            if self._is_repeated(path):
                continue
            try:
                capture = Capture(path)
            except CaptureError as error:
                self.failures.append(str(error))
                continue
            return capture
        raise StopIteration

    def _is_repeated(self, path: str) -> bool:
        try:
            status = os.fstat(0) if path == STANDARD_INPUT else Path(path).stat()
        except OSError:
            return False  # opening the file fails, too, and says why
        file = status.st_dev, status.st_ino
        if file in self._seen:
            self._repeated.append("standard input" if path == STANDARD_INPUT else path)
            return True
        self._seen.add(file)
        return False

    def feed(
        self, capture: Capture, replayer: Replayer, events: "_Events | None", progress: Callable[[int], object]
    ) -> None:
        """All of a capture, or as much as is whole; `progress` is told how many bytes of the file were read."""
        position, ended_ns, begun, empty = 0, replayer.latest_ns, False, True
        try:
            with capture:
                for batch in capture.ethernet_batches():
                    self.read += empty
                    empty = False
                    if not begun and (timed := batch.times_ns != UNTIMED_NS).any():
                        begun = True
                        if batch.times_ns[timed][0] < ended_ns:
                            self._too_late.append(capture.name)
                    if events:
                        events.feed(batch)
                    else:
                        _feed_batch(replayer, batch)
                    progress(capture.position - position)
                    position = capture.position
        except CaptureError as error:
            self.failures.append(str(error))
        else:
            self.read += empty

    def remarks(self) -> Iterator[str]:
        """Lines on the order and the names of files."""
        if self._too_late:
            count, first = len(self._too_late), self._too_late[0]
            yield (
                f"{count:,} file{'s begin' if count > 1 else ' begins'} before a file named earlier ends, the first is "
                f"{first}: name files in the order of their time, or merge them by mergecap"
            )
        for path in dict.fromkeys(self._repeated):
            yield f"{path} is a file that was named before: read once"


def _feed_batch(replayer: Replayer, batch: Batch) -> None:
    replayer.feed(batch.buffer, batch.starts, batch.captured, batch.original, batch.times_ns)


@contextmanager
def _progress(paths: Sequence[str], events: str | None) -> Iterator[Callable[[int], object]]:
    """What is to be told of the bytes that were read; a bar on the terminal, if standard error is one."""
    total = sum(_size(path) for path in paths)
    # It would write between the lines of events.
    if not total or not sys.stderr.isatty() or (events and sys.stdout.isatty()):
        yield lambda _: None
        return
    with click.progressbar(length=total, label="replaying", file=sys.stderr, update_min_steps=total // 500) as bar:
        yield bar.update


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


class _Events:
    """Feeds packets and writes the program's events to standard output as they come.

    The events and their order depend on the packets alone, not on how they are split into batches: idle flows are
    closed in front of the first packet that is _IDLE_CHECK_INTERVAL_NS after the last check, at that packet's time.
    """

    def __init__(self, replayer: Replayer, format: str) -> None:
        self._replayer = replayer
        self._reader = EventReader(replayer)
        self._timeouts = Timeouts(replayer, self._reader.dtype)
        self._due_ns = UNTIMED_NS + 1
        self._writer = Writer(format, sys.stdout, lambda time_ns: time_ns)

    @property
    def lost(self) -> int:
        return self._reader.lost

    def feed(self, batch: Batch) -> None:
        begin = 0
        while begin < len(batch):
            due = np.flatnonzero(batch.times_ns[begin:] >= self._due_ns)
            end = begin + int(due[0]) if len(due) else len(batch)
            _feed_batch(self._replayer, batch.take(slice(begin, end)))
            self._writer.write(self._reader.read())
            if len(due):
                now_ns = int(batch.times_ns[end])
                self._writer.write(self._timeouts.close_idle(now_ns))
                self._due_ns = now_ns + _IDLE_CHECK_INTERVAL_NS
            begin = end
        sys.stdout.flush()

    def close(self) -> None:
        self._writer.close()
        sys.stdout.flush()


class _Export(Delivery):
    """Exports the result, once, as the standard OTEL_* variables say."""

    def __init__(self, replayer: Replayer, variables: standard.Standard) -> None:
        super().__init__()
        self._results: dict[str, Failure | None] = {}
        variables.apply()
        self._pipelines = Pipelines(replayer, None, self, variables=variables)

    def __call__(self, exporter: str, failure: Failure | None) -> None:
        self._results[exporter] = failure

    def failures(self) -> list[str]:
        """Exports; what went wrong, if anything did."""
        self._pipelines.shutdown()
        if not self._results:
            return ["nothing was exported: OTEL_METRICS_EXPORTER names nobody who would be sent to"]
        return [
            f"the result was not delivered, is OTEL_EXPORTER_OTLP_ENDPOINT right? {self.cause(failure)}"
            for failure in self._results.values()
            if failure
        ]


def _counts(counts: dict[str, int], separator: str = ", ") -> str:
    """Those that aren't zero."""
    return separator.join(f"{count:,} {name}" for name, count in counts.items() if count)


def _remarks(replayer: Replayer, reading: Reading, events: "_Events | None") -> Iterator[str]:
    """Lines on what was not measured, and why."""
    packets = table.packets(reading)
    ends = table.account(reading, replayer.waiting())
    begun = ends.pop("begun")
    yield f"RTTs begun: {begun:,}" + (f" = {_counts(ends, ' + ')}" if begun else "")
    if clamped := table.clamped(reading):
        yield f"of these, {clamped:,} clamped to the range of the histograms (1 us to 64 s)"
    if not_begun := table.not_begun(reading):
        yield f"RTTs not begun, since four of the same direction waited: {not_begun:,}"
    if packets["tcp"]:
        yield f"TCP without timestamps: {table.share_without_timestamps(reading):.1%} of {packets['tcp']:,} packets"
    if faults := _counts(table.timestamp_faults(reading)):
        yield f"timestamps that sequence numbers took over from: {faults}"
    if duplicates := table.duplicates(reading):
        yield f"packets captured twice, measured once: {duplicates:,}"
    odd = {"not IP": packets["non_ip"], "malformed": packets["malformed"] - replayer.cut_malformed}
    odd["fragments"] = packets["fragment"]
    odd["cut within a header by the snap length"] = replayer.cut_too_short + replayer.cut_malformed
    odd["shorter than a link or IP header"] = replayer.too_short - replayer.cut_too_short
    odd["without a time"] = replayer.untimed
    odd[f"counted as of {GREATEST_WIRE_LENGTH:,} bytes, for they are longer"] = replayer.too_long
    if any(odd.values()):
        yield f"packets that cannot be measured: {_counts(odd)}"
    if replayer.steps_back:
        yield (
            f"time goes back {replayer.steps_back:,} times, by up to {replayer.step_back_ns / 1e9:,.6f} s: "
            "an answer earlier than its question gives no RTT"
        )
    if events and events.lost:
        yield f"{events.lost:,} events were lost"
