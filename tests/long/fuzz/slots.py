# SPDX-License-Identifier: Apache-2.0
"""Models which subnets get a slot, a histogram or blocks of buckets. Implements the rules of docs/design.md.

A subnet is a newcomer until a packet of the subnet has replied to an earlier packet. A newcomer gets a slot only if
few newcomers have slots. All limits depend on the number of rows that are free when a row is claimed.
"""

import bisect
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from otel_epping.kernel import buckets
from otel_epping.kernel.config import EppingConfig

HASH_KEY = 0x9E3779B97F4A7C15
FREE_PER_NEWCOMER, COVERING_PER_FREE = 3, 24
COVERING_BITS = {4: 8, 6: 32}
COVERING_ROWS = REGISTERS = 4096
BLOCK = 16  # buckets
FAIR_BLOCKS = 4


class Subnet(NamedTuple):
    """The key under which traffic is counted."""

    version: int
    prefix: bytes
    side: int


OVERFLOW = Subnet(0, b"overflow", 0)
UNANSWERED = Subnet(0, b"unanswered", 0)
SHARED = (OVERFLOW, UNANSWERED)


class Histogram(NamedTuple):
    """The key under which RTTs are counted."""

    subnet: Subnet
    method: str


OVERFLOW_HISTOGRAM = Histogram(OVERFLOW, "")


@dataclass
class Slots:
    """The subnets that have slots, and their histograms.

    answered    subnet -> true if the subnet is no newcomer. The keys are the subnets that have a slot
    histograms  histogram -> numbers of its blocks of 16 buckets
    registers   the sketch of newcomers without a slot: register -> rank
    """

    config: EppingConfig
    answered: dict[Subnet, bool] = field(default_factory=dict)
    histograms: dict[Histogram, set[int]] = field(default_factory=dict)
    registers: Counter[int] = field(default_factory=Counter)
    _by_covering: Counter[int] = field(default_factory=Counter)

    def find(self, subnet: Subnet, answered: bool) -> Subnet:
        """Returns the subnet if it has or gets a slot, and otherwise a shared slot.

        answered  true if a packet of the subnet is a reply to an earlier packet
        """
        if subnet in self.answered:
            return subnet
        row = covering_row(subnet)
        free = self.config.max_slots - len(self.answered)
        newcomers = sum(not each for each in self.answered.values())
        if (answered or newcomers * FREE_PER_NEWCOMER < free) and self._by_covering[row] < free * COVERING_PER_FREE:
            self.answered[subnet] = answered
            self._by_covering[row] += 1
            return subnet
        if answered:
            return OVERFLOW
        register, rank = in_sketch(subnet)
        self.registers[register] = max(self.registers[register], rank)
        return UNANSWERED

    def histogram(self, subnet: Subnet, method: str, rtt_ns: int) -> Histogram:
        """Returns the histogram in which an RTT is counted. Claims a histogram and a block if necessary."""
        bucket = bisect.bisect_left(edges(self.config.scale), rtt_ns) - 1
        wanted = Histogram(subnet, method)
        if subnet in SHARED:
            return OVERFLOW_HISTOGRAM
        if wanted not in self.histograms:
            has_another = any(each.subnet == subnet for each in self.histograms)
            if not self._may_claim(subnet, len(self.histograms), self.config.max_histograms, has_another):
                return OVERFLOW_HISTOGRAM
            self.histograms[wanted] = set()
        blocks = self.histograms[wanted]
        if bucket // BLOCK not in blocks:
            used, has_fair_share = sum(map(len, self.histograms.values())), len(blocks) >= self.fair_blocks
            if not self._may_claim(subnet, used, self.config.max_blocks, has_fair_share):
                return OVERFLOW_HISTOGRAM
            blocks.add(bucket // BLOCK)
        return wanted

    @property
    def fair_blocks(self) -> int:
        """The number of blocks that each histogram gets even if few blocks are free."""
        return FAIR_BLOCKS << max(0, self.config.scale - 4)

    def _may_claim(self, subnet: Subnet, used: int, limit: int, has_fair_share: bool) -> bool:
        """Returns whether a subnet may claim one more of `limit` histograms or blocks."""
        free, is_large = limit - used, self._by_covering[covering_row(subnet)] > self.config.max_slots // 4
        if is_large and free <= limit // 8:
            return False
        return free > limit // (4 if is_large else 16) or (free > 0 and not has_fair_share)

    def usage(self) -> dict[str, int]:
        """Returns the numbers of slots, newcomers, histograms and blocks in use."""
        return {
            "slots": len(self.answered),
            "newcomers": sum(not each for each in self.answered.values()),
            "histograms": len(self.histograms),
            "blocks": sum(map(len, self.histograms.values())),
        }


@cache
def edges(scale: int) -> list[int]:
    """Returns the edges of all buckets in ns. Bucket i counts values above edge i, up to and including edge i + 1."""
    first = buckets.first_index(scale)
    return [buckets.edge_ns(index, scale) for index in range(first, first + buckets.bucket_count(scale) + 1)]


def covering_row(subnet: Subnet) -> int:
    """Returns the number of the row that counts the slots of a subnet's covering prefix."""
    packed = bytearray(_packed(subnet))
    bits = COVERING_BITS[subnet.version] + (96 if subnet.version == 4 else 0)
    packed[bits // 8 :] = bytes(16 - bits // 8)
    return _hash(bytes(packed)) >> 64 - 12


def in_sketch(subnet: Subnet) -> tuple[int, int]:
    """Returns the register and the rank of a subnet. The rank is 1 plus the number of zeros that follow the first 12
    bits of the hash."""
    number = _hash(_packed(subnet), rounds=4)
    rest = number % (1 << 52) | 1
    return number >> 52, 52 - rest.bit_length() + 1


def _packed(subnet: Subnet) -> bytes:
    """Returns the prefix as an IPv6 address. IPv4 addresses are mapped (RFC 4291 section 2.5.5.2)."""
    return subnet.prefix if subnet.version == 6 else bytes(10) + b"\xff\xff" + subnet.prefix


def _hash(packed: bytes, rounds: int = 3) -> int:
    number = HASH_KEY
    for word in (packed[:8], packed[8:], b"", b"")[:rounds]:
        number = (number ^ int.from_bytes(word, sys.byteorder)) * HASH_KEY % (1 << 64)
        number ^= number >> 32
    return number
