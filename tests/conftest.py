# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share: loaded kernel programs. The compilation of a program takes nearly a second.

The plug-ins in tests/support have further fixtures. They are listed here so that pytest shows the compared values if
one of their assertions fails. The first test that needs a lab, a namespace or a program creates it, for the whole
session.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from otel_epping.kernel.config import EppingConfig
from tests.support.prog_test_run import Bench

# A shell makes its background jobs ignore SIGINT. The programs that tests start inherit this, although tests send them
# SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.oracles.known",
    "tests.support.arrivals",
    "tests.support.command",
    "tests.support.hosts",
    "tests.support.lab_agent",
    "tests.support.packets",
    "tests.support.recorder",
]

# `make unit` uses this small number of examples. All other runs use Hypothesis' default of 100.
settings.register_profile("quick", max_examples=20)

EVERY = EppingConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skips files without unit tests if only unit tests are selected. Importing the skipped files would take as long as
    the tests."""
    if config.option.markexpr == "unit" and collection_path.match("test_*.py"):
        return "mark.unit" not in collection_path.read_text() or None
    return None


@pytest.fixture(scope="session")
def bench_of() -> Iterator[Callable[[EppingConfig], Bench]]:
    """Returns a function from a configuration to a bench. Tests share the benches, so each test uses its own flows and
    subnets."""
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
    """The bench whose program starts an RTT sample at every edge, without a sample interval."""
    return bench_of(EVERY)


@pytest.fixture
def bench(every: Bench) -> Bench:
    """The same bench as `every`. Files that need another configuration define their own `bench`."""
    return every
