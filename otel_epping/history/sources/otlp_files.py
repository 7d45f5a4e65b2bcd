# SPDX-License-Identifier: Apache-2.0
"""Reads slices from OTLP files: lines of OTLP/JSON, as the Collector's file exporter and `run --record` write them.

docs/recordings.md describes which files and which data points are usable.
"""

import re
import time
from collections.abc import Sequence

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.slice import Slice
from otel_epping.history.sources.agent_slices import EARLIEST_NS, AgentSlices, label_of, notes_of, with_names
from otel_epping.history.sources.otlp_increments import Unusable
from otel_epping.history.sources.otlp_json import NotOtlpError, ResourceData, attributes_of, decode
from otel_epping.history.sources.otlp_points import Times, sort_metric
from otel_epping.history.sources.reading import InputFile

# The points of one reading may be spread over many lines. A slice is built when no point was added to the slice for
# _SETTLED_LINES lines per agent, or when more than _MAX_POINTS points wait.
_SETTLED_LINES = 16
_MAX_POINTS = 500_000
# If a series starts at most this number of intervals before the first export, the file begins with the first interval
# of the agent. In this case, all counts of the series belong to the time of the file.
_FIRST_INTERVALS = 2
# If the slices of a history need more than _MAX_BYTES, pairs of slices are merged.
_MAX_BYTES = 400 << 20
_CHECK_SLICES = 64
# A repeated line is recognised by the length of the line, and by this number of bytes at the begin and at the end.
_COMPARED_BYTES = 4096
_FIRST_TIME = re.compile(rb'"timeUnixNano"\s*:\s*"?(\d{1,20})')
# If two consecutive slices begin more than this time apart, the clock was set between these slices.
_CLOCK_SET_NS = 366 * 86_400 * 10**9
_S = 10**9


