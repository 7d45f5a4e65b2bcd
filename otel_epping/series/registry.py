# SPDX-License-Identifier: Apache-2.0
"""Which series there are: their keys and numbers, since when, and whether all that they counted was delivered."""

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import grow
from otel_epping.kernel.sparse import Numbers
from otel_epping.series.prefixes import Key, SubnetKeys


class SeriesRegistry:
    """Series have the numbers of rows. Number 0, the overflow point, is there always; others are used again.

    slots    (series,) as in Reading; `live` if there is such a series
    since_ns (series,) Unix time from which on it counts; 0 if there is no such series, and of the overflow point
    untold   (series,) whether something was counted that isn't delivered
    told     the series of each subnet, and of each prefix that covers some
    covering how many of these are covering prefixes
    """

    def __init__(self, keys: SubnetKeys, slots: np.dtype[Any]) -> None:
        self.slots: npt.NDArray[Any] = np.zeros(1, slots)
        self.since_ns = np.zeros(1, np.int64)
        self.untold = np.zeros(1, np.bool_)
        self.told: dict[Key, tuple[int, ...]] = {}
        self.covering = 0
        self._keys = keys
        self._numbers: dict[Key, int] = {}
        self._free: list[int] = []

    def find(self, subnet: Key, method: int, since_ns: int) -> int:
        """The series of a method of a subnet, which begins at `since_ns` if there is none yet."""
        key = self._keys.with_method(subnet, method)
        if (number := self._numbers.get(key)) is not None:
            return number
        number = self._free.pop() if self._free else self._append()
        self._numbers[key] = number
        self.slots[number] = (self._keys.record(key), 0, 1)
        self.since_ns[number] = since_ns
        if subnet not in self.told:
            self.covering += self._keys.is_covering(subnet)
        self.told[subnet] = (*self.told.get(subnet, ()), number)
        return number

    def _append(self) -> int:
        number = len(self._numbers) + 1  # none is free
        room = max(64, number // 4) if number == len(self.slots) else 0
        self.slots = grow(self.slots, len(self.slots) + room)
        self.since_ns = grow(self.since_ns, len(self.slots))
        self.untold = grow(self.untold, len(self.slots))
        return number

    def is_delivered(self, subnet: Key) -> bool:
        """Whether nothing that a subnet has counted waits."""
        return not self.untold[list(self.told[subnet])].any()

    def end_unused(self, users: Numbers) -> Numbers:
        """Ends the series that were delivered and have no rows, of `users` (series,), that count into them."""
        unused = (self.slots["live"] != 0) & (users == 0) & ~self.untold
        ended = np.flatnonzero(unused)
        for number in ended.tolist():
            key = self.slots["key"][number].tobytes()
            subnet = self._keys.subnet(key)
            del self._numbers[key]
            self.told[subnet] = tuple(each for each in self.told[subnet] if each != number)
            if not self.told[subnet]:
                del self.told[subnet]
                self.covering -= self._keys.is_covering(subnet)
        self._free += ended.tolist()
        self.slots[ended] = np.zeros(1, self.slots.dtype)
        self.since_ns[ended] = 0
        return ended
