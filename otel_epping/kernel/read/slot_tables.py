# SPDX-License-Identifier: Apache-2.0
"""The tables of slots, histograms and blocks, and the queues of their free rows (bpf/maps.h)."""

from collections.abc import Mapping

import numpy as np

from otel_epping.kernel import libbpf
from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, spread
from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.program import Map
from otel_epping.kernel.read import claims
from otel_epping.kernel.read.histograms import block_numbers, numbers_of

# The states of a slot. The lowest 8 bits of `state` in struct slot are the bits of enum slot_state. The next 24 bits of
# `state` are the covering prefix's row in the table `claims`. The highest 32 bits of `state` are the register and the
# rank of the subnet in the sketch of unanswered subnets (sketch.py).
FREE, NEWCOMER, ANSWERED = range(3)
_STATE_MASK = np.uint64(0xFF)
_COVERING_SHIFT, _COVERING_MASK = np.uint64(8), np.uint64(0xFFFFFF)
_RANK_SHIFT, _RANK_MASK, _REGISTER_SHIFT = np.uint64(32), np.uint64(0xFF), np.uint64(40)


def states_of(slots: Records) -> Counts:
    """Returns the state of each slot: FREE, NEWCOMER or ANSWERED."""
    return np.asarray(np.minimum(slots["state"] & _STATE_MASK, np.uint64(ANSWERED)))


def covering_of(slots: Records) -> Indexes:
    """Returns the row in the table `claims` for the covering prefix of each slot."""
    return np.asarray(slots["state"] >> _COVERING_SHIFT & _COVERING_MASK).view(np.int64)


def sketch_of(slots: Records) -> tuple[Indexes, Indexes]:
    """Returns the register and the rank that each newcomer has in the sketch."""
    words = slots["state"]
    return (words >> _REGISTER_SHIFT).view(np.int64), (words >> _RANK_SHIFT & _RANK_MASK).view(np.int64)


class SlotTables:
    """Frees slots together with their histograms and blocks."""

    def __init__(self, maps: Mapping[str, Map], arrays: Mapping[str, Array], config: EppingConfig) -> None:
        self.claims = claims.Claims(arrays["claims"])
        self._maps, self._arrays, self._config = maps, arrays, config

    def prepare_overflow(self) -> None:
        """Gives the last blocks of the table to the overflow histogram, which needs no other blocks."""
        first = 1 + self._config.max_blocks
        histogram = self._arrays["histograms"].rows(0, 1, writable=True)
        pairs = np.zeros((histogram["blocks"].shape[1], 2), np.uint64)
        numbers = np.arange(first, self._arrays["blocks"].length)
        pairs.ravel()[: len(numbers)] = numbers
        histogram["blocks"][0] = pairs[:, 0] | pairs[:, 1] << np.uint64(32)

    def _give(self, queue: str, rows: Indexes) -> None:
        for row in rows.astype(np.uint32):
            libbpf.map_update(self._maps[queue].fd, None, row.tobytes())

    def delete_keys(self, keys: Records) -> Flags:
        """Deletes keys of subnets. Returns an array that is true for the keys that existed."""
        fd = self._maps["subnets"].fd
        return np.array([libbpf.map_delete(fd, key.tobytes()) for key in keys], np.bool_)

    def free(self, slots: Indexes) -> Indexes:
        """Clears slots whose counts can no longer change, and returns them to the program for reuse.

        Returns the histograms that were freed together with the slots.
        """
        records = self._arrays["slots"].rows(0, int(slots.max()) + 1)[slots]
        histograms = _used(numbers_of(records["histograms"]))
        blocks = histograms[:0]
        if len(histograms):
            headers = self._arrays["histograms"].rows(0, int(histograms.max()) + 1)[histograms]
            blocks = _used(block_numbers(headers))
        cpus = possible_cpus()
        for name, rows in (
            ("blocks", blocks),
            ("histograms", histograms),
            ("flow_counters", slots),
            ("traffic", spread(slots, cpus)),
            ("slots", slots),
        ):
            self._arrays[name].clear(rows)
        self.claims.release(claims.SLOTS, len(slots))
        self.claims.release(claims.NEWCOMERS, int(np.count_nonzero(states_of(records) == NEWCOMER)))
        self.claims.release(claims.HISTOGRAMS, len(histograms))
        self.claims.release(claims.BLOCKS, len(blocks))
        self.claims.release_covering(covering_of(records))
        self._give("free_blocks", blocks)
        self._give("free_histograms", histograms)
        self._give("free_slots", slots)
        return histograms


def _used(numbers: Indexes) -> Indexes:
    """Returns the numbers that are not 0."""
    return np.asarray(numbers[numbers != 0])
