# SPDX-License-Identifier: Apache-2.0
"""Estimates how many different subnets have not answered (HyperLogLog).

A hash of a subnet selects one of 4,096 registers. A register stores the greatest rank of its subnets. The rank of a
subnet is the number of leading zeros in the rest of the hash, plus 1. The estimate has a standard error of 1.6 % or
less. Source of the algorithm: "HyperLogLog" by Flajolet, Fusy, Gandouet and Meunier, 2007. Source of the estimate: "New
cardinality estimation algorithms for HyperLogLog sketches" by Ertl, 2017.

For a newcomer without a slot, the program updates a register of the sketch (bpf/subnet.h). For a newcomer with a slot,
the program stores the register and the rank in the slot.
"""

import math

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, Indexes

REGISTERS = 4096
_RANK_BITS = np.uint64(8)
_RANK_MASK = np.uint64(0xFF)

Ranks = npt.NDArray[np.uint8]


def ranks_of(interval: int, words: Counts) -> Ranks:
    """Returns the ranks of an interval from the program's registers. The shapes are (REGISTERS,).

    The rank is 0 if the program last wrote the register in another interval.
    """
    ranks = np.where(words >> _RANK_BITS == np.uint64(interval), words & _RANK_MASK, np.uint64(0))
    return ranks.astype(np.uint8)


def _sigma(empty: float) -> float:
    """Returns Ertl's function sigma, which corrects the estimate for empty registers.

    empty  the share of the registers that are empty, below 1
    """
    total, previous, weight = empty, -1.0, 1.0
    while total != previous:
        previous, empty = total, empty * empty
        total += empty * weight
        weight *= 2
    return total


class Sketch:
    """The HyperLogLog registers of one reader."""

    def __init__(self) -> None:
        self._ranks: Ranks = np.zeros(REGISTERS, np.uint8)

    def merge(self, ranks: Ranks) -> None:
        """Merges the registers of another sketch into this sketch. The shape of `ranks` is (REGISTERS,)."""
        np.maximum(self._ranks, ranks, out=self._ranks)

    def add(self, registers: Indexes, ranks: Indexes) -> None:
        """Adds subnets. `registers` and `ranks` have the shape (subnets,)."""
        np.maximum.at(self._ranks, registers, ranks.astype(np.uint8))

    def take(self) -> int:
        """Returns the estimated number of different subnets since the previous call, and clears the sketch."""
        ranks = self._ranks[self._ranks != 0].astype(np.float64)
        self._ranks[:] = 0
        if not len(ranks):
            return 0
        empty = REGISTERS * _sigma(1 - len(ranks) / REGISTERS)
        return round(REGISTERS**2 / (2 * math.log(2)) / (empty + float(np.sum(2.0**-ranks))))
