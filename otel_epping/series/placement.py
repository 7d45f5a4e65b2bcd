# SPDX-License-Identifier: Apache-2.0
"""Places subnets: decides to which series the counts of each subnet's rows are added.

There are three kinds of numbers. Some arrays are indexed by rows, some by subnets, and some by series:

row     the number of a row of a reading. A row belongs to one slot. A subnet has two rows while its previous slot is
        being reclaimed. A group has a row for each of its subnets
subnet  the number of a subnet, a named network or a group (grouping.py) on one side of an interface. When it has no
        rows any more, the number is assigned to another one. Number 0 means "no subnet". In this module, "subnet"
        stands for all three
series  the number of a series (registry.py). A series belongs to a subnet or a covering prefix. Numbers 0 and 1 are the
        overflow point and the aggregate of the subnets that have not answered

A subnet is either exported individually (in a series of its own) or aggregated. An aggregated subnet is in the series
of a covering prefix, or on the overflow point. A newcomer has no subnet number. The row of a newcomer belongs to series
1 until the newcomer answers.
"""

from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes, grow
from otel_epping.kernel.reading import OVERFLOW_SLOT, SHARED_SLOTS, Reading, has_owner
from otel_epping.series.grouping import SeriesKeys
from otel_epping.series.prefixes import KEY, Key, SubnetKeys
from otel_epping.series.registry import OVERFLOW_SERIES, UNANSWERED_SERIES, SeriesRegistry

NO_SUBNET = 0
# For each level of covering prefixes, a share of the budget for covering prefixes. The longest prefixes have level 0. A
# new prefix of a level is created only if less than the level's share of the budget is in use.
_SHARES = (0.5, 0.75, 1.0)


class Budget(NamedTuple):
    """The maximum numbers of subnets and covering prefixes that have series.

    total     the maximum number of subnets and covering prefixes together
    covering  the maximum number of covering prefixes
    """

    total: int
    covering: int


