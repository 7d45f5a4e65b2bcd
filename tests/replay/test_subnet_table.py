# SPDX-License-Identifier: Apache-2.0
"""Tests the table of subnets with readings made by SyntheticKernel."""

import re
from pathlib import Path
from typing import Any

import pytest

from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.databases import Databases
from otel_epping.networks.pseudonyms import Pseudonyms, Show, unchanged
from otel_epping.replay.subnet_table import table
from otel_epping.series.grouping import ASN, COUNTRY, SUBNET, Grouping
from tests.support.conversation import rows_of
from tests.support.databases import write_database
from tests.support.many_subnets import network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

CONFIG = EppingConfig(max_subnets=64)
MS = 1_000_000


def table_of(kernel: SyntheticKernel, grouping: Grouping | None = None, show: Show = unchanged) -> str:
    collector: Any = SyntheticCollector(kernel)
    reader: Any = kernel.readers[0]
    return table(reader.read(), reader, collector, grouping or Grouping(), show)


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


@pytest.mark.parametrize(
    ("group_by", "first", "redacted_first"),
    [
        (SUBNET, [str(network_of(subnet)) for subnet in range(4)], [f"subnet-{number}" for number in range(1, 5)]),
        (ASN, ["64500 One", "64501", "no AS"], ["AS-1 organization-1", "AS-2", "no AS"]),
        (COUNTRY, ["DE", "FR", "no country"], ["DE", "FR", "no country"]),
    ],
)
def test_a_redacted_table(tmp_path: Path, group_by: str, first: list[str], redacted_first: list[str]) -> None:
    """Subnets, AS numbers and organisations are replaced. Countries, shared lines and counts stay."""
    one = {"asn": 64500, "as_name": "One", "country": "DE"}
    records = {str(network_of(0)): one, str(network_of(1)): one, str(network_of(2)): {"asn": 64501, "country": "FR"}}
    grouping = Grouping(group_by, databases=Databases([write_database(tmp_path / "as.mmdb", records)]))
    kernel = SyntheticKernel(CONFIG)
    kernel.reader()
    for subnet in range(4):
        kernel.rtt(subnet, 0, 5 * MS)
        for _ in range(9 - subnet):
            kernel.packet(subnet, 100)
    kernel.packet(9, 100)
    kernel.unanswered = 1

    plain, redacted = table_of(kernel, grouping), table_of(kernel, grouping, Pseudonyms())
    rows, redacted_rows = ([re.split(" {2,}", line) for line in text.splitlines()] for text in (plain, redacted))
    assert rows[0] == redacted_rows[0]
    assert [row[0] for row in rows[1:]] == [*first, "never answered (1 subnet)"]
    assert [row[0] for row in redacted_rows[1:]] == [*redacted_first, "never answered (1 subnet)"]
    if group_by == SUBNET:
        assert [row[1:3] for row in redacted_rows[1:4]] == [*[["AS-1 organization-1", "DE"]] * 2, ["AS-2", "FR"]]
    assert [row[-2:] for row in rows] == [row[-2:] for row in redacted_rows]  # packets and bytes
    assert not re.search("One|645|0/24", redacted)
