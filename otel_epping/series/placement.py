# SPDX-License-Identifier: Apache-2.0
"""Places subnets: decides to which series the counts of each subnet's rows are added.

There are three kinds of numbers. Some arrays are indexed by rows, some by subnets, and some by series:

row     the number of a row of a reading. A row belongs to one slot. A subnet has two rows while its previous slot is
        being reclaimed
subnet  the number of a subnet on one side of an interface. When the subnet has no rows any more, the number is assigned
        to another subnet. Number 0 means "no subnet"
series  the number of a series (registry.py). A series belongs to a subnet or a covering prefix. Numbers 0 and 1 are the
        overflow point and the aggregate of the subnets that have not answered

A subnet is either exported individually (in a series of its own) or aggregated. An aggregated subnet is in the series
of a covering prefix, or on the overflow point. A newcomer has no subnet number. The row of a newcomer belongs to series
1 until the newcomer answers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes, grow
from otel_epping.kernel.reading import SHARED_SLOTS, Reading, has_owner
from otel_epping.series.prefixes import Key, SubnetKeys
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


class _PlacedSubnet:
    """A subnet and its rows.

    The class has __slots__. Without __slots__, the objects of thousands of subnets would need more memory than the
    counts.

    exported_as  the subnet's own key, or the key of a covering prefix; None if the subnet is on the overflow point
    """

    __slots__ = ("exported_as", "key", "number", "rows")

    def __init__(self, key: Key, number: int) -> None:
        self.key = key
        self.number = number
        self.rows: tuple[int, ...] = ()
        self.exported_as: Key | None = None


class Placement:
    """The subnets of the latest reading, and the series of each subnet's rows.

    exists         (subnets,) true if the number belongs to a subnet
    is_individual  (subnets,) true if the subnet is exported individually
    subnet_of      (rows,) the number of the subnet to which each row belongs; 0 for newcomers and rows without a subnet
    series_of      (rows,) the number of the series to which each row belongs; not defined for rows without an owner
    """

    def __init__(self, keys: SubnetKeys, registry: SeriesRegistry, started_ns: int) -> None:
        self.exists: Flags = np.zeros(1, np.bool_)
        self.is_individual: Flags = np.zeros(1, np.bool_)
        self._keys, self._registry = keys, registry
        self._start_ns = started_ns
        self.subnet_of: Indexes = np.full(SHARED_SLOTS, NO_SUBNET)
        self.series_of: Indexes = np.array([OVERFLOW_SERIES, UNANSWERED_SERIES])
        self._subnets: dict[Key, _PlacedSubnet] = {}
        self._by_number: list[_PlacedSubnet | None] = [None]
        self._free: list[int] = []

    @property
    def overflowed(self) -> int:
        """Number of subnets on the overflow point."""
        return sum(subnet.exported_as is None for subnet in self._subnets.values())

    @property
    def rolled_up(self) -> int:
        """Number of subnets in covering prefixes."""
        return len(self._subnets) - self.overflowed - int(np.count_nonzero(self.is_individual))

    # ---- rows and their subnets

    def newcomers(self, changed: Indexes) -> Indexes:
        """Returns the rows of `changed` that belonged to a newcomer, or to no owner, at the previous reading.

        Call this method before update().
        """
        changed = changed[(changed >= SHARED_SLOTS) & (changed < len(self.subnet_of))]
        return np.asarray(changed[self.subnet_of[changed] == NO_SUBNET])

    def update(self, reading: Reading, changed: Indexes, start_ns: int) -> Indexes:
        """Removes rows that have a new owner from their old subnets, and adds rows whose owner has answered.

        changed   the rows that have a new owner
        start_ns  the time of the previous reading. A new series starts at `start_ns` or when the owner got the slot,
                  whichever is later

        Returns the subnets that lost all of their rows.
        """
        self._start_ns = start_ns
        rows = len(reading.generation)
        self.subnet_of = grow(self.subnet_of, rows)
        self.series_of = grow(self.series_of, rows, UNANSWERED_SERIES)
        lost = changed[self.subnet_of[changed] != NO_SUBNET]
        subnets = list(self._with(self.subnet_of[lost]))
        ended = [subnet.number for row, subnet in zip(lost.tolist(), subnets, strict=True) if self._remove(subnet, row)]
        answered = np.flatnonzero(has_owner(reading.generation) & reading.answered & (self.subnet_of == NO_SUBNET))
        for row in answered[answered >= SHARED_SLOTS].tolist():
            self._add(row, reading)
        return np.array(ended, np.int64)

    def _remove(self, subnet: _PlacedSubnet, row: int) -> bool:
        """Removes a row from a subnet. Returns true if the row was the last row of the subnet."""
        self.subnet_of[row] = NO_SUBNET
        self.series_of[row] = UNANSWERED_SERIES
        subnet.rows = tuple(each for each in subnet.rows if each != row)
        if subnet.rows:
            return False
        del self._subnets[subnet.key]
        self._by_number[subnet.number] = None
        self.exists[subnet.number] = self.is_individual[subnet.number] = False
        self._free.append(subnet.number)
        return True

    def _add(self, row: int, reading: Reading) -> None:
        key = reading.slots["key"][row].tobytes()
        subnet = self._subnets.get(key) or self._new_subnet(key)
        subnet.rows += (row,)
        self.subnet_of[row] = subnet.number
        self._assign(subnet, (row,), max(self._start_ns, int(reading.created_ns[row])))

    def _new_subnet(self, key: Key) -> _PlacedSubnet:
        if not self._free:
            begin, more = len(self._by_number), max(64, len(self._by_number) // 4)
            self._by_number += [None] * more
            self._free += range(begin + more - 1, begin - 1, -1)
            self.exists = grow(self.exists, begin + more)
            self.is_individual = grow(self.is_individual, begin + more)
        subnet = _PlacedSubnet(key, self._free.pop())
        self._by_number[subnet.number] = self._subnets[key] = subnet
        self.exists[subnet.number] = True
        return subnet

    def _with(self, numbers: Indexes) -> Iterator[_PlacedSubnet]:
        """Yields the subnets with the given numbers. All given subnets must exist."""
        for number in numbers.tolist():
            subnet = self._by_number[number]
            assert subnet
            yield subnet

    def _aggregated(self) -> Iterator[_PlacedSubnet]:
        return self._with(np.flatnonzero(self.exists & ~self.is_individual))

    # ---- subnets and their series

    def _export_as(self, subnet: _PlacedSubnet, key: Key | None) -> None:
        subnet.exported_as = key
        self.is_individual[subnet.number] = key == subnet.key
        self._assign(subnet, subnet.rows, self._start_ns)

    def _assign(self, subnet: _PlacedSubnet, rows: tuple[int, ...], start_ns: int) -> None:
        """Assigns rows of a subnet to the subnet's series. A new series starts at `start_ns`."""
        key = subnet.exported_as
        self.series_of[list(rows)] = OVERFLOW_SERIES if key is None else self._registry.find(key, start_ns)

    def aggregate(self, wanted: Indexes, budget: Budget) -> None:
        """Moves subnets to the overflow point, to free their series.

        The individual subnets that are not in `wanted` are moved. If there are more covering prefixes than the budget
        allows, the subnets in covering prefixes are moved, too.

        A subnet is moved only after all counts of its series are delivered.
        """
        unwanted = self.is_individual.copy()
        unwanted[wanted] = False
        for subnet in self._with(np.flatnonzero(unwanted)):
            if self._registry.is_delivered(subnet.key):
                self._export_as(subnet, None)
        if self._registry.covering > budget.covering:  # the budget has become smaller
            for subnet in self._aggregated():
                if subnet.exported_as is not None and self._registry.is_delivered(subnet.exported_as):
                    self._export_as(subnet, None)

    def individualize(self, wanted: Indexes, budget: Budget) -> None:
        """Gives each subnet in `wanted` its own series, the most active subnets first, until the budget is used up."""
        numbers = self._registry.numbers
        for subnet in self._with(wanted[~self.is_individual[wanted]]):
            if subnet.key in numbers or len(numbers) < budget.total:
                self._export_as(subnet, subnet.key)

    def roll_up(self, budget: Budget) -> None:
        """Moves subnets from the overflow point to covering prefixes.

        A subnet is moved to the longest covering prefix that has a series or that the budget allows. If the budget
        allows no covering prefix, the subnet stays on the overflow point.
        """
        numbers = self._registry.numbers
        for subnet in self._aggregated():
            if subnet.exported_as is not None:
                continue
            for level, key in self._keys.covering(subnet.key):
                room = int(budget.covering * _SHARES[level])
                if key in numbers or (self._registry.covering < room and len(numbers) < budget.total):
                    self._export_as(subnet, key)
                    break
