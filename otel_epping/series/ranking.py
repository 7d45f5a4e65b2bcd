# SPDX-License-Identifier: Apache-2.0
"""Ranks subnets by their activity, to find the subnets that get series of their own."""

from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow

# A subnet replaces an individually exported subnet only if its activity is more than _HYSTERESIS times as high.
_HYSTERESIS = 2.0
# At each reading, the weight of earlier packets and RTTs is multiplied by _DECAY.
_DECAY = 0.5


class Weights(NamedTuple):
    """Numbers that are added to the activity of subnets.

    subnets  (n,) the subnet number of each entry; a number may repeat
    counts   (n,) the number that is added to the activity of the subnet
    """

    subnets: Indexes
    counts: Counts


class Ranking:
    """The activity of subnets. Arrays have one row for each subnet number (placement.py).

    The activity of a subnet is the weighted number of its packets and RTTs. Packets and RTTs of the latest interval
    have the weight 1. The weight is halved with each earlier interval: 1/2, 1/4, and so on.
    """

    def __init__(self) -> None:
        self._activity = np.zeros(0)
        self._rtts = np.zeros(0)  # the unweighted number of RTTs of each subnet

    def reset(self, subnets: Indexes) -> None:
        """Sets the activity of the given subnet numbers to 0, because the numbers may belong to other subnets now."""
        self._activity[subnets] = self._rtts[subnets] = 0

    def update(self, subnets: int, rtts: Weights, packets: Weights) -> None:
        """Adds the RTTs and packets that were counted since the previous reading.

        subnets        the number of rows that the arrays need, one for each subnet number
        rtts, packets  the new RTTs and packets
        """
        self._activity, self._rtts = grow(self._activity, subnets), grow(self._rtts, subnets)
        new_rtts = np.bincount(*rtts, subnets)
        self._rtts += new_rtts
        self._activity *= _DECAY
        self._activity += new_rtts + np.bincount(*packets, subnets)

    def eligible(self, exists: Flags, min_rtts: int) -> Indexes:
        """Returns the existing subnets that have at least `min_rtts` RTTs."""
        return np.flatnonzero(exists & (self._rtts >= min_rtts))

    def busiest(self, eligible: Indexes, is_individual: Flags, limit: int) -> Indexes:
        """Returns up to `limit` subnets of `eligible`, the most active subnet first.

        The activity of individually exported subnets is doubled before subnets are compared. So an individually
        exported subnet keeps its series until another subnet is more than twice as active as this subnet (hysteresis).
        """
        individual = is_individual[eligible]
        order = np.lexsort((individual, self._activity[eligible] * np.where(individual, _HYSTERESIS, 1.0)))
        return eligible[order[::-1][:limit]]
