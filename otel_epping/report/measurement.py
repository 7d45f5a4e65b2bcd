# SPDX-License-Identifier: Apache-2.0
"""A measurement, and the statistics that several sections of a report need."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.history import History
from otel_epping.history.line import Line
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.load import LoadLatency, latency_under_load
from otel_epping.history.statistics import LineStatistics, line_statistics
from otel_epping.history.total import Total
from otel_epping.kernel.arrays import Indexes
from otel_epping.networks.pseudonyms import Show
from otel_epping.process.escaping import printable
from otel_epping.report.timeline import PeriodTable, step_of

# The quantiles of all networks, for the sections about distributions.
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class LineTexts:
    """The texts of lines: of networks, AS, tags and interfaces. `show` returns a text itself, or its pseudonym."""

    def __init__(self, show: Show) -> None:
        self._text = show

    def _show(self, kind: str, text: str) -> str:
        """Returns the text or its pseudonym. A source may contain texts that UTF-8 cannot encode."""
        return printable(self._text(kind, text))

    def name(self, line: Line) -> str:
        """Returns the text that names the line."""
        if not line.is_network:
            return line.label
        if line.name:
            return self._show("network", line.name)
        if line.subnet:
            return self._show("subnet", line.subnet)
        if line.as_number is not None:
            return self.autonomous_system(line)
        return ", ".join(self._show(tag, text) for tag, text in line.tags) or printable(line.label)

    def autonomous_system(self, line: Line) -> str:
        """Returns the number and the organisation of the AS, or ""."""
        number = "" if line.as_number is None else self._show("AS", f"AS{line.as_number}")
        organization = self._show("organization", line.as_organization) if line.as_organization else ""
        return f"{number} {organization}".strip()

    def tags(self, line: Line) -> str:
        """Returns the values of the tags, or ""."""
        return ", ".join(self._show(tag, text) for tag, text in line.tags)

    def country(self, line: Line) -> str:
        """Returns the country, or ""."""
        return printable(line.country)

    def agent(self, line: Line) -> str:
        """Returns the agent, or ""."""
        return self._show("agent", line.agent) if line.agent else ""

    def interface(self, line: Line) -> str:
        """Returns the interface, or ""."""
        return self._show("interface", line.interface) if line.interface else ""


@dataclass(frozen=True)
class Source:
    """A source of the report: its counts, and its title in the report."""

    title: str
    history: History


class Measured:
    """A history, its statistics, and the texts of its lines.

    title    names the source
    history  the counts
    names    the text of each line. All texts are different
    """

    def __init__(self, source: Source, names: LineTexts) -> None:
        self.title = source.title
        self.history = source.history
        self.texts = names
        self.lines = self.history.lines
        self.total: Total = self.history.total()
        self.statistics: LineStatistics = line_statistics(self.total)
        self.rtts: LineRtts = self.total.rtts()
        self.names = self._unique_names()
        self.is_network = np.array([line.is_network for line in self.lines], np.bool_)

    @cached_property
    def networks(self) -> Indexes:
        """The numbers of all networks with packets or RTTs, sorted by impact. The worst network is the first."""
        numbers = np.flatnonzero(self.total.present() & self.is_network)
        impact = self.statistics.impact[numbers]
        excess = np.nan_to_num(self.statistics.excess[numbers], nan=-1)
        # Without counts of bytes, the impact is unknown, and the networks are sorted by excess.
        order = np.lexsort((-excess, -np.nan_to_num(impact, nan=-1)))
        return np.asarray(numbers[order])

    @cached_property
    def measured(self) -> Indexes:
        """The numbers of all networks with RTTs, sorted by impact. The worst network is the first."""
        return np.asarray(self.networks[self.statistics.samples[self.networks] > 0])

    @cached_property
    def interfaces(self) -> list[str]:
        """The texts of all interfaces."""
        return sorted({self.texts.interface(line) for line in self.lines} - {""})

    @property
    def samples(self) -> int:
        """Number of RTTs of all lines."""
        return int(self.statistics.samples.sum())

    @cached_property
    def quantiles(self) -> dict[float, Floats]:
        """The quantiles of each line in seconds, for each of QUANTILES."""
        return dict(zip(QUANTILES, self.rtts.quantiles(*QUANTILES), strict=True))

    @cached_property
    def step_ns(self) -> int:
        """The length of a period of the timeline, ns."""
        return step_of(self.history)

    @cached_property
    def load(self) -> LoadLatency:
        """The latency under load of each line."""
        return latency_under_load(self.history)

    @cached_property
    def sides(self) -> list[str]:
        """The sides on which there are networks with RTTs."""
        found = {self.lines[number].side for number in self.measured.tolist()}
        return [side for side in ("internal", "external", "unknown", "") if side in found]

    @cached_property
    def side_numbers(self) -> Indexes:
        """For each line, the position of its side in `sides`. Lines that are not networks with RTTs have len(sides)."""
        found = np.full(len(self.lines), len(self.sides), np.int64)
        for number in self.measured.tolist():
            found[number] = self.sides.index(self.lines[number].side)
        return found

    def by_side(self, rtts: LineRtts) -> LineRtts:
        """Returns the sum of the RTTs of each side: a row for each of `sides`, and a row for all other lines."""
        sums = LineRtts(len(self.sides) + 1)
        parts = rtts.as_rtts(0)
        sums.add(replace(parts, lines=self.side_numbers[parts.lines]))
        return sums

    def timeline(self, progress: Callable[[int], object]) -> PeriodTable:
        """Returns the statistics of each period. The first call computes the statistics.

        `progress` is called with the number of slices that were used since the last call.
        """
        if self._timeline is None:
            self._timeline = PeriodTable(self.history, self.step_ns, self.by_side, progress)
        return self._timeline

    _timeline: PeriodTable | None = None

    def _unique_names(self) -> list[str]:
        """Returns the name of each line. If several lines have the same name, side, interface and agent are added."""
        names = [self.texts.name(line) for line in self.lines]
        repeated = {name for name, number in Counter(names).items() if number > 1}
        seen: Counter[str] = Counter()
        for number, line in enumerate(self.lines):
            if (name := names[number]) in repeated:
                place = ", ".join(filter(None, (line.side, self.texts.interface(line), self.texts.agent(line))))
                name = f"{name} ({place})" if place else name
            seen[name] += 1
            names[number] = name if seen[name] == 1 else f"{name} #{seen[name]}"
        return names
