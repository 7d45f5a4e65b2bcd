# SPDX-License-Identifier: Apache-2.0
"""Tests that docs/links.md, the kernel program and the fuzzer's model support the same link headers."""

import re
from pathlib import Path

import pytest

from otel_epping.kernel.load.loader import source_folder
from scripts import links_page
from tests.long.fuzz import links as model

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


ROOT = Path(__file__).parents[2]
HEADERS = (source_folder() / "link_headers.h").read_text()
# linux/if_ether.h
NAMED = {
    "ETH_P_IP": 0x0800,
    "ETH_P_IPV6": 0x86DD,
    "ETH_P_PPP_SES": 0x8864,
    "ETH_P_MPLS_UC": 0x8847,
    "ETH_P_MPLS_MC": 0x8848,
}


def test_the_page_is_generated_from_the_tables() -> None:
    assert (ROOT / "docs/links.md").read_text() == links_page.markdown(), "run `make docs`"


def test_headers_of_a_fixed_size_are_those_of_the_model() -> None:
    rows = re.findall(r"ROW\((0x[0-9a-f]+), (\d+)\)", HEADERS)
    # The sizes in the model do not include the EtherType field at the end of a header.
    assert {int(ethertype, 16): int(size) - 2 for ethertype, size in rows} == model.FIXED
    assert [int(ethertype, 16) for ethertype, _ in links_page.fixed_headers()] == [int(row[0], 16) for row in rows]


def test_all_other_headers_are_on_the_page_and_in_the_model() -> None:
    named = NAMED | {name: int(value, 16) for name, value in re.findall(r"#define (ETH_P_\w+) (0x\w+)", HEADERS)}
    cases = {named[name] for name in re.findall(r"case (ETH_P_\w+):", HEADERS)}
    listed = {int(value, 16) for row in links_page.VARIABLE for value in re.findall(r"0x\w{4}", row[0])}
    assert cases == {*model.READERS, model.JUMBO_LLC}
    assert listed == {*cases, 0, model.LONGEST_802_3}
