# SPDX-License-Identifier: Apache-2.0
"""Readings of bounded size: the slots of a reading become series, at most as many as may be told.

A subnet is told apart, in series of its own; or, if it is beyond a bound, in those of a prefix that covers it, or on
the overflow point. What its slots count is added to whatever series they belong to at that time (accumulators.py). So
totals are true whoever is told where, a series never counts backwards, and nothing is counted twice; and a slot may go
to another subnet while the counts of the former one still wait to be delivered.

The rules:
- The busiest are told apart. Who is told apart already stays so until another is twice as busy.
- A series ends when none of the rows counts into it any more and all of it was delivered. A subnet that comes back gets
  a new one, which begins where the previous reading ended.
- There are never more subnets and covering prefixes than `max_series`. Where no series can end, since nothing is
  delivered, new subnets count on the overflow point.
- With `roll_up`, as soon as there are more subnets than that, a quarter is for covering prefixes: half of these for the
  narrowest ones, another quarter for the next. Who finds no room in a narrow one is told in a wider one.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from otel_epping.kernel.arrays import Counts, grow
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.reading import OVERFLOW_SLOT, Reading
from otel_epping.kernel.sparse import Numbers
from otel_epping.series.accumulators import Accumulators, ReadingDelta
from otel_epping.series.limits import Limits
from otel_epping.series.prefixes import Key, SubnetKeys
from otel_epping.series.registry import SeriesRegistry
from otel_epping.series.subnet import RowOwners
from otel_epping.series.temporality import Rows

_NOBODY = -1
_LEAD = 2.0  # by which one must be busier than who is told apart
_FADING = 0.5  # of what was counted earlier, at each reading
# Of the room for covering prefixes, what the narrowest ones may take, these and the next, and all of them.
_SHARES = (0.5, 0.75, 1.0)


class _Subnet:
    """A subnet on one side of an interface. `number` is its place in arrays, `rows` are the slots of its methods.

    There are thousands: with less care, these would take more memory than the counts.
    """

    __slots__ = ("key", "number", "rows", "told_as")

    def __init__(self, key: Key, number: int) -> None:
        self.key = key
        self.number = number
        self.rows: tuple[int, ...] = ()
        self.told_as: Key | None = None  # its own key, or that of a covering prefix; None: on the overflow point


class CardinalityLimiter:
    """Makes bounded readings of those of one reader, for one exporter. `started_ns` is when counting could begin."""

    def __init__(self, config: EppingConfig, reader: Reader, started_ns: int) -> None:
        self.most = config.max_subnets
        self._config = config
        self._limits = Limits()
        self._past_ns = started_ns
        self._keys = SubnetKeys(reader.slots_dtype["key"], config)
        self._directory = SeriesRegistry(self._keys, reader.slots_dtype)
        self._counters_dtype = reader.counters_dtype
        self._accounts = Accumulators(self._counters_dtype.itemsize // 8)
        self._owners, self._past = RowOwners(), ReadingDelta()
        self._subnets: dict[Key, _Subnet] = {}
        # By the subnets' numbers: which are in use, how busy they are, and their RTTs.
        self._by_number: list[_Subnet | None] = []
        self._free: list[int] = []
        self._busy, self._rtts = np.zeros(0), np.zeros(0)
        self._is_apart, self._is_there = np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        # By row: the subnet's number, the method, the series it counts into, and what it had counted before.
        self._subnet_of = np.full(1, _NOBODY)
        self._method = np.zeros(1, np.uint8)
        self._to = np.zeros(1, np.int64)
        self._rtts_seen: Counts = np.zeros(1, np.uint64)
        self._events_seen: Counts = np.zeros(1, np.uint64)

    @property
    def told(self) -> int:
        """How many subnets, and prefixes that cover others, are told apart."""
        return len(self._directory.told)

    @property
    def overflowed(self) -> int:
        """How many subnets are told on the overflow point."""
        return sum(subnet.told_as is None for subnet in self._subnets.values())

    @property
    def rolled_up(self) -> int:
        """How many subnets are told in a prefix that covers them."""
        return len(self._subnets) - self.overflowed - int(np.count_nonzero(self._is_apart))

    def take(self, reading: Reading, limits: Limits) -> Reading:
        """The reading with a row for each series, within limits; good until the next one is taken."""
        self._limits, self.most = limits, limits.max_series or self._config.max_subnets
        changed = self._owners.update(reading)
        self._past.forget(changed)
        self._subnet_of = grow(self._subnet_of, len(reading.created_ns), _NOBODY)
        self._to = grow(self._to, len(reading.created_ns))
        self._method = grow(self._method, len(reading.created_ns))
        self._rtts_seen = grow(self._rtts_seen, len(reading.created_ns))
        self._events_seen = grow(self._events_seen, len(reading.created_ns))
        self._rtts_seen[changed] = self._events_seen[changed] = 0
        for row in changed.tolist():
            self._leave(row)
            if reading.created_ns[row]:
                self._join(row, reading)
        rows = np.concatenate([[OVERFLOW_SLOT], np.flatnonzero(self._subnet_of != _NOBODY)])
        self._weigh(reading, rows[1:])  # all but the overflow slot
        wanted = self._wanted()
        self._put_together(wanted)
        ended = self._directory.end_unused(np.bincount(self._to[rows], minlength=self._series))
        self._tell_apart(wanted)
        if self._limits.roll_up:
            self._cover()
        self._accounts.begin(self._series)
        self._accounts.forget(ended)
        for increments in self._past.increments(reading, rows):
            self._directory.untold[self._accounts.add(increments, self._to[increments.rows])] = True
        self._past_ns = reading.time_ns
        return self._reading(reading, self._to[rows], reading.active[rows])

    def acknowledge(self, series: Rows) -> None:
        """The receiver has all that these series counted, up to the latest reading."""
        self._directory.untold[series] = False

    @property
    def _series(self) -> int:
        return len(self._directory.slots)

    def _reading(self, reading: Reading, to: Numbers, active_ends: Counts) -> Reading:
        active = np.zeros(self._series, np.uint64)
        np.add.at(active, to, active_ends)
        accounts, directory = self._accounts, self._directory
        return replace(
            reading,
            slots=directory.slots,
            created_ns=directory.since_ns,
            buckets=accounts.buckets,
            sum_ns=accounts.sum_ns,
            min_ns=accounts.min_ns,
            max_ns=accounts.max_ns,
            counters=accounts.counters.view(self._counters_dtype)[:, 0],
            active=active,
        )

    # ---- who has which rows

    def _leave(self, row: int) -> None:
        if self._subnet_of[row] == _NOBODY:
            return
        subnet = self._by_number[self._subnet_of[row]]
        assert subnet
        subnet.rows = tuple(each for each in subnet.rows if each != row)
        self._subnet_of[row], self._to[row] = _NOBODY, OVERFLOW_SLOT
        if not subnet.rows:
            del self._subnets[subnet.key]
            self._by_number[subnet.number] = None
            self._is_there[subnet.number] = self._is_apart[subnet.number] = False
            self._busy[subnet.number] = self._rtts[subnet.number] = 0
            self._free.append(subnet.number)

    def _join(self, row: int, reading: Reading) -> None:
        key = reading.slots["key"][row].tobytes()
        subnet_key = self._keys.subnet(key)
        subnet = self._subnets.get(subnet_key) or self._new_subnet(subnet_key)
        subnet.rows += (row,)
        self._method[row] = self._keys.method_of(key)
        self._subnet_of[row] = subnet.number
        self._place(subnet, (row,), max(self._past_ns, int(reading.created_ns[row])))

    def _new_subnet(self, key: Key) -> _Subnet:
        if not self._free:
            begin, more = len(self._by_number), max(64, len(self._by_number) // 4)
            self._by_number += [None] * more
            self._free += range(begin + more - 1, begin - 1, -1)
            self._busy, self._rtts = grow(self._busy, begin + more), grow(self._rtts, begin + more)
            self._is_apart, self._is_there = (
                grow(self._is_apart, begin + more),
                grow(self._is_there, begin + more),
            )
        subnet = _Subnet(key, self._free.pop())
        self._by_number[subnet.number] = self._subnets[key] = subnet
        self._is_there[subnet.number] = True
        return subnet

    def _these(self, which: np.typing.NDArray[np.bool_]) -> Iterator[_Subnet]:
        """Subnets of an array of flags."""
        for number in np.flatnonzero(which).tolist():
            subnet = self._by_number[number]
            assert subnet
            yield subnet

    # ---- who counts where

    @property
    def _for_covering(self) -> int:
        """How many covering prefixes there may be."""
        return max(1, self.most // 4) if self._limits.roll_up else 0

    def _tell_as(self, subnet: _Subnet, key: Key | None) -> None:
        subnet.told_as = key
        self._is_apart[subnet.number] = key == subnet.key
        self._place(subnet, subnet.rows, self._past_ns)

    def _place(self, subnet: _Subnet, rows: tuple[int, ...], since_ns: int) -> None:
        """Has rows count where their subnet is told; a series that there isn't yet begins at `since_ns`."""
        for row in rows:
            if subnet.told_as is None:
                self._to[row] = OVERFLOW_SLOT
            else:
                self._to[row] = self._directory.find(subnet.told_as, int(self._method[row]), since_ns)

    def _weigh(self, reading: Reading, rows: Numbers) -> None:
        """How busy subnets are: packets and RTTs, the latest the most."""
        numbers, counters = self._subnet_of[rows], reading.counters
        rtts = reading.buckets.totals()
        events = (
            rtts + counters["classes"]["from"]["packets"].sum(axis=1) + counters["classes"]["to"]["packets"].sum(axis=1)
        )
        self._rtts += np.bincount(numbers, (rtts - self._rtts_seen)[rows], len(self._rtts))
        self._busy *= _FADING
        self._busy += np.bincount(numbers, (events - self._events_seen)[rows], len(self._busy))
        self._rtts_seen[rows], self._events_seen[rows] = rtts[rows], events[rows]

    def _wanted(self) -> Numbers:
        """Numbers of the subnets that are to be told apart, the busiest first."""
        able = np.flatnonzero(self._is_there & (self._rtts >= self._limits.min_samples))
        is_apart = self._is_apart[able]
        order = np.lexsort((is_apart, self._busy[able] * np.where(is_apart, _LEAD, 1.0)))
        rolling_up = self._limits.roll_up and (len(able) > self.most or self._directory.covering)
        limit = self.most - self._for_covering if rolling_up else self.most
        return able[order[::-1][:limit]]

    def _put_together(self, wanted: Numbers) -> None:
        """Those that are told apart and not wanted any more aren't, if all that they counted was delivered."""
        unwanted = self._is_apart.copy()
        unwanted[wanted] = False
        for subnet in self._these(unwanted):
            if self._directory.is_delivered(subnet.key):
                self._tell_as(subnet, None)
        if self._directory.covering > self._for_covering:  # there is less room than there was
            for subnet in self._these(self._is_there & ~self._is_apart):
                if subnet.told_as is not None and self._directory.is_delivered(subnet.told_as):
                    self._tell_as(subnet, None)

    def _tell_apart(self, wanted: Numbers) -> None:
        told = self._directory.told
        for number in wanted[~self._is_apart[wanted]].tolist():
            subnet = self._by_number[number]
            assert subnet
            if subnet.key in told or len(told) < self.most:
                self._tell_as(subnet, subnet.key)

    def _cover(self) -> None:
        """Finds covering prefixes for those on the overflow point."""
        told = self._directory.told
        for subnet in self._these(self._is_there & ~self._is_apart):
            if subnet.told_as is None:
                for level, key in self._keys.covering(subnet.key):
                    room = self._for_covering * _SHARES[level]
                    if key in told or (self._directory.covering < int(room) and len(told) < self.most):
                        self._tell_as(subnet, key)
                        break
