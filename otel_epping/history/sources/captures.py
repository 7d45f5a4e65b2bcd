# SPDX-License-Identifier: Apache-2.0
"""Makes a history from captures. The time of the history is the time of the packets."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.line import UNANSWERED, Line
from otel_epping.history.slice import Rtts, Slice
from otel_epping.history.sources.live import LiveSource
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.reading import Reading, has_owner
from otel_epping.networks.network import Networks
from otel_epping.otel import metric_table
from otel_epping.replay import counts
from otel_epping.replay.capture import PacketBatch
from otel_epping.replay.capture.packet_batch import UNTIMED_NS, Int64Array
from otel_epping.replay.input_files import InputFiles
from otel_epping.replay.replayer import Replayer
from otel_epping.replay.report import report
from otel_epping.series.grouping import NAME, SUBNET, Grouping

_MS, _S = 10**6, 10**9
_NEVER_NS = 2**63 - 1
# The possible lengths of slices. Each length is a multiple of the previous length, so that slices can be merged.
_STEPS_NS = (
    *(each * _MS for each in (10, 20, 100, 200)),
    *(each * _S for each in (1, 2, 10, 20, 60, 120, 600, 1_200, 3_600, 7_200, 21_600, 43_200, 86_400, 604_800)),
)
# If there are more slices, the length of slices is increased.
_MAX_SLICES = 200
# A longer time without packets is a gap in the measurement, for example between two files.
_MAX_GAP_NS = 3_600 * _S
# The shares of packets from which _causes() names a cause.
_NEARLY_ALL, _MANY = 0.9, 0.1


def read_captures(
    paths: Sequence[str],
    config: EppingConfig,
    *,
    grouping: Grouping | None = None,
    networks: Networks | None = None,
    step_ns: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> History:
    """Returns the history of captures: the files in `paths`, in the order of `paths`.

    grouping  the grouping of networks in lines
    networks  the named networks
    step_ns   the length of slices; by default, the shortest length with which the history has at most 200 slices
    progress  function that is called with the number of bytes that were read since the last call

    The notes of the history describe the packets and the files that are not used. Raises EppingError if no file can be
    opened.
    """
    files = InputFiles(paths)
    if files.none_readable:
        raise EppingError("; ".join(files.failures))
    began = time.monotonic()
    with closing(Replayer(config, networks)) as replayer:
        slicer = CaptureSlicer(replayer, grouping, step_ns)
        for batch in files.batches(progress):
            slicer.feed(batch)
        history = slicer.finish()
        if files.failures and not files.files_read:
            raise EppingError("; ".join(files.failures))
        lines = report(replayer, replayer.reader().read(), files, time.monotonic() - began, 0)
        history.failures = files.failures
        if not history.total().rtts().counts.any():
            history.causes = list(_causes(replayer, slicer.share_one_way))
        history.notes += [*files.failures, *lines, *slicer.notes]
    return history


def _causes(replayer: Replayer, share_one_way: float) -> Iterator[str]:
    """Yields sentences that explain why no RTT was measured."""
    packets = sum(counts.packets(replayer.reader().read()).values()) or 1
    if replayer.untimed > _NEARLY_ALL * packets:
        yield f"RTTs cannot be measured without timestamps. Packets without a valid timestamp: {replayer.untimed:,}."
    elif replayer.steps_back > _MANY * packets:
        yield (
            "A reply that is earlier than its request gives no RTT. Packets with an earlier timestamp than the "
            f"previous packet: {replayer.steps_back:,}."
        )
    if share_one_way > _NEARLY_ALL:
        yield (
            "The capture contains only one direction of the traffic, as with asymmetric routing. An RTT needs both "
            "directions."
        )


class _ReaderOfAll:
    """A reader whose readings report each subnet as answered. So each subnet has a line from the first packet.

    Otherwise, the counts of a subnet would be in the line UNANSWERED up to the first slice in which the subnet answers.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.counters_dtype, self.interfaces_dtype = reader.counters_dtype, reader.interfaces_dtype

    def read(self) -> Reading:
        reading = self._reader.read()
        return replace(reading, answered=has_owner(reading.generation))


class _CollectorOfAll:
    """A collector with readers of the class _ReaderOfAll."""

    def __init__(self, collector: EppingCollector) -> None:
        self._collector = collector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collector, name)

    def reader(self) -> _ReaderOfAll:
        return _ReaderOfAll(self._collector.reader())


