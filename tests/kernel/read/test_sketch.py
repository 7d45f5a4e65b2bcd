# SPDX-License-Identifier: Apache-2.0
"""Tests the estimate of the number of unanswered subnets with random hashes, without a kernel."""

import numpy as np
import pytest

from otel_epping.kernel.read.sketch import REGISTERS, Sketch, ranks_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


STANDARD_ERROR = 1.04 / REGISTERS**0.5


def add_random(sketch: Sketch, number: int, random: np.random.Generator) -> None:
    """Adds subnets with random hashes. A rank r has the probability 2^-r."""
    sketch.add(random.integers(0, REGISTERS, number), random.geometric(0.5, number))


@pytest.mark.parametrize("number", [0, 1, 2, 10, 100, 1000, 3000, 10_000, 12_000, 30_000, 100_000, 1_000_000])
def test_the_estimate(number: int) -> None:
    sketch, random = Sketch(), np.random.default_rng(number)
    add_random(sketch, number, random)
    assert sketch.take() == pytest.approx(number, rel=4 * STANDARD_ERROR, abs=0.5)
    assert sketch.take() == 0


@pytest.mark.parametrize("number", [1000, 10_000, 100_000])
def test_the_error_of_the_estimate(number: int) -> None:
    """The estimate has no bias, and its standard error is hardly larger than the theoretical standard error."""
    sketch, random, errors = Sketch(), np.random.default_rng(1), []
    for _ in range(200):
        add_random(sketch, number, random)
        errors.append(sketch.take() / number - 1)
    assert np.mean(errors) == pytest.approx(0, abs=4 * STANDARD_ERROR / 200**0.5)
    assert np.std(errors) < 1.2 * STANDARD_ERROR


def test_the_ranks_of_another_interval_do_not_count() -> None:
    words = np.zeros(REGISTERS, np.uint64)
    words[:3] = 7 << 8 | 5, 6 << 8 | 9, 7 << 8 | 1
    assert ranks_of(7, words)[:4].tolist() == [5, 0, 1, 0]
