# SPDX-License-Identifier: Apache-2.0
"""All series, with the key, the number, the start time and the delivery state of each series."""

import numpy as np

from otel_epping.kernel.arrays import Flags, Indexes, Records, Times, Words, grow
from otel_epping.kernel.reading import OVERFLOW_SLOT, SHARED_SLOTS, UNANSWERED_SLOT, has_owner
from otel_epping.series.prefixes import KEY, Key, SubnetKeys

# The shared series have the same numbers as the shared slots.
OVERFLOW_SERIES = OVERFLOW_SLOT
UNANSWERED_SERIES = UNANSWERED_SLOT

_SLOT = np.dtype([("key", KEY)])


class SeriesRegistry:
    """Gives numbers to series. Each series belongs to a key (prefixes.py), except the shared series.

    The shared series always exist: the overflow point, and the aggregate of the subnets that have not answered. When
    any other series ends, its number can be assigned to a new series.

    slots       (series,) records with the field `key`, the key of the series
    since_ns    (series,) Unix time in ns at which the series started; 0 for shared series and for unused numbers
    generation  (series,) a number like Reading.generation
    pending     (series,) true if the series has counts that are not delivered
    numbers     the key of each series -> the number of the series
    covering    the number of keys in `numbers` that are covering prefixes
    """

    def __init__(self, keys: SubnetKeys) -> None:
        self.slots: Records = np.zeros(SHARED_SLOTS, _SLOT)
        self.since_ns: Times = np.zeros(SHARED_SLOTS, np.int64)
        self.generation: Words = np.zeros(SHARED_SLOTS, np.uint32)
        self.pending: Flags = np.zeros(SHARED_SLOTS, np.bool_)
        self.numbers: dict[Key, int] = {}
        self.covering = 0
        self._keys = keys
        self._free: list[int] = []

    def __len__(self) -> int:
        """Number of rows of each array."""
        return len(self.slots)

    def find(self, key: Key, since_ns: int) -> int:
        """Returns the number of the series that belongs to a key. Creates the series if it does not exist.

        A new series starts at `since_ns`.
        """
        if (number := self.numbers.get(key)) is not None:
            return number
        number = self._free.pop() if self._free else self._append()
        self.numbers[key] = number
        self.slots["key"][number] = self._keys.record(key)
        self.since_ns[number] = since_ns
        self.generation[number] += 1
        self.covering += self._keys.is_covering(key)
        return number

    def _append(self) -> int:
        number = len(self.numbers) + SHARED_SLOTS  # the lowest number that was never in use, because no number is free
        room = max(64, number // 4) if number == len(self.slots) else 0
        self.slots = grow(self.slots, len(self.slots) + room)
        self.since_ns = grow(self.since_ns, len(self.slots))
        self.generation = grow(self.generation, len(self.slots))
        self.pending = grow(self.pending, len(self.slots))
        return number

    def end_unused(self, users: Indexes) -> Indexes:
        """Ends all series that have no rows and whose counts are delivered. Returns the numbers of the ended series.

        users  (series,) the number of rows that belong to each series
        """
        ended = np.flatnonzero(has_owner(self.generation) & (users == 0) & ~self.pending)
        for record in self.slots["key"][ended]:
            key = record.tobytes()
            del self.numbers[key]
            self.covering -= self._keys.is_covering(key)
        self._free += ended.tolist()
        self.slots[ended] = np.zeros(1, self.slots.dtype)
        self.since_ns[ended] = 0
        self.generation[ended] += 1
        return ended
