# SPDX-License-Identifier: Apache-2.0
"""The named networks that the program looks up (bpf/networks.h), and the slots that no longer belong to a network.

Each network has a number, which is part of the keys of its slots. A network with the same name and the same tags keeps
its number when the networks are changed. A number is never given to another network.

A change takes these steps:

1. The agent fills the trie that is not in use.
2. The agent switches the program to this trie, and begins an epoch. So each packet is counted either for the old
   networks or for the new networks.
3. At the next readings, the slots of networks that no longer exist, and of subnets that are now inside a network, are
   reclaimed like the slots of idle subnets (slots.py). So all readers read the final counts of these slots. A CPU may
   still claim a slot for an old network in the moment of step 2. So each new owner of a slot is checked.
4. After GRACE_NS, no CPU uses the old trie any more. The agent empties the old trie, and begins another epoch. So slots
   that a CPU has found in the old trie and cached in the new epoch are looked up again.
"""

import time
from collections.abc import Mapping

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf
from otel_epping.kernel.arrays import Flags, Records, Words, grow
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.prefix_table import PrefixTable
from otel_epping.kernel.program import Map
from otel_epping.kernel.read.control import Control
from otel_epping.kernel.read.slot_tables import FREE, states_of
from otel_epping.kernel.read.slots import GRACE_NS
from otel_epping.kernel.reading import FAMILY_NAMED
from otel_epping.networks.network import PREFIX, Network, Networks

_FIRST_NUMBER = 1
_NO_PREFIXES = np.zeros(0, PREFIX)


class NamedNetworks:
    """The named networks of a program. Only the thread that holds the collector's lock may use this object.

    by_number  all networks that are in use, and all earlier networks that still have a slot. A change replaces this
               mapping by a new mapping, so a reading can keep the mapping
    """

    def __init__(self, maps: Mapping[str, Map], control: Control, config: EppingConfig) -> None:
        self.by_number: Mapping[int, Network] = {}
        self._fds = [maps[f"networks_{trie}"].fd for trie in (0, 1)] if config.named_networks else []
        self._control, self._config = control, config
        self._next_number = _FIRST_NUMBER
        self._current: Words = np.zeros(0, np.uint32)
        self._table = PrefixTable(_NO_PREFIXES, self._current)
        self._keys: list[Records] = [self._table.entries(config).keys[:0]] * 2
        self._empty_ns = 0  # the time after which no CPU uses the old trie
        # The number of times that each slot was freed, plus 1, when its owner was checked; 0: not checked yet.
        self._checked: Words = np.zeros(0, np.uint32)
        self._is_obsolete = np.zeros(0, np.bool_)

    def change(self, networks: Networks) -> None:
        """Replaces all networks at once. Raises EppingError if the kernel has no memory; the old networks stay."""
        numbers, by_number = self._number(networks.networks)
        table = PrefixTable(networks.prefixes, numbers[networks.prefixes["network"]])
        entries = table.entries(self._config)
        self._empty_old_trie(wait=True)
        new = 1 - self._control.networks
        self._keys[new] = entries.keys
        try:
            libbpf.map_update_all(self._fds[new], entries.keys, entries.values)
            self._control.use_networks(new)
        except OSError as error:
            self._empty(new)
            raise EppingError(
                f"the kernel cannot store {len(networks.prefixes):,} prefixes of named networks ({error.strerror}): "
                "use fewer prefixes, or give the agent more memory"
            ) from error
        self._empty_ns = time.monotonic_ns() + GRACE_NS
        self._table, self._current, self.by_number = table, np.sort(numbers), by_number
        self._next_number = max(self._next_number, int(numbers.max(initial=0)) + 1)
        self._checked[:] = 0

    def _number(self, networks: tuple[Network, ...]) -> tuple[Words, dict[int, Network]]:
        """Returns the number of each network, and the new value of `by_number`."""
        known = {network: number for number, network in self.by_number.items()}
        by_number = dict(self.by_number)
        numbers = np.zeros(len(networks), np.uint32)
        following = self._next_number
        for index, network in enumerate(networks):
            number = known.get(network)
            if number is None:
                number, following = following, following + 1
                by_number[number] = network
            numbers[index] = number
        return numbers, by_number

    def _empty(self, trie: int) -> None:
        libbpf.map_delete_all(self._fds[trie], self._keys[trie])
        self._keys[trie] = self._keys[trie][:0]

    def _empty_old_trie(self, *, wait: bool = False) -> None:
        """Empties the trie that is not in use, if no CPU can use it any more, or if `wait` is true."""
        old = 1 - self._control.networks
        if not len(self._keys[old]):
            return
        left_ns = self._empty_ns - time.monotonic_ns()
        if left_ns > 0:
            if not wait:
                return
            time.sleep(left_ns / 1e9)
        self._empty(old)
        self._control.begin_epoch()

    def tidy(self, slots: Records) -> None:
        """Empties the old trie when no CPU uses it any more, and forgets old networks that have no slot.

        slots  (rows,) the program's records of all slots in use
        """
        if not self._fds:
            return
        self._empty_old_trie()
        if len(self.by_number) == len(self._current) or time.monotonic_ns() < self._empty_ns:
            return
        is_named = (slots["key"]["family"] == FAMILY_NAMED) & (states_of(slots) != FREE)
        with_slots = np.unique(slots["key"]["prefix"]["half"][is_named, 0])
        kept = set(self._current.tolist()) | set(with_slots.tolist())
        if len(kept) < len(self.by_number):
            self.by_number = {number: network for number, network in self.by_number.items() if number in kept}

    def obsolete(self, slots: Records, owners: Words) -> Flags:
        """Returns an array that is true for each slot whose owner no longer exists, so that the slot must be reclaimed.

        The owner is a network that is no longer named, or a subnet that is completely inside a named network.

        slots   (rows,) the program's records of the slots
        owners  (rows,) the number of times that each slot was freed
        """
        rows = len(slots)
        self._checked, self._is_obsolete = grow(self._checked, rows), grow(self._is_obsolete, rows)
        if self._fds:
            states = states_of(slots)
            self._checked[:rows][states == FREE] = 0
            new = np.flatnonzero((states != FREE) & (self._checked[:rows] != owners + np.uint32(1)))
            if len(new):
                self._checked[new] = owners[new] + np.uint32(1)
                self._is_obsolete[new] = self._are_obsolete(slots["key"][new])
        return self._is_obsolete[:rows]

    def _are_obsolete(self, keys: Records) -> Flags:
        halves, families = np.ascontiguousarray(keys["prefix"]["half"]), keys["family"]
        is_obsolete = np.zeros(len(keys), np.bool_)
        is_named = families == FAMILY_NAMED
        is_obsolete[is_named] = ~np.isin(halves[is_named, 0], self._current)
        subnets = ~is_named
        if len(self._current):
            is_obsolete[subnets] = self._table.contains_subnets(halves[subnets], families[subnets], self._config)
        return is_obsolete
