# SPDX-License-Identifier: Apache-2.0
"""Checks the tables of slots, histograms and blocks, and the table `claims` (bpf/maps.h), which contains the number of
rows in use."""

from typing import NamedTuple

import numpy as np

from otel_epping.kernel import libbpf
from otel_epping.kernel.read.histograms import block_numbers, numbers_of
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, SHARED_SLOTS
from tests.support.prog_test_run import Bench

# enum slot_state; an answered slot may have both bits
NEWCOMER, ANSWERED = 1, 2
# enum claims_row
_COVERING = 4


class Used(NamedTuple):
    """The numbers of slots, newcomers, histograms and blocks in use. `covering` has the number of slots of each
    covering prefix that has a slot, in ascending order."""

    slots: int
    newcomers: int
    histograms: int
    blocks: int
    covering: list[int]

    @property
    def answered(self) -> int:
        return self.slots - self.newcomers


def checked(bench: Bench, freed_rtts: int = 0) -> Used:
    """Returns how many rows are in use, after recount() and checks of the keys and the counts of all slots.
    `freed_rtts` is the number of RTTs whose slots were freed. Keys of slots that are being reclaimed are missing, so
    then only recount() can be used."""
    used = recount(bench)
    _check_keys(bench, np.flatnonzero(bench.slots["state"]).tolist())
    _check_counts(bench, freed_rtts)
    return used


def recount(bench: Bench) -> Used:
    """Returns how many rows are in use. Checks that the table `claims` has the same numbers as the other tables, and
    that each row has one owner."""
    states = bench.slots["state"].copy()
    assert not states[:SHARED_SLOTS].any(), "a shared slot has a state"
    rows = np.flatnonzero(states)
    bits = states & np.uint64(0xFF)
    assert set(bits[rows].tolist()) <= {NEWCOMER, ANSWERED, NEWCOMER | ANSWERED}
    covering = np.bincount((states[rows] >> np.uint64(8) & np.uint64(0xFFFFFF)).astype(np.int64))
    newcomers = int(np.count_nonzero(bits == NEWCOMER))

    owned = numbers_of(bench.slots["histograms"])[rows]
    slots, methods = np.nonzero(owned)
    histograms = owned[slots, methods]
    assert len(set(histograms.tolist())) == len(histograms), "a histogram has two owners"
    assert (bench.histograms["slot"][histograms] == rows[slots]).all()
    assert (bench.histograms["method"][histograms] == methods).all()
    assert not owned[bits[rows] == NEWCOMER].any(), "a newcomer has a histogram"

    numbers = block_numbers(bench.histograms[histograms])
    assert (bench.histograms["blocks_used"][histograms] == np.count_nonzero(numbers, axis=1)).all()
    blocks = numbers[numbers != 0]
    assert len(set(blocks.tolist())) == len(blocks), "a block has two owners"

    used = Used(len(rows), newcomers, len(histograms), len(blocks), sorted(covering[covering != 0].tolist()))
    table = bench.array("claims")
    in_use = (table["claimed"] - table["released"]).astype(np.int64)
    assert tuple(in_use[:_COVERING].tolist()) == used[:4]
    assert (in_use[_COVERING : len(covering)] == covering[_COVERING:]).all()
    assert not in_use[max(len(covering), _COVERING) :].any()
    usage = bench.collector.slots.usage()
    assert tuple(usage[name] for name in ("slots", "newcomers", "histograms", "blocks")) == used[:4]
    return used


def _check_keys(bench: Bench, rows: list[int]) -> None:
    """Checks that the key of each slot leads to the slot."""
    fd, keys = bench.collector.program.maps["subnets"].fd, bench.slots["key"]
    wrong = [row for row in rows if libbpf.map_lookup(fd, keys[row].tobytes(), 4) != row.to_bytes(4, "little")]
    assert not wrong, f"{len(wrong)} keys do not lead to their slots"


def _check_counts(bench: Bench, freed_rtts: int) -> None:
    """Checks that each histogram is consistent, and that all RTTs are counted."""
    ended = bench.histograms["ended"]
    assert (bench.histograms["began"] == ended).all()
    assert (ended[bench.histograms["slot"] == 0][1:] == 0).all(), "a histogram without a slot has RTTs"
    rows = np.flatnonzero(ended)
    numbers = block_numbers(bench.histograms[rows])
    counts = bench.blocks["buckets"][numbers].sum((1, 2), dtype=np.uint64)
    assert (counts == ended[rows]).all()
    assert int(ended.sum()) + freed_rtts == bench.counters()["rtt_measured"]


def overflow_rtts(bench: Bench) -> int:
    """Returns the number of RTTs in the overflow histogram."""
    return int(bench.histograms["ended"][OVERFLOW_HISTOGRAM])
