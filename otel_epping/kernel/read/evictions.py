# SPDX-License-Identifier: Apache-2.0
"""Chooses the slots to reclaim for other subnets when the table of slots is nearly full."""

import numpy as np

from otel_epping.kernel.arrays import Indexes, Times


def victims(covering: Indexes, changed_ns: Times, number: int) -> Indexes:
    """Returns the indexes of the slots to reclaim: the quietest slots of the covering prefixes with the most slots.

    Each covering prefix with more than L slots keeps only the L slots that had the latest packets. L is chosen so that
    `number` slots are reclaimed. So a covering prefix with few slots keeps all of its slots. If an attacker fills the
    table from a large network, slots of that network are reclaimed.

    covering    (slots,) the covering prefix of each slot, as a number
    changed_ns  (slots,) the time at which each slot was last counted in
    number      the number of slots to reclaim, at most the number of slots
    """
    # In each covering prefix, the slot with the latest packet has the rank 0, the slot with the second latest packet
    # has the rank 1, and so on.
    order = np.lexsort((-changed_ns, covering))
    begins = np.flatnonzero(np.diff(covering[order], prepend=-1))
    lengths = np.diff(begins, append=len(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(begins, lengths)
    # The slots with the highest ranks are reclaimed. Among slots with equal ranks, the slots that were idle for the
    # longest time are reclaimed first.
    return np.lexsort((-changed_ns, rank))[::-1][:number]
