# SPDX-License-Identifier: Apache-2.0
"""Tests reports about archives of ePPing: the sums of ePPing's own numbers are the numbers of the page.

The archives have the form that print_aggstats_json() and print_event_json() in pping/pping.c write: a histogram ends
with its last used bin, `mean_rtt` has few digits, and a network without RTTs has no histogram.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from otel_epping.history.sources.kinds import read_sources
from otel_epping.report.html import html
from tests.history.test_pping import METADATA, MS, T0, S, events
from tests.report.test_build import Elements, data_of, report_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/48", "0.0.0.0/0")
BIN_NS = 4 * MS


def entry(number: int, report: int, chance: random.Random) -> dict[str, Any]:
    """Return the object of a network in a report. The second network never has RTTs."""
    rtts = [chance.lognormvariate(17, 0.8) for _ in range(0 if number == 1 else chance.randrange(40))]
    bins = Counter(min(int(each // BIN_NS), 249) for each in rtts)
    traffic = {name: {"packets": chance.randrange(9), "bytes": chance.randrange(999)} for name in ("TCP_TS", "other")}
    found: dict[str, Any] = {"timestamp": T0 + report * 10 * S + chance.randrange(1000), "ip_prefix": NETWORKS[number]}
    found |= {"rx_stats": traffic, "tx_stats": traffic}
    if not rtts:
        return found
    mean = sum((each + 0.5) * BIN_NS * times for each, times in bins.items()) / len(rtts)
    found |= {"count_rtt": len(rtts), "min_rtt": int(min(rtts)), "mean_rtt": float(f"{mean:.3g}")}
    return found | {"max_rtt": int(max(rtts)), "histogram": [bins[each] for each in range(max(bins) + 1)]}


@pytest.mark.parametrize("form", ["json", "jsonl", "cut"])
def test_the_counts_of_aggregated_output_are_on_the_page(tmp_path: Path, form: str) -> None:
    chance = random.Random(form)
    found = [entry(number, report, chance) for report in range(1, 31) for number in range(len(NETWORKS))]
    lines = [json.dumps(each) for each in (METADATA, *found)]
    texts = {"json": f"[{','.join(lines)}]", "jsonl": "\n".join(lines), "cut": f"[{','.join(lines)}"}
    (tmp_path / "archive").write_text(texts[form])
    history = read_sources([str(tmp_path / "archive")])
    data = data_of(history)
    samples = Counter[str]()
    packets = Counter[str]()
    for each in found:
        samples[each["ip_prefix"]] += each.get("count_rtt", 0)
        packets[each["ip_prefix"]] += 2 * sum(amounts["packets"] for amounts in each["rx_stats"].values())
    tables = {
        key: {row["network"]: row for row in table["rows"]}
        for key, table in data["sections"]["worst_networks"]["tables"].items()
    }
    expected = {network: number for network, number in samples.items() if number}
    expected["all others"] = expected.pop("0.0.0.0/0")
    assert {network: row["samples"] for network, row in tables["methods"].items()} == expected
    for network in NETWORKS[:3:2]:
        row = tables["methods"][network]
        assert row["packets"] == packets[network]
        assert row["minimum"] == min(each.get("min_rtt", S) for each in found if each["ip_prefix"] == network) / 1e9
    assert tables["networks"]["198.51.100.0/24"]["samples"] == 0
    assert data["about"]["samples"] == f"{samples.total():,} RTTs"
    assert sum(map(sum, data["sections"]["heat_map"]["figures"]["p95"]["data"]["samples"])) == (
        samples.total() - samples["0.0.0.0/0"]
    )
    assert data["about"]["resolution"] == "4 ms"
    page = html(report_of(history))
    assert "<dt>resolution</dt><dd>4 ms</dd>" in page
    assert "RTTs in bins of 4 ms" in page[: page.index("</section>")]
    assert f"{samples['192.0.2.0/24']:,}" in Elements(page).cells


def test_single_rtts_of_epping_have_no_bins(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text(events("jsonl"))
    data = data_of(read_sources([str(tmp_path / "archive")]))
    assert data["about"]["samples"] == "3,601 RTTs"
    assert "resolution" not in data["about"]
    assert not any("bins" in sentence for sentence in data["sections"]["verdict"]["sentences"])