class Placement:
    """The subnets of the latest reading, and the series of each subnet.

    exists         (subnets,) true if the number belongs to a subnet
    is_individual  (subnets,) true if the subnet is exported individually
    subnet_of      (rows,) the number of the subnet to which each row belongs; 0 for newcomers and rows without a subnet
    """

    def __init__(self, keys: SubnetKeys, series_keys: SeriesKeys, registry: SeriesRegistry) -> None:
        self.exists: Flags = np.zeros(1, np.bool_)
        self.is_individual: Flags = np.zeros(1, np.bool_)
        self.subnet_of: Indexes = np.full(SHARED_SLOTS, NO_SUBNET)
        self._keys, self._series_keys, self._registry = keys, series_keys, registry
        # Arrays store the state of subnets in a third of the memory that one Python object per subnet would need.
        self._numbers: dict[Key, int] = {}
        self._key_of: list[Key] = [b""]  # (subnets,)
        self._rows: Indexes = np.zeros(1, np.int64)  # (subnets,) the number of rows
        # (subnets,) the series of the subnet, of a covering prefix, or of the overflow point. The series exists as long
        # as the subnet, because the rows of the subnet belong to the series.
        self._series: Indexes = np.full(1, OVERFLOW_SERIES)
        self._free: list[int] = []

    @property
    def series_of(self) -> Indexes:
        """The number of the series to which each row belongs. The number is not defined for rows without an owner.

        The shape is (rows,).
        """
        series = np.where(self.subnet_of == NO_SUBNET, UNANSWERED_SERIES, self._series[self.subnet_of])
        series[OVERFLOW_SLOT] = OVERFLOW_SERIES
        return series

    @property
    def overflowed(self) -> int:
        """Number of subnets on the overflow point."""
        return len(self._on_overflow_point())

    @property
    def rolled_up(self) -> int:
        """Number of subnets in covering prefixes."""
        return len(self._numbers) - self.overflowed - int(np.count_nonzero(self.is_individual))

    def _on_overflow_point(self) -> Indexes:
        return np.flatnonzero(self.exists & (self._series == OVERFLOW_SERIES))

    def details(self) -> Indexes:
        """Returns the numbers of the details of all subnets."""
        return np.frombuffer(b"".join(self._numbers), KEY)["details"].astype(np.int64)

    # ---- rows and their subnets

    def newcomers(self, changed: Indexes) -> Indexes:
        """Returns the rows of `changed` that belonged to a newcomer, or to no owner, at the previous reading.

        Call this method before update().
        """
        changed = changed[(changed >= SHARED_SLOTS) & (changed < len(self.subnet_of))]
        return np.asarray(changed[self.subnet_of[changed] == NO_SUBNET])

    def update(self, reading: Reading, changed: Indexes, *, regroup: bool) -> Indexes:
        """Removes rows that have a new owner from their old subnets, and adds rows whose owner has answered.

        changed  the rows that have a new owner
        regroup  whether the series keys of other rows may have changed, too

        Returns the subnets that lost all of their rows.
        """
        self.subnet_of = grow(self.subnet_of, len(reading.generation))
        lost = changed[self.subnet_of[changed] != NO_SUBNET]
        if regroup:
            lost = np.concatenate([lost, self._moved(reading, changed)])
        subnets = self.subnet_of[lost]
        self.subnet_of[lost] = NO_SUBNET
        np.subtract.at(self._rows, subnets, 1)
        ended = np.unique(subnets[self._rows[subnets] == 0])
        self.exists[ended] = self.is_individual[ended] = False
        for number in ended.tolist():
            del self._numbers[self._key_of[number]]
            self._key_of[number] = b""
        self._free += ended.tolist()
        answered = np.flatnonzero(has_owner(reading.generation) & reading.answered & (self.subnet_of == NO_SUBNET))
        added = answered[answered >= SHARED_SLOTS]
        for row, key in zip(added.tolist(), self._series_keys.of(reading, added), strict=True):
            number = self._find(key)
            self.subnet_of[row] = number
            self._rows[number] += 1
        return ended

    def _moved(self, reading: Reading, changed: Indexes) -> Indexes:
        """Returns the rows that are not in `changed`, and whose series key has changed."""
        is_known = self.subnet_of != NO_SUBNET
        is_known[changed] = False
        rows = np.flatnonzero(is_known)
        known = [self._key_of[number] for number in self.subnet_of[rows].tolist()]
        keys = self._series_keys.of(reading, rows)
        return rows[np.array([old != new for old, new in zip(known, keys, strict=True)], np.bool_)]

    def _find(self, key: Key) -> int:
        """Returns the number of a subnet. A new subnet is on the overflow point."""
        if (known := self._numbers.get(key)) is not None:
            return known
        if not self._free:
            begin, more = len(self._key_of), max(64, len(self._key_of) // 4)
            self._key_of += [b""] * more
            self._free += range(begin + more - 1, begin - 1, -1)
            self.exists, self.is_individual = grow(self.exists, begin + more), grow(self.is_individual, begin + more)
            self._rows, self._series = grow(self._rows, begin + more), grow(self._series, begin + more)
        number = self._free.pop()
        self._key_of[number], self._numbers[key] = key, number
        self.exists[number], self._series[number] = True, OVERFLOW_SERIES
        return number

    # ---- subnets and their series

    def aggregate(self, wanted: Indexes, budget: Budget) -> None:
        """Moves subnets to the overflow point, to free their series.

        The individual subnets that are not in `wanted` are moved. If there are more covering prefixes than the budget
        allows, the subnets in covering prefixes are moved, too.

        A subnet is moved only after all counts of its series are delivered.
        """
        is_delivered = ~self._registry.pending[self._series]
        unwanted = self.is_individual & is_delivered
        unwanted[wanted] = False
        if self._registry.covering > budget.covering:  # the budget has become smaller
            unwanted |= self.exists & ~self.is_individual & is_delivered
        self.is_individual[unwanted] = False
        self._series[unwanted] = OVERFLOW_SERIES

    def individualize(self, wanted: Indexes, budget: Budget, start_ns: int) -> None:
        """Gives each subnet in `wanted` its own series, the most active subnets first, until the budget is used up.

        A new series starts at `start_ns`.
        """
        numbers = self._registry.numbers
        for subnet in wanted[~self.is_individual[wanted]].tolist():
            key = self._key_of[subnet]
            if key in numbers or len(numbers) < budget.total:
                self._series[subnet] = self._registry.find(key, start_ns)
                self.is_individual[subnet] = True

    def roll_up(self, budget: Budget, start_ns: int) -> None:
        """Moves subnets from the overflow point to covering prefixes.

        A subnet is moved to the longest covering prefix that has a series or that the budget allows. If the budget
        allows no covering prefix, the subnet stays on the overflow point. A new series starts at `start_ns`.
        """
        numbers = self._registry.numbers
        for subnet in self._on_overflow_point().tolist():
            for level, key in self._keys.covering(self._key_of[subnet]):
                room = int(budget.covering * _SHARES[level])
                if key in numbers or (self._registry.covering < room and len(numbers) < budget.total):
                    self._series[subnet] = self._registry.find(key, start_ns)
                    break
