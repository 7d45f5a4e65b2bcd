# SPDX-License-Identifier: Apache-2.0
"""Numbers for lines, methods and columns. A column holds one counter of each line."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from otel_epping.history.line import Line
from otel_epping.kernel.arrays import Flags, Indexes
from otel_epping.otel.metric_table import METRICS
from otel_epping.otel.semconv import ATTRIBUTES

_T = TypeVar("_T", bound=Hashable)
_N = TypeVar("_N", bound="Numbers[Any]")

_SHORT = {name: attribute.short for name, attribute in ATTRIBUTES.items()}
_CURRENT = frozenset(metric.name for metric in METRICS if metric.kind != "counter")


class Numbers(Generic[_T]):
    """Gives numbers to keys: 0 to the first key, 1 to the next. Equal keys have the same number."""

    def __init__(self) -> None:
        self._numbers: dict[_T, int] = {}
        self._keys: list[_T] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> _T:
        return self._keys[number]

    def __iter__(self) -> Iterator[_T]:
        return iter(self._keys)

    def copy(self: _N) -> _N:
        """Returns a copy."""
        copy = type(self)()
        copy._numbers, copy._keys = self._numbers.copy(), self._keys.copy()
        return copy

    def find(self, key: _T) -> int:
        """Returns the number of a key. Gives a number to a new key."""
        if (number := self._numbers.get(key)) is None:
            number = self._numbers[key] = len(self._keys)
            self._keys.append(key)
        return number

    def get(self, key: _T) -> int | None:
        """Returns the number of a key, or None if the key has no number."""
        return self._numbers.get(key)


class ColumnKey(NamedTuple):
    """A counter: a metric and the values of the attributes that do not belong to the line.

    metric      the name of the metric
    attributes  (name, value) for each attribute, sorted; the names are the short names of the setting `attributes`:
                direction, traffic_class, ecn, opening, closing, interface, kind, outcome...
    """

    metric: str
    attributes: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, metric: str, attributes: Mapping[str, Any]) -> "ColumnKey":
        """Returns the column of a data point. The names of the attributes are the exported names (semconv.py)."""
        return cls(metric, tuple(sorted((_SHORT.get(name) or name, str(each)) for name, each in attributes.items())))

    @property
    def is_current(self) -> bool:
        """True for current values, such as the number of active flows.

        The value of a period is the last value in the period.
        """
        return self.metric in _CURRENT

    def matches(self, metric: str, attributes: Mapping[str, str]) -> bool:
        """Returns true if this is a column of `metric`, and has all given attributes."""
        return self.metric == metric and attributes.items() <= dict(self.attributes).items()


class ColumnNumbers(Numbers[ColumnKey]):
    """Gives numbers to columns.

    current  the numbers of the columns with current values
    """

    def __init__(self) -> None:
        super().__init__()
        self.current: set[int] = set()

    def copy(self) -> "ColumnNumbers":
        """Returns a copy."""
        copy = super().copy()
        copy.current = self.current.copy()
        return copy

    def find(self, key: ColumnKey) -> int:
        """Returns the number of a column. Gives a number to a new column."""
        number = super().find(key)
        if key.is_current:
            self.current.add(number)
        return number

    def matching(self, metric: str, attributes: Mapping[str, str]) -> list[int] | None:
        """Returns the numbers of the columns of `metric` that have all given attributes.

        Returns None if no column of `metric` has attributes with these names. In this case, the counts are unknown.
        """
        columns = [(number, column) for number, column in enumerate(self) if column.metric == metric]
        if not any(attributes.keys() <= dict(column.attributes).keys() for _, column in columns):
            return None
        return [number for number, column in columns if column.matches(metric, attributes)]


class Numbering:
    """The numbers that a history and the sources of the history share.

    lines    the networks or groups for which the rows of a table stand
    columns  the counters of lines
    methods  the names of the methods of histograms. "" stands for RTTs of all methods, as on the overflow point
    """

    def __init__(self) -> None:
        self.lines = Numbers[Line]()
        self.columns = ColumnNumbers()
        self.methods = Numbers[str]()
        self._are_networks: Flags = np.zeros(0, np.bool_)

    def copy(self) -> "Numbering":
        """Returns a copy. The copy does not change when a source gives more numbers."""
        copy = Numbering()
        copy.lines, copy.columns, copy.methods = self.lines.copy(), self.columns.copy(), self.methods.copy()
        copy._are_networks = self._are_networks
        return copy

    def grouped(self, key: Callable[[Line], Line]) -> "tuple[Indexes, Numbering]":
        """Returns the number of the group of each line, and the numbering of the groups.

        `key` returns the line of the group to which a line belongs. Columns and methods keep their numbers.
        """
        numbering = Numbering()
        numbering.columns, numbering.methods = self.columns.copy(), self.methods.copy()
        return np.array([numbering.lines.find(key(line)) for line in self.lines], np.int64), numbering

    def are_networks(self) -> Flags:
        """Returns an array that is true for each line that is not OVERFLOW or UNANSWERED: (lines,)."""
        known = len(self._are_networks)
        if known < len(self.lines):
            new = [self.lines[number].is_network for number in range(known, len(self.lines))]
            self._are_networks = np.concatenate([self._are_networks, np.array(new, np.bool_)])
        return self._are_networks