class OtlpReader:
    """Reads OTLP files into a history. Call read() for each file in the order of time, and then finish().

    The files may contain the measurements of several agents. Cumulative counts may continue from file to file. A line
    that is repeated counts once, for example if a file was copied to the end of another file.
    """

    def __init__(self) -> None:
        self._history = History()
        self._unusable = Unusable()
        self._agents: dict[bytes, AgentSlices] = {}
        self._by_key: dict[str, AgentSlices] = {}
        self._seen: set[int] = set()  # hashes of all lines
        self._repeated = 0
        self._number = 0
        self._waiting = 0
        self._step_ns = 0

    def read(self, file: InputFile) -> None:
        """Reads a file, and closes it. Damaged lines are counted and skipped."""
        damaged: list[tuple[int, str]] = []
        number = 0
        for number, line in enumerate(file.lines(), 1):
            self._number += 1
            if not line.strip() or self._is_repeated(line):
                continue
            try:
                self._add(decode(line))
            except NotOtlpError as error:
                damaged.append((number, str(error)))
            self._build_settled()
        file.close()
        notes = self._history.notes
        if damaged:
            first, cause = damaged[0]
            which = "1 line is" if len(damaged) == 1 else f"{len(damaged):,} lines are"
            notes.append(f"{file.name}: {which} not used, of {number:,}; line {first}: {cause}")
        if file.damage:
            notes.append(f"{file.name}: {file.damage}; only the data before the damage are used")

    def finish(self) -> History:
        """Returns the history. The notes of the history describe the data that are not used."""
        agents = list(self._by_key.values())
        for agent in agents:
            for time_ns in sorted(agent.times):
                self._build(agent, time_ns)
            self._build_first(agent, None)
        self._history = _without_wrong_times(with_names(self._history, agents))
        self._history.notes.extend(notes_of(self._unusable))
        if self._repeated:
            self._history.notes.append(f"repeated lines, which count once: {self._repeated:,}")
        if self._step_ns:
            self._history.notes.append(
                f"to save memory, the intervals of {self._step_ns / _S:g} s were merged, because there were many"
            )
        return self._history

    # ---- reading

    def _is_repeated(self, line: bytes) -> bool:
        compared = hash((len(line), line[:_COMPARED_BYTES], line[-_COMPARED_BYTES:].rstrip()))
        is_known = compared in self._seen
        self._seen.add(compared)
        self._repeated += is_known
        return is_known

    def _add(self, resources: list[ResourceData]) -> None:
        for resource in resources:
            raw = bytes(resource.resource.attributes) if resource.resource else b"[]"
            agent = self._agents.get(raw) or self._new_agent(raw)
            before = sum(map(len, agent.times.values()))
            seen: Times = {}
            for scope in resource.scopeMetrics:
                for metric in scope.metrics:
                    sort_metric(metric, agent.series, seen, self._unusable)
            for time_ns, points in seen.items():
                agent.touched[time_ns] = self._number
                whole = agent.times.setdefault(time_ns, points)
                if whole is not points:
                    whole.extend(points)
            self._waiting += sum(map(len, agent.times.values())) - before

    def _new_agent(self, raw: bytes) -> AgentSlices:
        attributes = attributes_of(raw)
        everything = ", ".join(f"{name}={value}" for name, value in sorted(attributes.items()))
        key = str(attributes.get("service.instance.id") or everything)
        agent = self._by_key.get(key)
        if not agent:
            host, label = str(attributes.get("host.name", "")), label_of(len(self._by_key))
            agent = self._by_key[key] = AgentSlices(key, host, label, self._history.numbering, self._unusable)
        self._agents[raw] = agent
        return agent

    # ---- building slices

    def _build_settled(self) -> None:
        for agent in self._by_key.values():
            for time_ns in sorted(agent.times):
                is_settled = self._number - agent.touched[time_ns] >= _SETTLED_LINES * len(self._by_key)
                if is_settled or (self._waiting > _MAX_POINTS and time_ns < max(agent.times)):
                    self._build(agent, time_ns)

    def _build(self, agent: AgentSlices, time_ns: int) -> None:
        points = agent.times.pop(time_ns)
        del agent.touched[time_ns]
        self._waiting -= len(points)
        if agent.first_ns is None and points.is_cumulative:
            series = points.cumulative_series
            # The metrics of an export can have different times. A series has one point in each export.
            before_ns = next((first_ns for first_ns, first in agent.first if first.cumulative_series & series), None)
            if before_ns is None:
                agent.first.append((time_ns, points))
                return
            self._build_first(agent, agent.first[0][0] - _FIRST_INTERVALS * (time_ns - before_ns))
        self._add_slice(agent.slice(time_ns, points))

    def _add_slice(self, slice: Slice) -> None:
        self._history.add(slice)
        if len(self._history) % _CHECK_SLICES == 0 and self._history.nbytes > _MAX_BYTES:
            span_ns = self._history.end_ns - self._history.begin_ns
            self._step_ns = max(2 * self._step_ns, 2 * span_ns // len(self._history))
            self._history.coarsen(self._step_ns)

    def _build_first(self, agent: AgentSlices, first_ns: int | None) -> None:
        """Builds the slices that waited for `first_ns`.

        If the file has only one export, `first_ns` is None and all counts are used.
        """
        agent.first_ns = EARLIEST_NS if first_ns is None else first_ns
        for time_ns, points in agent.first:
            self._add_slice(agent.slice(time_ns, points))
        agent.first.clear()


def _without_wrong_times(history: History) -> History:
    """Removes the slices that are more than a year before or after most slices.

    For example, the clock of some routers starts in 1970, and is set when the router gets the time from a server.
    """
    times = np.array(history.intervals, np.int64).reshape(-1, 2)
    groups = np.cumsum(np.diff(times[:, 0], prepend=times[:1, 0]) > _CLOCK_SET_NS)
    usual = times[:, 1] - times[:, 0] <= _CLOCK_SET_NS
    if not usual.any():
        return history
    # If several groups have the same number of slices, the latest group that is not in the future is used: clocks that
    # are not set yet are in the past.
    sizes = np.bincount(groups[usual])
    largest = np.flatnonzero(sizes == sizes.max())
    begins_ns = np.array([times[groups == group, 0].min() for group in largest])
    past = int(np.count_nonzero(begins_ns <= time.time_ns()))
    kept = usual & (groups == largest[max(past - 1, 0)])
    if kept.all():
        return history
    found = history.only(kept)
    lost = int(history.total().rtts().counts.sum()) - int(found.total().rtts().counts.sum())
    found.notes.append(
        "intervals that are more than a year before or after most intervals are not used, because the clock of the "
        f"agent was wrong: {np.count_nonzero(~kept):,}, with {lost:,} RTTs"
    )
    return found


def read_otlp(files: Sequence[InputFile]) -> History:
    """Returns the history of OTLP files, in any order if the begin of each file shows its time.

    Raises EppingError if no file has usable counts.
    """
    times = [_FIRST_TIME.search(file.head) for file in files]
    begins_ns = [int(found[1]) for found in times if found]
    order = np.argsort(begins_ns, kind="stable").tolist() if len(begins_ns) == len(files) else range(len(files))
    reader = OtlpReader()
    for number in order:
        reader.read(files[number])
    history = reader.finish()
    if not len(history):
        causes = ": " + "; ".join(history.notes) if history.notes else ""
        raise EppingError(f"{', '.join(file.name for file in files)}: no counts of otel-epping{causes}")
    return history
