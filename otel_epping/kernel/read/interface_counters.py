# SPDX-License-Identifier: Apache-2.0
"""Reads the program's interface counters. The counters of all CPUs are added up.

The program has a row of counters for each interface number. When an interface is removed, its number can be assigned to
a new interface (kernel/attach/interface_numbers.py). So the counts of the removed interface are subtracted from the
row.
"""

from typing import Any

import numpy as np

from otel_epping.kernel.arrays import Counts, Records, Times
from otel_epping.kernel.attach.interface_numbers import InterfaceNumbers
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.directions import Traffic
from otel_epping.kernel.reading import Gone

# Ranges of enum packet_kind (bpf/maps.h). The first range is for TCP packets, the second is for UDP and ICMP packets.
_TRAFFIC_KINDS = (slice(0, 1), slice(1, 3))


class InterfaceCounters:
    """Reads the counters of interfaces, for one reader. `started_ns` is the Unix time in ns when counting started."""

    def __init__(self, counters: Array, numbers: InterfaceNumbers, cpus: int, started_ns: int) -> None:
        self._counters, self._numbers, self._cpus = counters, numbers, cpus
        self._since_ns: dict[int, int] = {}
        self._read_ns = started_ns  # time of the latest reading

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the program's struct interface_counters, which consists of 64-bit counters only."""
        return self._counters.dtype

    def names(self) -> dict[int, str]:
        """Returns the name of each interface that has counts, by identifier.

        The name '' stands for all interfaces without a number.
        """
        return dict(self._numbers.names)

    def gone(self) -> frozenset[Gone]:
        """Returns the interfaces that were removed at least 5 s ago, and whose counts no longer change."""
        return self._numbers.gone()

    def read(self, names: dict[int, str], now_ns: int) -> tuple[Records, Times]:
        """Returns the record of each interface, and the Unix time in ns at which the record's counts start.

        The start is the time of the last reading that did not yet contain the interface. Both arrays have the shape
        (len(names),).

        names   the result of names()
        now_ns  the Unix time of this reading, in ns
        """
        numbers = self._numbers.numbers_of(list(names))
        self._since_ns = {each: self._since_ns.get(each, self._read_ns) for each in names}
        self._read_ns = now_ns
        since_ns = np.fromiter(self._since_ns.values(), np.int64, len(names))
        return self._records(numbers, self._count(numbers)), since_ns

    def flows_and_traffic(self) -> tuple[int, dict[int, Traffic]]:
        """Returns the number of created flow table entries, and the number of packets of each interface.

        The keys of the dict are identifiers of interfaces.
        """
        identifiers = list(self._numbers.names)
        counts = self._count(list(range(self._numbers.used)))
        flows_created = int(counts.view(self.dtype)["flows_created"].sum())
        numbers = self._numbers.numbers_of(identifiers)
        records = self._records(numbers, counts[numbers])
        received, transmitted = (records[way]["packets"] for way in ("received", "transmitted"))
        packets = np.stack(
            [each[:, kinds].sum(1) for kinds in _TRAFFIC_KINDS for each in (received, transmitted)], axis=1
        )
        traffic = (Traffic((row[0], row[1]), (row[2], row[3])) for row in packets.tolist())
        return flows_created, dict(zip(identifiers, traffic, strict=True))

    def totals(self, interfaces: list[Gone]) -> Counts:
        """Returns all counts of the rows of the given interfaces. The shape is (interfaces, n).

        The counts include the counts of earlier interfaces that had the same row.
        """
        return self._count(self._numbers.numbers_of([each.identifier for each in interfaces]))

    def _count(self, numbers: list[int]) -> Counts:
        """Returns all counts of the rows with the given numbers. The shape is (numbers, n).

        The counts include the counts of earlier interfaces that had the same row.
        """
        rows = max(numbers) + 1
        counters = self._counters.rows(0, rows * self._cpus).view(np.uint64).reshape(rows, self._cpus, -1)
        return np.asarray(counters[numbers].sum(1))

    def _records(self, numbers: list[int], counts: Counts) -> Records:
        """Returns the counts of the rows with the given numbers. The counts of earlier interfaces are not included.

        counts  the result of _count() for the same numbers
        """
        return np.asarray(self._numbers.counted(numbers, counts).view(self.dtype)[:, 0])