class CaptureSlicer:
    """Feeds packets to a replayer, and takes a slice whenever `step_ns` of packet time have passed.

    A packet belongs to the slice in which the packet arrives, even if the packet has an earlier time. If the first
    packet of a batch is earlier than the begin of the slice by more than the length of a slice, a new slice begins.

    notes          a sentence with the number of gaps, if there are gaps
    share_one_way  0 if each subnet receives as many packets as it sends, and 1 if each subnet only sends or only
                   receives packets. Known after finish()
    """

    def __init__(self, replayer: Replayer, grouping: Grouping | None = None, step_ns: int | None = None) -> None:
        self.notes: list[str] = []
        self.share_one_way = 0.0
        grouping = grouping or Grouping()
        self._group_by = grouping.group_by
        tags = grouping.tags if self._group_by in (SUBNET, NAME) else (self._group_by,)
        # Subnets are grouped at the end, because subnets that never answer are not grouped.
        self._grouping = Grouping(tags=tags, databases=grouping.databases)
        self._replayer = replayer
        self._history = History()
        collector: Any = _CollectorOfAll(replayer)
        self._source = LiveSource(collector, self._history.numbering, self._grouping)
        self._is_automatic = step_ns is None
        self._step_ns = step_ns or _STEPS_NS[0]
        self._begin_ns = self._end_ns = 0  # the current slice; 0 before the first packet with a time
        self._latest_ns = 0  # time of the latest packet of the current slice
        self._gaps = 0

    def feed(self, batch: PacketBatch) -> None:
        """Runs the program on the packets, in the order of the batch."""
        timed = batch.times_ns[batch.times_ns != UNTIMED_NS]
        if len(timed) and not self._end_ns:
            if self._is_automatic:
                self._step_ns = _first_step(timed)
            self._begin(int(timed[0]))
            self._begin_ns = int(timed[0])
        elif len(timed) and timed[0] < self._begin_ns - self._step_ns:
            self._take()
            self._begin(int(timed[0]))
        begin = 0
        while begin < len(batch):
            due = np.flatnonzero(batch.times_ns[begin:] >= (self._end_ns or _NEVER_NS))
            end = begin + int(due[0]) if len(due) else len(batch)
            part = batch.take(slice(begin, end))
            self._replayer.feed(part)
            if len(part):
                self._latest_ns = max(self._latest_ns, int(part.times_ns.max()))
            if len(due):
                self._take()
                self._begin(int(batch.times_ns[end]))
            begin = end

    def finish(self) -> History:
        """Takes the last slice, which ends with the latest packet. Returns the history of all packets.

        The lines of the history are the lines of the table that `replay` prints.
        """
        if self._end_ns:
            self._end_ns = max(self._latest_ns, self._begin_ns)
        self._take()
        if self._gaps:
            self.notes.append(
                f"gaps of more than one hour without packets, which do not count as measured time: {self._gaps:,}"
            )
        answered = self._answered()
        sums = [self._history.total().sum(metric_table.SUBNET_PACKETS.name, direction=way) for way in ("from", "to")]
        sent, received = (np.zeros(1) if each is None else each.astype(np.float64) for each in sums)
        self.share_one_way = float(np.abs(sent - received).sum() / max((sent + received).sum(), 1))

        def group_of(line: Line) -> Line:
            return line.grouped(self._group_by) if line in answered or not line.is_network else Line(UNANSWERED)

        return self._history.group(group_of)

    def _answered(self) -> set[Line]:
        """Returns the lines of the subnets for which an RTT was measured."""
        with_rtts = np.flatnonzero(self._history.total().rtts().counts)
        final = LiveSource(self._replayer, self._history.numbering, self._grouping).take()
        numbers = np.concatenate([with_rtts, final.lines, final.rtts.lines])
        return {self._history.numbering.lines[number] for number in numbers.tolist()}

    def _begin(self, time_ns: int) -> None:
        """Begins the slice that contains a time."""
        before_ns, begin_ns = self._end_ns, time_ns // self._step_ns * self._step_ns
        self._end_ns, self._latest_ns = begin_ns + self._step_ns, 0
        # If the length of slices was increased, the first longer slice begins at the end of the last shorter slice.
        self._begin_ns = before_ns if begin_ns < before_ns <= time_ns else begin_ns
        gap_ns = self._begin_ns - before_ns
        if not before_ns or gap_ns <= 0:
            return
        if gap_ns <= _MAX_GAP_NS:
            # The time without packets is a part of the measurement.
            lines, counters = np.zeros(0, np.int64), np.zeros((0, 0), np.uint64)
            self._history.add(Slice(before_ns, self._begin_ns, lines, counters, Rtts.empty()))
        else:
            self._gaps += 1

    def _take(self) -> None:
        self._history.add(self._source.take(self._begin_ns, self._end_ns))
        while self._is_automatic and len(self._history) > _MAX_SLICES and self._step_ns < _STEPS_NS[-1]:
            self._step_ns = _STEPS_NS[_STEPS_NS.index(self._step_ns) + 1]
            self._history.coarsen(self._step_ns)


def _first_step(times_ns: Int64Array) -> int:
    """Returns the shortest length of slices with which the first packets have at most _MAX_SLICES slices.

    Most captures of a few seconds are one batch, so the slices of these captures are never merged. Each slice takes
    2 to 4 ms.
    """
    for step_ns in _STEPS_NS:
        numbers = np.unique(times_ns // step_ns)
        # A gap between packets adds one slice.
        if len(numbers) + np.count_nonzero(np.diff(numbers) > 1) <= _MAX_SLICES:
            break
    return step_ns
