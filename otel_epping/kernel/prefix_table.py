# SPDX-License-Identifier: Apache-2.0
"""Longest-prefix match in user space, and the entries of the kernel's tries of named networks (bpf/networks.h)."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Words
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.network import Networks

# struct network_key and struct network (bpf/networks.h). The words of a key are 16 bytes in network byte order.
KEY = np.dtype([("length", "u4"), ("address", "u1", 16)])
VALUE = np.dtype([("number", "u4"), ("flags", "u4")])
SPLIT_SUBNET, SPLIT_64 = 1, 2  # enum network_flags
# A prefix of IPv4 is an IPv4-mapped prefix: ::ffff:0:0/96 and 0 to 32 further bits.
_IPV4_LENGTH = 96
_IPV4_WORDS = np.array([0, 0xFFFF << 32], np.uint64)
# Bytes of a node of a trie. struct lpm_trie_node, the address and the value together have 48 to 64 bytes
# (kernel/bpf/lpm_trie.c), and the kernel's allocator rounds up to 64. A trie of n entries also has up to n - 1 nodes at
# which two prefixes branch.
_NODE_BYTES = 64


def _masks() -> Counts:
    """Returns the two halves of the mask of each prefix length, as an array of the shape (129, 2)."""
    masks = [((1 << 128) - (1 << (128 - length))) for length in range(129)]
    return np.array([divmod(mask, 1 << 64) for mask in masks], np.uint64)


_MASKS = _masks()


def words_of(addresses: npt.NDArray[Any]) -> Counts:
    """Returns the two halves of each address as numbers. `addresses` has 16 bytes in network byte order per row."""
    return np.ascontiguousarray(addresses).view(">u8").reshape(-1, 2).astype(np.uint64)


def _texts(words: Counts) -> npt.NDArray[np.bytes_]:
    """Returns the addresses as byte strings, which sort in the order of the addresses."""
    return np.ascontiguousarray(words.astype(">u8")).view("S16")[:, 0]


def _is_mapped(words: Counts) -> Flags:
    """Returns an array that is true for each IPv4-mapped address."""
    return np.asarray(((words & _MASKS[_IPV4_LENGTH]) == _IPV4_WORDS).all(axis=1))


class Entries(NamedTuple):
    """Elements of a trie: arrays of KEY and of VALUE with the same length."""

    keys: Records
    values: Records


class PrefixTable:
    """The prefixes of named networks, sorted by address and then by length.

    An additional prefix ::ffff:0:0/96 with the number 0 separates IPv4 from IPv6, unless a network has this prefix. So
    ::/0 contains no IPv4 address.
    """

    def __init__(self, prefixes: Records, numbers: Words) -> None:
        """Sorts the prefixes.

        prefixes  records of type networks.network.PREFIX
        numbers   (prefixes,) the number of the network of each prefix
        """
        words, lengths = words_of(prefixes["address"]), prefixes["length"].astype(np.int64)
        if not ((lengths == _IPV4_LENGTH) & (words == _IPV4_WORDS).all(axis=1)).any():
            words = np.concatenate([words, _IPV4_WORDS[None]])
            lengths, numbers = np.append(lengths, _IPV4_LENGTH), np.append(numbers, np.uint32(0))
        order = np.lexsort((lengths, words[:, 1], words[:, 0]))
        self._words, self._lengths, self._numbers = words[order], lengths[order], numbers[order]
        self._texts = _texts(self._words)
        self._parents = self._find_parents()

    def _find_parents(self) -> Indexes:
        """Returns, for each prefix, the row of the longest other prefix that contains it, or -1."""
        parents = np.full(len(self._lengths), -1, np.int64)
        starts = self._texts.tolist()
        ends = _texts(self._words | ~_MASKS[self._lengths]).tolist()
        containing: list[int] = []  # each prefix in this list contains the next one
        for row, start in enumerate(starts):
            while containing and ends[containing[-1]] < start:
                containing.pop()
            if containing:
                parents[row] = containing[-1]
            containing.append(row)
        return parents

    def find(self, words: Counts, longest: Indexes) -> Indexes:
        """Returns the row of the longest prefix that contains each address, or -1.

        words    (addresses, 2)
        longest  (addresses,) maximum prefix length for each address
        """
        # The last prefix that starts at or before an address is the wanted prefix, or is inside the wanted prefix.
        rows = np.searchsorted(self._texts, _texts(words), side="right") - 1
        left = np.flatnonzero(rows >= 0)
        while len(left):
            found = rows[left]
            differs = (words[left] ^ self._words[found]) & _MASKS[self._lengths[found]]
            left = left[(differs != 0).any(axis=1) | (self._lengths[found] > longest[left])]
            rows[left] = self._parents[rows[left]]
            left = left[rows[left] >= 0]
        return np.asarray(rows)

    def numbers_of(self, rows: Indexes) -> Words:
        """Returns the number of the network of each row that find() has returned, or 0 if there is no network."""
        return np.where(rows < 0, np.uint32(0), self._numbers[rows])

    def contains_subnets(self, addresses: npt.NDArray[Any], families: npt.NDArray[Any], config: EppingConfig) -> Flags:
        """Returns an array that is true for each subnet that is completely inside one prefix of a named network.

        addresses  (subnets, 16) bytes of the keys of slots
        families   (subnets,) 4 or 6
        """
        words = words_of(addresses)
        # find_network() of bpf/networks.h clears the same bit.
        words[(families == 6) & _is_mapped(words), 1] ^= np.uint64(1 << 32)
        lengths = np.where(families == 4, _IPV4_LENGTH + config.prefix_v4, config.prefix_v6)
        return np.asarray(self.numbers_of(self.find(words, lengths)) != 0)

    def entries(self, config: EppingConfig) -> Entries:
        """Returns the elements of the trie: all prefixes, and the markers of split prefixes (bpf/networks.h)."""
        is_ipv4 = (self._lengths >= _IPV4_LENGTH) & _is_mapped(self._words)
        subnets = np.where(is_ipv4, _IPV4_LENGTH + config.prefix_v4, config.prefix_v6)
        splits = [(self._lengths > subnets, subnets, SPLIT_SUBNET)]
        if config.prefix_v6 <= 64:  # the slot cache has one word for a prefix (PREFIX_WORDS, bpf/flow_maps.h)
            splits.append((~is_ipv4 & (self._lengths > 64), np.full(len(subnets), 64), SPLIT_SUBNET | SPLIT_64))
        flags = np.zeros(len(subnets), np.uint32)
        found = [(self._words, self._lengths, self._numbers, flags)]
        for longer, lengths, bits in splits:
            flags[longer] |= bits
            words, lengths = self._split_prefixes(longer, lengths)
            rows = self.find(words, lengths)
            exists = (rows >= 0) & (self._lengths[rows] == lengths)
            flags[rows[exists]] |= bits
            new = ~exists
            found.append((words[new], lengths[new], self.numbers_of(rows[new]), np.full(new.sum(), bits, np.uint32)))
        # If prefix_v6 is 64, an IPv6 marker is there twice. The second one, with all flags, replaces the first one.
        words, lengths, numbers, flags = (np.concatenate(parts) for parts in zip(*found, strict=True))
        keys, values = np.zeros(len(lengths), KEY), np.zeros(len(lengths), VALUE)
        keys["length"], keys["address"] = lengths, words.astype(">u8").view(np.uint8).reshape(-1, 16)
        values["number"], values["flags"] = numbers, flags
        return Entries(keys, values)

    def _split_prefixes(self, longer: Flags, lengths: Indexes) -> tuple[Counts, Indexes]:
        """Shortens the prefixes that `longer` selects to `lengths`. Returns words and lengths, each prefix once."""
        lengths = lengths[longer]
        words = self._words[longer] & _MASKS[lengths]
        # The prefixes are sorted. So equal prefixes of the same length follow each other.
        is_new = np.ones(len(words), np.bool_)
        is_new[1:] = (words[1:] != words[:-1]).any(axis=1) | (lengths[1:] != lengths[:-1])
        return words[is_new], lengths[is_new]


def kernel_bytes(networks: Networks, config: EppingConfig) -> int:
    """Returns the maximum memory in bytes that the kernel needs for named networks.

    While the networks are changed, the kernel has two tries: the old networks and the new networks. The result is the
    memory of two tries with these networks.
    """
    table = PrefixTable(networks.prefixes, networks.prefixes["network"] + np.uint32(1))
    return 2 * (2 * len(table.entries(config).keys) - 1) * _NODE_BYTES
