# SPDX-License-Identifier: Apache-2.0
"""Ranks subnets by their activity, to find those that get their own series."""

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, grow

# By how much more active a subnet must be than a subnet that is exported individually, to replace it.
_HYSTERESIS = 2.0
# Weight that packets and RTTs lose with each reading.
_DECAY = 0.5


class Ranking:
    """Activity of subnets. Arrays have a row for each subnet number (placement.py).

    The activity of a subnet is its number of packets and RTTs. Those counted since the previous reading have weight 1,
    those counted in the interval before that have weight 1/2, then 1/4, and so on.
    """

    def __init__(self) -> None:
        self._activity = np.zeros(0)
        self._rtts = np.zeros(0)  # all RTTs, with weight 1

    def reset(self, subnets: Indexes) -> None:
        """Forgets the activity of these subnets, whose numbers may belong to other subnets now."""
        self._activity[subnets] = self._rtts[subnets] = 0

    def update(self, subnets: int, row_subnets: Indexes, rtts: Counts, packets: Counts) -> None:
        """Adds what was counted since the previous reading.

        subnets        how many subnet numbers there are
        row_subnets    (rows,) subnet number of each row; may repeat
        rtts, packets  (rows,)
        """
        self._activity, self._rtts = grow(self._activity, subnets), grow(self._rtts, subnets)
        self._rtts += np.bincount(row_subnets, rtts, subnets)
        self._activity *= _DECAY
        self._activity += np.bincount(row_subnets, rtts + packets, subnets)

    def eligible(self, exists: Flags, min_rtts: int) -> Indexes:
        """Returns the existing subnets that have at least `min_rtts` RTTs."""
        return np.flatnonzero(exists & (self._rtts >= min_rtts))

    def busiest(self, eligible: Indexes, is_individual: Flags, limit: int) -> Indexes:
        """Returns the `limit` most active of these subnets, the most active first.

        A subnet that is exported individually keeps its series until another subnet is twice as active (hysteresis).
        """
        individual = is_individual[eligible]
        order = np.lexsort((individual, self._activity[eligible] * np.where(individual, _HYSTERESIS, 1.0)))
        return eligible[order[::-1][:limit]]
