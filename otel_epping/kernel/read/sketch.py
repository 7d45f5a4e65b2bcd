# SPDX-License-Identifier: Apache-2.0
"""Estimates how many different subnets have not answered (HyperLogLog).

A hash of a subnet selects one of 4,096 registers. A register has the greatest rank that occurred: the number of leading
zeros in the rest of the hash, plus 1. The standard error of the estimate is at most 1.6 %. Sources: Flajolet, Fusy,
Gandouet, Meunier: HyperLogLog, 2007, and for the estimate Ertl: New cardinality estimation algorithms for HyperLogLog
sketches, 2017.

The program counts a newcomer only if the newcomer has no slot (bpf/subnet.h). For newcomers with a slot, the program
stores the register and the rank in the slot.
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

    A register of another interval has the rank 0.
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
    """The registers of one reader."""

    def __init__(self) -> None:
        self._ranks: Ranks = np.zeros(REGISTERS, np.uint8)

    def merge(self, ranks: Ranks) -> None:
        """Adds the subnets of other registers. The shape of `ranks` is (REGISTERS,)."""
        np.maximum(self._ranks, ranks, out=self._ranks)

    def add(self, registers: Indexes, ranks: Indexes) -> None:
        """Adds subnets. Both arrays have the shape (subnets,)."""
        np.maximum.at(self._ranks, registers, ranks.astype(np.uint8))

    def take(self) -> int:
        """Returns the estimated number of different subnets since the previous call, and starts again with none."""
        ranks = self._ranks[self._ranks != 0].astype(np.float64)
        self._ranks[:] = 0
        if not len(ranks):
            return 0
        empty = REGISTERS * _sigma(1 - len(ranks) / REGISTERS)
        return round(REGISTERS**2 / (2 * math.log(2)) / (empty + float(np.sum(2.0**-ranks))))
