# SPDX-License-Identifier: Apache-2.0
"""Identifiers and numbers of interfaces.

An interface has an identifier and a number (struct interface, bpf/maps.h). The number selects a row of counters. There
are only 1024 rows, so numbers are reused. The identifier is part of the keys of slots, flows, cached slots and
transactions. An identifier is reused only after all 65,535 identifiers were used. So if a map still has an entry for an
interface that is gone, the entry is not mistaken for an entry of another interface.

The identifier and the number belong to the name of the interface. An interface that goes away and comes back keeps its
identifier and number. The identifier and the number are freed when the interface has been gone for 5 s and all of its
counts are delivered.
"""

import threading
import time

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.reading import Gone

# bpf/maps.h
INTERFACES = 1024
UNKNOWN_INTERFACE = 0
_IDENTIFIERS = 1 << 16

# When an interface has been gone for 5 s, its counts do not change any more, because the kernel program needs far less
# than 5 s for a packet.
GONE_NS = 5_000_000_000


class InterfaceNumbers:
    """Assigns identifiers and numbers to names of interfaces. Any thread may call any method.

    names   the names of the interfaces, by identifier; '' stands for all interfaces without a number
    now_ns  the monotonic clock, in ns
    """

    def __init__(self) -> None:
        self.names = {UNKNOWN_INTERFACE: ""}
        self.now_ns = time.monotonic_ns
        self._identifiers: dict[str, int] = {}
        self._numbers = {UNKNOWN_INTERFACE: UNKNOWN_INTERFACE}  # By identifier.
        self._gone_ns: dict[int, int] = {}  # By identifier.
        self._origins: dict[int, Counts] = {}  # Number -> the counts of the row when the number was last freed.
        self._free: list[int] = []
        self._used = 1
        self._latest = 0
        self._lock = threading.Lock()

    def get(self, name: str, default: int) -> int:
        """Returns the number of the interface with the name `name`. Returns `default` if the name has no number."""
        with self._lock:
            return self._numbers[self._identifiers[name]] if name in self._identifiers else default

    @property
    def has_free(self) -> bool:
        """True if a number is free for another name."""
        return bool(self._free) or self._used <= INTERFACES

    @property
    def used(self) -> int:
        """How many numbers are or were in use. The numbers from 0 to `used` - 1 are or were in use."""
        return self._used

    def assign(self, name: str) -> tuple[int, int]:
        """Returns the identifier and the number of an existing interface.

        If the interface has no number, assigns an identifier and a number. If no number is free, returns
        UNKNOWN_INTERFACE as the identifier and as the number.
        """
        with self._lock:
            identifier = self._identifiers.get(name)
            if identifier is None:
                if not self.has_free:
                    return UNKNOWN_INTERFACE, UNKNOWN_INTERFACE
                identifier = self._next_identifier()
                if self._free:
                    self._numbers[identifier] = self._free.pop()
                else:
                    self._numbers[identifier] = self._used
                    self._used += 1
                self._identifiers[name] = identifier
                self.names[identifier] = name
            self._gone_ns.pop(identifier, None)
            return identifier, self._numbers[identifier]

    def _next_identifier(self) -> int:
        while True:
            self._latest = self._latest % (_IDENTIFIERS - 1) + 1
            if self._latest not in self.names:
                return self._latest

    def mark_gone(self, name: str) -> None:
        """Records that an interface went away. assign() deletes the record when the interface comes back."""
        with self._lock:
            if name in self._identifiers:
                self._gone_ns[self._identifiers[name]] = self.now_ns()

    def gone(self) -> frozenset[Gone]:
        """Returns the interfaces that went away at least 5 s ago.

        When an interface has been gone for 5 s, its counts change only if the interface comes back.
        """
        with self._lock:
            now_ns = self.now_ns()
            return frozenset(Gone(*item) for item in self._gone_ns.items() if now_ns - item[1] >= GONE_NS)

    def end(self, gone: Gone, raw: Counts) -> bool:
        """Frees the number of an interface unless the interface came back. Returns true if the number was freed.

        raw  (n,) all counts of the interface's row, including the counts of earlier interfaces that had the row
        """
        with self._lock:
            identifier = gone.identifier
            if self._gone_ns.get(identifier) != gone.gone_ns:
                return False
            number = self._numbers.pop(identifier)
            self._origins[number] = raw.copy()
            self._free.append(number)
            del self._identifiers[self.names.pop(identifier)], self._gone_ns[identifier]
            return True

    def numbers_of(self, identifiers: list[int]) -> list[int]:
        """Returns the interface number for each identifier. Every identifier must be in use."""
        with self._lock:
            return [self._numbers[identifier] for identifier in identifiers]

    def counted(self, numbers: list[int], raw: Counts) -> Counts:
        """Returns the counts of the interfaces that now have the given numbers, in the shape (numbers, n).

        raw (numbers, n) all counts of the rows `numbers`, including the counts of earlier interfaces
        """
        counts = raw.copy()
        for index, number in enumerate(numbers):
            if number in self._origins:
                counts[index] -= self._origins[number]
        return counts
