# SPDX-License-Identifier: Apache-2.0
"""Tests the table of subnets with readings made by SyntheticKernel."""

from typing import Any

import pytest

from otel_epping.kernel.config import EppingConfig
from otel_epping.replay.subnet_table import table
from otel_epping.series.grouping import Grouping
from tests.support.conversation import rows_of
from tests.support.many_subnets import network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

CONFIG = EppingConfig(max_subnets=64)
MS = 1_000_000


def table_of(kernel: SyntheticKernel) -> str:
    collector: Any = SyntheticCollector(kernel)
    reader: Any = kernel.readers[0]
    return table(reader.read(), reader, collector, Grouping())


def test_all_subnets_that_never_answered_share_one_line() -> None:
    kernel = SyntheticKernel(CONFIG, newcomers=3)
    kernel.reader()
    for subnet in range(20):
        kernel.packet(subnet, 100)
        if subnet == 10:
            kernel.take_back_newcomers()
    kernel.rtt(30, 0, 5 * MS)
    kernel.rtt(30, 3, 7 * MS)
    kernel.packet(30, 1000)
    kernel.unanswered = 1_234
    name = str(network_of(30))
    assert rows_of(table_of(kernel)) == {
        ("never answered (1,234 subnets)", "-"): ["0", "20", "2,000"],
        (name, "tcp_timestamp"): ["1", *["5.000"] * 5, "1", "1,000"],
        (name, "icmp_echo"): ["1", *["7.000"] * 5],
    }


def test_the_overflow_point_has_one_line_for_all_methods() -> None:
    kernel = SyntheticKernel(CONFIG)
    kernel.reader()
    kernel.free_rows = []
    kernel.packet(1, 100)
    kernel.rtt(1, 0, 5 * MS)
    kernel.rtt(2, 3, 5 * MS)
    kernel.unanswered = 1
    assert rows_of(table_of(kernel)) == {
        ("never answered (1 subnet)", "-"): ["0", "1", "100"],
        ("all others", "all"): ["2", *["5.000"] * 5, "0", "0"],
    }
