# SPDX-License-Identifier: Apache-2.0
"""All series, with the key, the number, the start time and the delivery state of each series."""

from typing import Any

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes, Records, Times, Words, grow
from otel_epping.series.prefixes import Key, SubnetKeys


class SeriesRegistry:
    """Gives numbers to series. Number 0 is the overflow point, which always exists.

    When a series ends, its number can be assigned to a new series.

    slots       (series,) records like Reading.slots; the field `live` is 1 if the series exists
    since_ns    (series,) Unix time in ns at which the series started; 0 for the overflow point and for unused numbers
    generation  (series,) a number like Reading.generation
    pending     (series,) true if the series has counts that are not delivered
    by_subnet   the key of each subnet and each covering prefix -> the numbers of its series
    covering    the number of keys in `by_subnet` that are covering prefixes
    """

    def __init__(self, keys: SubnetKeys, slots: np.dtype[Any]) -> None:
        self.slots: Records = np.zeros(1, slots)
        self.since_ns: Times = np.zeros(1, np.int64)
        self.generation: Words = np.zeros(1, np.uint32)
        self.pending: Flags = np.zeros(1, np.bool_)
        self.by_subnet: dict[Key, tuple[int, ...]] = {}
        self.covering = 0
        self._keys = keys
        self._numbers: dict[Key, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        """Number of rows of each array."""
        return len(self.slots)

    def find(self, subnet: Key, method: int, since_ns: int) -> int:
        """Returns the number of the series for a subnet and a method. Creates the series if it does not exist.

        A new series starts at `since_ns`.
        """
        key = self._keys.with_method(subnet, method)
        if (number := self._numbers.get(key)) is not None:
            return number
        number = self._free.pop() if self._free else self._append()
        self._numbers[key] = number
        self.slots[number] = (self._keys.record(key), 0, 1)
        self.since_ns[number] = since_ns
        self.generation[number] += 1
        if subnet not in self.by_subnet:
            self.covering += self._keys.is_covering(subnet)
        self.by_subnet[subnet] = (*self.by_subnet.get(subnet, ()), number)
        return number

    def _append(self) -> int:
        number = len(self._numbers) + 1  # the lowest number that was never in use, because no number is free
        room = max(64, number // 4) if number == len(self.slots) else 0
        self.slots = grow(self.slots, len(self.slots) + room)
        self.since_ns = grow(self.since_ns, len(self.slots))
        self.generation = grow(self.generation, len(self.slots))
        self.pending = grow(self.pending, len(self.slots))
        return number

    def is_delivered(self, subnet: Key) -> bool:
        """Returns true if all counts of a subnet or covering prefix are delivered. `subnet` must be in `by_subnet`."""
        return not self.pending[list(self.by_subnet[subnet])].any()

    def end_unused(self, users: Indexes) -> Indexes:
        """Ends all series that have no rows and whose counts are delivered. Returns the numbers of the ended series.

        users  (series,) the number of rows that belong to each series
        """
        unused = (self.slots["live"] != 0) & (users == 0) & ~self.pending
        ended = np.flatnonzero(unused)
        for number in ended.tolist():
            key = self.slots["key"][number].tobytes()
            subnet = self._keys.subnet(key)
            del self._numbers[key]
            self.by_subnet[subnet] = tuple(each for each in self.by_subnet[subnet] if each != number)
            if not self.by_subnet[subnet]:
                del self.by_subnet[subnet]
                self.covering -= self._keys.is_covering(subnet)
        self._free += ended.tolist()
        self.slots[ended] = np.zeros(1, self.slots.dtype)
        self.since_ns[ended] = 0
        self.generation[ended] += 1
        return ended
