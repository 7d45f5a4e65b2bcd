# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share: loaded kernel programs, which take most of a second each to compile.

The plug-ins in tests/support have further fixtures; pytest shows the compared values of their assertions. A lab, a
namespace or a program is made once for a session, by the first test that asks for it.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from otel_epping.kernel.config import EppingConfig
from tests.support.prog_test_run import Bench

# Background jobs of a shell ignore SIGINT, and so would the programs that tests start and send SIGINT to.
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

# `make unit` takes these few examples; all other runs take Hypothesis' default of 100.
settings.register_profile("quick", max_examples=20)

EVERY = EppingConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skips files without unit tests if only these are asked for: to import the others takes as long as the tests."""
    if config.option.markexpr == "unit" and collection_path.match("test_*.py"):
        return "mark.unit" not in collection_path.read_text() or None
    return None


@pytest.fixture(scope="session")
def bench_of() -> Iterator[Callable[[EppingConfig], Bench]]:
    """A bench for a configuration. Tests share it, so each test uses its own flows and subnets."""
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
    """The bench that starts an RTT sample with every edge."""
    return bench_of(EVERY)


@pytest.fixture
def bench(every: Bench) -> Bench:
    """The same bench. Files that need another configuration define their own `bench`."""
    return every
