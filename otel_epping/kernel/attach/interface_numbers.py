# SPDX-License-Identifier: Apache-2.0
"""Identifiers and numbers of interfaces.

An interface has both (struct interface, bpf/maps.h). The number selects a row of counters. There are few rows, so
numbers are reused. The identifier is part of the keys of slots, flows, cached slots and transactions. An identifier is
reused only after all 65,535 were used, so entries of an interface that is gone are not taken for those of another one.

Both belong to a name, and stay the same when the interface goes away and comes back. They end when the interface has
been gone for 5 s and all of its counts are delivered.
"""

import threading
import time

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.reading import Gone

# bpf/maps.h
INTERFACES = 1024
UNKNOWN_INTERFACE = 0
_IDENTIFIERS = 1 << 16

# How long after an interface went away its counts are final: far longer than any run of the program.
GONE_NS = 5_000_000_000


class InterfaceNumbers:
    """Assigns identifiers and numbers to names. All methods may be called by any thread.

    names   the names of the interfaces, by identifier; '' stands for all interfaces without a number
    now_ns  the monotonic clock, in ns
    """

    def __init__(self) -> None:
        self.names = {UNKNOWN_INTERFACE: ""}
        self.now_ns = time.monotonic_ns
        self._identifiers: dict[str, int] = {}
        self._numbers = {UNKNOWN_INTERFACE: UNKNOWN_INTERFACE}  # by identifier
        self._gone_ns: dict[int, int] = {}  # by identifier
        self._origins: dict[int, Counts] = {}  # by number: the counts of its row when its latest owner ended
        self._free: list[int] = []
        self._used = 1
        self._latest = 0
        self._lock = threading.Lock()

    def get(self, name: str, default: int) -> int:
        """Returns the number of a name, or `default` if it has none."""
        with self._lock:
            return self._numbers[self._identifiers[name]] if name in self._identifiers else default

    @property
    def has_free(self) -> bool:
        """Whether there is a number for another name."""
        return bool(self._free) or self._used <= INTERFACES

    @property
    def used(self) -> int:
        """How many numbers have ever been in use. These are 0 to used - 1."""
        return self._used

    def assign(self, name: str) -> tuple[int, int]:
        """Returns the identifier and the number of an interface that exists, and assigns them if it has none.

        Returns UNKNOWN_INTERFACE for both if no number is free.
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
        """Notes that an interface went away. assign() takes this back."""
        with self._lock:
            if name in self._identifiers:
                self._gone_ns[self._identifiers[name]] = self.now_ns()

    def gone(self) -> frozenset[Gone]:
        """Returns the interfaces that went away at least 5 s ago. Their counts are final unless they come back."""
        with self._lock:
            now_ns = self.now_ns()
            return frozenset(Gone(*item) for item in self._gone_ns.items() if now_ns - item[1] >= GONE_NS)

    def end(self, gone: Gone, raw: Counts) -> bool:
        """Frees the number of an interface, unless it came back. Returns whether the number was freed.

        `raw` is all that its row ever counted: (n,).
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
        """Returns the numbers of identifiers that are in use."""
        with self._lock:
            return [self._numbers[identifier] for identifier in identifiers]

    def counted(self, numbers: list[int], raw: Counts) -> Counts:
        """Returns what rows have counted for their current owners: (numbers, n).

        `raw` is all that the rows of these numbers ever counted: (numbers, n).
        """
        counts = raw.copy()
        for index, number in enumerate(numbers):
            if number in self._origins:
                counts[index] -= self._origins[number]
        return counts
