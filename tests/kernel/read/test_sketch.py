# SPDX-License-Identifier: Apache-2.0
"""Checks the estimated number of different subnets, with hashes from a random number generator."""

import numpy as np
import pytest

from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.read.sketch import REGISTERS, Sketch, ranks_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


def subnets(number: int, seed: int = 1) -> tuple[Indexes, Indexes]:
    """Return the registers and the ranks of random subnets. Half of the subnets have the rank 1, a quarter 2, ..."""
    chance = np.random.default_rng(seed)
    return chance.integers(0, REGISTERS, number), chance.geometric(0.5, number).astype(np.int64)


@pytest.mark.parametrize("number", [0, 1, 5, 300, 5_000, 20_000, 1_000_000])
def test_the_estimate_is_close_to_the_number(number: int) -> None:
    sketch = Sketch()
    sketch.add(*subnets(number))
    assert sketch.take() == pytest.approx(number, rel=0.06, abs=1)  # 3.7 standard errors


def test_a_subnet_counts_once_and_each_estimate_starts_again() -> None:
    registers, ranks = subnets(3_000)
    once, twice = Sketch(), Sketch()
    once.add(registers, ranks)
    for _ in range(2):
        twice.add(registers, ranks)
    expected = once.take()
    assert twice.take() == expected
    assert (once.take(), twice.take()) == (0, 0)


def test_merged_registers_estimate_the_union() -> None:
    registers, ranks = subnets(6_000)
    whole, merged = Sketch(), Sketch()
    whole.add(registers, ranks)
    merged.add(registers[:2_000], ranks[:2_000])
    others = np.zeros(REGISTERS, np.uint8)
    np.maximum.at(others, registers[1_000:], ranks[1_000:].astype(np.uint8))
    merged.merge(others)
    assert merged.take() == whole.take()


def test_registers_of_other_intervals_are_empty() -> None:
    interval = 2**31 + 7
    words = np.zeros(REGISTERS, np.uint64)
    words[1], words[2], words[3] = interval << 8 | 52, interval - 2 << 8 | 9, interval + 2 << 8 | 9
    ranks = ranks_of(interval, words)
    assert ranks[1] == 52
    assert np.count_nonzero(ranks) == 1
