# SPDX-License-Identifier: Apache-2.0
"""Fixtures of more than one file of tests: loaded kernel programs, which take most of a second each to compile.

The helpers beside this file are plug-ins: so everybody has their fixtures, and their assertions say what they compared.
What a session can share (a lab, a namespace, a program) is made once, by whichever test asks for it first.
"""

import re
import signal
from collections.abc import Callable, Iterator

import pytest
from testrun import Bench

from otel_epping.kernel.config import EppingConfig

# A shell's background job ignores SIGINT, and so would all programs that are started here to be sent one.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["agent", "arrivals", "command", "known", "packets", "recorder"]

EVERY = EppingConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0)


# Files of tests that may run while others do. All the rest look for what is left in the kernel, or at the clock.
SIDE_BY_SIDE = re.compile(
    "test_(bounded.*|capture_.*|certificates|cli_arguments|cli_first_run|clock|complete|default_routes|delivery|"
    "distro|events_.*|exact|examples_commands|flow_table|fuzz|histogram|identity|interface_numbers|kernel_config|"
    "ledger|link|link_live|links_page|loader|logs|methods|mirror|network_header|oddities|oracles.*|packet_.*|pairs|"
    "pressure|privileges|process_(names|sandbox|streams)|reading|redaction|replay_.*|requirements|rollup|rules_.*|"
    "runs|sdk_points|sdk_variables|sequence|settings|sides|slots|telemetry|text|tunnel|undelivered|variables|"
    "wire_answers|wire_points|wire_request|writer)"
)


# Files of tests that need neither a kernel nor root, but for tests with one of the fixtures that do.
UNIT = re.compile(
    "test_(capture_.*|certificates|clock|delivery|events_format|examples_commands|histogram|ledger|links_page|logs|"
    "probes|project|redaction|requirements|runs|sdk_variables|settings|telemetry|text|undelivered|variables|wire_.*)"
)
KERNEL_FIXTURES = {"bench", "bench_of", "dtypes", "ns"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SIDE_BY_SIDE.fullmatch(item.path.stem):
            item.add_marker("side_by_side")
        if UNIT.fullmatch(item.path.stem) and KERNEL_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("unit")


@pytest.fixture(scope="session")
def bench_of() -> Iterator[Callable[[EppingConfig], Bench]]:
    """A bench for a configuration, the same for all who ask for it: use flows and subnets that nobody else uses."""
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
    """The bench that begins an RTT with every edge."""
    return bench_of(EVERY)


@pytest.fixture
def bench(every: Bench) -> Bench:
    """The same one, where there is no other to tell it from; files that need another have a `bench` of their own."""
    return every
