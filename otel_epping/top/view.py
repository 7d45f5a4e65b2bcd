# SPDX-License-Identifier: Apache-2.0
"""The choices of the user. Selects and sorts the lines of a frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from otel_epping.history.line import Line
from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.kernel.arrays import Flags, Indexes
from otel_epping.networks.pseudonyms import Show, unchanged
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET
from otel_epping.top.columns import BY_KEY, DEFAULT_SORT
from otel_epping.top.filter import NetworkFilter
from otel_epping.top.frame import Frame

SORT_BY_NAME = "network"
_GROUP_WORDS = {ASN: "AS"}
# Windows in seconds; None is the whole session.
WINDOWS_S: tuple[float | None, ...] = (10.0, 60.0, 300.0, None)


@dataclass(frozen=True)
class View:
    """The choices of the user.

    window_s   the duration of the window in seconds; None is the whole session
    group_by   the attribute by which networks are grouped (Line.grouped())
    filter     the filter
    sort       the key of the column, or SORT_BY_NAME
    ascending  true if the order is reversed. By default, the greatest value or the first name comes first
    show       returns the text to show for a name or an address
    """

    window_s: float | None = 60.0
    group_by: str = SUBNET
    filter: NetworkFilter = field(default_factory=NetworkFilter)
    sort: str = DEFAULT_SORT
    ascending: bool = False
    show: Show = unchanged

    @property
    def is_redacted(self) -> bool:
        """True if pseudonyms are shown."""
        return self.show is not unchanged

    @property
    def filter_text(self) -> str:
        """The text to show for the filter; "" without a filter. The words of a filter can be names and addresses."""
        return "(hidden)" if self.filter.text and self.is_redacted else self.filter.text

    def label(self, line: Line) -> str:
        """Returns the text that names a line."""
        if not line.is_network:
            return line.label
        if self._is_without_group(line):
            return f"no {_GROUP_WORDS.get(self.group_by, self.group_by)}"
        kind = "network" if line.name else "subnet" if line.subnet else "group"
        return self.show(kind, line.label)

    def group(self, line: Line) -> str:
        """Returns the text that names the group of a line, or "" if the line is not a group with a name."""
        if self.group_by == SUBNET or not line.is_network or self._is_without_group(line):
            return ""
        return self.label(line)

    def _is_without_group(self, line: Line) -> bool:
        """Returns true for the sum of all networks without the attribute by which networks are grouped."""
        return self.group_by != SUBNET and not line.has_group

    def are_without_group(self, lines: Sequence[Line]) -> Flags:
        """Returns an array that is true for each sum of the networks without the attribute of groups: (lines,)."""
        if self.group_by == SUBNET:
            return np.zeros(len(lines), np.bool_)
        return np.array([self._is_without_group(line) for line in lines], np.bool_)

    def system(self, line: Line) -> str:
        """Returns the AS and its organisation."""
        if line.as_number is None:
            return ""
        number, organization = self.show("AS", f"AS{line.as_number}"), line.as_organization
        return f"{number} {self.show('organization', organization) if organization else ''}".rstrip()

    def interface(self, line: Line) -> str:
        """Returns the interface, or ""."""
        return self.show("interface", line.interface) if line.interface else ""

    def cell(self, line: Line, field: str) -> str:
        """Returns the text of a column of text (columns.Layout)."""
        if field == "label":
            return self.label(line)
        if field == "system":
            return self.system(line)
        if field == "interface":
            return self.interface(line)
        if field == "side":
            return line.side[:3]
        return str(getattr(line, field))


def shown_lines(frame: Frame, view: View) -> Indexes:
    """Returns the numbers of the lines to show, in order.

    Lines that sum many networks come last. If the table is sorted by an RTT, lines with few samples come after all
    other networks, because the RTTs of these lines are uncertain. Lines without a value come after lines with a value.
    """
    are_networks = frame.total.numbering.are_networks()
    shown = np.flatnonzero(frame.present & (view.filter.matching(frame) | ~are_networks))
    if view.filter.text:
        shown = shown[are_networks[shown]]
    if view.sort == SORT_BY_NAME:
        labels = [frame.lines[line].label.casefold() for line in shown.tolist()]
        order = sorted(range(len(labels)), key=labels.__getitem__, reverse=view.ascending)
        shown = shown[np.array(order, np.int64)]
        return shown[np.argsort(~are_networks[shown], kind="stable")]
    column = BY_KEY[view.sort]
    values = column.values(frame)[shown]
    samples = frame.statistics.samples[shown]
    is_uncertain = (samples < MIN_SAMPLES) & column.is_time
    key = np.where(np.isnan(values), np.inf, values if view.ascending else -values)
    # The last key is the first in the order. Lines with equal values are in the order of traffic.
    traffic = -np.nan_to_num(frame.statistics.packets[shown])
    return shown[np.lexsort((traffic, key, np.isnan(values), is_uncertain, ~are_networks[shown]))]


def group_names(lines: Sequence[Line]) -> list[str]:
    """Returns the attributes by which lines can be grouped."""
    found = [SUBNET]
    for group, has_group in (
        (NAME, any(line.name for line in lines)),
        (ASN, any(line.as_number is not None for line in lines)),
        (COUNTRY, any(line.country for line in lines)),
    ):
        found += [group] * has_group
    return found + list(dict.fromkeys(tag for line in lines for tag, _ in line.tags))
