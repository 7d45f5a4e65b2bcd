# SPDX-License-Identifier: Apache-2.0
"""Chooses the slots that make room for other subnets when the table of slots is nearly full."""

import numpy as np

from otel_epping.kernel.arrays import Indexes, Times


def victims(covering: Indexes, changed_ns: Times, number: int) -> Indexes:
    """Returns the indexes of the slots to reclaim: the quietest slots of the covering prefixes with the most slots.

    All covering prefixes with more than L slots keep L slots, the ones with the latest packets. L is chosen so that
    `number` slots are reclaimed. So a covering prefix with few slots keeps all of its slots, and an attacker with a
    large network loses the attacker's own slots.

    covering    (slots,) the covering prefix of each slot, as a number
    changed_ns  (slots,) the time at which each slot was last counted in
    number      the number of slots to reclaim, at most the number of slots
    """
    # The latest slot of each covering prefix has the rank 0, the next slot has the rank 1, and so on.
    order = np.lexsort((-changed_ns, covering))
    begins = np.flatnonzero(np.diff(covering[order], prepend=-1))
    lengths = np.diff(begins, append=len(order))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(begins, lengths)
    # The slots with the highest ranks are reclaimed. Of slots with equal ranks, the quietest slots are reclaimed.
    return np.lexsort((-changed_ns, rank))[::-1][:number]
