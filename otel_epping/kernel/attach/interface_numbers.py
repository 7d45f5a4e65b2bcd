# SPDX-License-Identifier: Apache-2.0
"""Identifiers and numbers of interfaces.

An interface has two of them (struct interface of bpf/maps.h). The number is that of a row of counters, of which there
are few, so it is used again. The identifier is part of all keys: of slots, flows, pairs and transactions. It is not
used again until all 65,535 were, so what the program still remembers of an interface that is gone is not taken for
that of another one.

Both belong to a name, and stay when the interface goes away and comes back. They end when the interface has been gone
for a while and all of its counts were delivered.
"""

import threading
import time

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.reading import Gone

# bpf/maps.h
INTERFACES = 1024
UNKNOWN_INTERFACE = 0
_IDENTIFIERS = 1 << 16

# Far longer than any run of the program.
GONE_NS = 5_000_000_000

Counts = npt.NDArray[np.uint64]


class InterfaceNumbers:
    """Which name has which identifier and number. For any thread.

    names  identifier -> name; '' for all interfaces without a number
    """

    def __init__(self) -> None:
        self.names = {UNKNOWN_INTERFACE: ""}
        self.now_ns = time.monotonic_ns
        self._identifiers: dict[str, int] = {}
        self._numbers = {UNKNOWN_INTERFACE: UNKNOWN_INTERFACE}  # by identifier
        self._gone_ns: dict[int, int] = {}  # by identifier
        self._origins: dict[int, Counts] = {}  # by number: what its row had counted before it was used again
        self._free: list[int] = []
        self._used = 1  # numbers that ever were in use
        self._latest = 0
        self._lock = threading.Lock()

    def get(self, name: str, default: int) -> int:
        """The number of a name."""
        with self._lock:
            return self._numbers[self._identifiers[name]] if name in self._identifiers else default

    @property
    def has_free(self) -> bool:
        """Whether another name gets a number."""
        return bool(self._free) or self._used <= INTERFACES

    @property
    def used(self) -> int:
        """How many numbers ever were in use; they are the first ones."""
        return self._used

    def take(self, name: str) -> tuple[int, int]:
        """Identifier and number of an interface that is there; those of unknown interfaces if no number is free."""
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

    def leave(self, name: str) -> None:
        """An interface went away."""
        with self._lock:
            if name in self._identifiers:
                self._gone_ns[self._identifiers[name]] = self.now_ns()

    def gone(self) -> frozenset[Gone]:
        """Interfaces that went away long enough ago for their counts to be final, unless they come back."""
        with self._lock:
            now_ns = self.now_ns()
            return frozenset(Gone(*item) for item in self._gone_ns.items() if now_ns - item[1] >= GONE_NS)

    def end(self, gone: Gone, raw: Counts) -> bool:
        """Frees the number of an interface, unless it came back; `raw` is all that its row ever counted, (n,)."""
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
        """The numbers of some identifiers that are in use."""
        with self._lock:
            return [self._numbers[identifier] for identifier in identifiers]

    def counted(self, numbers: list[int], raw: Counts) -> Counts:
        """What rows counted for the interfaces that have them now; `raw` is all that they ever did, (numbers, n)."""
        made = raw.copy()
        for place, number in enumerate(numbers):
            if number in self._origins:
                made[place] -= self._origins[number]
        return made
