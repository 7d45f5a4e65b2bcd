# SPDX-License-Identifier: Apache-2.0
"""Creates the loaded kernel programs that several test files share. A program takes nearly a second to compile.

The plug-ins in tests/support define more fixtures. This file lists the plug-ins, so that pytest shows the compared
values if an assertion in a plug-in fails. A lab, a namespace or a program is created for the first test that needs it,
and is kept for the whole session.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from otel_epping.kernel.config import EppingConfig
from tests.support.prog_test_run import Bench

# A shell makes its background jobs ignore SIGINT. The programs that tests start would then ignore SIGINT, too. But
# tests send SIGINT to the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.oracles.known",
    "tests.support.arrivals",
    "tests.support.command",
    "tests.support.contract",
    "tests.support.full_bench",
    "tests.support.hosts",
    "tests.support.lab_agent",
    "tests.support.packets",
    "tests.support.recorder",
]

# `make unit` uses the profile "quick", which has 20 examples. All other runs use Hypothesis' default of 100 examples.
settings.register_profile("quick", max_examples=20)

EVERY = EppingConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skips files without unit tests if only unit tests are selected. Importing the skipped files would take as long as
    running the unit tests."""
    if config.option.markexpr == "unit" and collection_path.match("test_*.py"):
        return "mark.unit" not in collection_path.read_text() or None
    return None


@pytest.fixture(scope="session")
def bench_of() -> Iterator[Callable[[EppingConfig], Bench]]:
    """Returns a function that takes a configuration and returns a bench (a loaded program). Tests share the benches, so
    each test uses its own flows and subnets."""
    benches: dict[EppingConfig, Bench] = {}

    def bench_of(config: EppingConfig) -> Bench:
        if config not in benches:
            benches[config] = Bench(config)
        return benches[config]

    yield bench_of
    for bench in benches.values():
        bench.close()


@pytest.fixture
def every(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    """The bench with a program that has no sample interval, so that no RTT sample is skipped."""
    return bench_of(EVERY)


@pytest.fixture
def bench(every: Bench) -> Bench:
    """By default, the fixture `bench` is the same object as the fixture `every`. A test file that needs another
    configuration defines its own fixture `bench`."""
    return every
