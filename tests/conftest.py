# SPDX-License-Identifier: Apache-2.0
"""Fixtures of more than one file of tests: loaded kernel programs, which take most of a second each to compile."""

from collections.abc import Callable, Iterator

import pytest
from testrun import Bench

from otel_epping.kernel.config import KernelConfig


@pytest.fixture(scope="session")
def bench_of() -> Iterator[Callable[[KernelConfig], Bench]]:
    """A bench for a configuration, the same for all who ask for it: use flows and subnets that nobody else uses."""
    benches: dict[KernelConfig, Bench] = {}

    def bench_of(config: KernelConfig) -> Bench:
        if config not in benches:
            benches[config] = Bench(config)
        return benches[config]

    yield bench_of
    for bench in benches.values():
        bench.close()
