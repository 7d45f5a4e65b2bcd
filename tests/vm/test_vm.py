# SPDX-License-Identifier: Apache-2.0
"""Tests the parts of `make vmtest` that need no machine: the choice of kernels and tests, and the tables of the
results."""

from typing import Any

import pytest

from tests.vm import cache, kernels, plan, report


def result(
    test: str, name: str, ok: bool | None = True, release: str = "6.1.0-57-amd64", **more: Any
) -> dict[str, Any]:
    of = {"release": release, "userland": "bookworm", "date": "2026-11-30", "commit": "abc", "text": "why"}
    return of | {"test": test, "name": name, "ok": ok} | more


def test_kernels_are_ordered_by_their_versions() -> None:
    releases = ["6.12.95+deb12-amd64", "7.3.4+deb13-amd64", "6.1.0-57-amd64", "6.9.1-amd64"]
    ordered = ["6.1.0-57-amd64", "6.9.1-amd64", "6.12.95+deb12-amd64", "7.3.4+deb13-amd64"]
    assert sorted(releases, key=kernels.order) == ordered


def test_a_release_is_found_among_the_packages_of_a_kernel() -> None:
    assert kernels.release_of(["linux-modules-7.3.4-amd64", "linux-image-7.3.4-amd64"]) == "7.3.4-amd64"


def test_all_runs_every_pair_and_all_tests_once_for_each_kernel() -> None:
    runs = plan.everything()
    assert len({(run.kernel, run.userland) for run in runs}) == len(kernels.SUITES) * 3
    assert sorted(run.kernel for run in runs if run.tests == list(plan.TESTS)) == sorted(kernels.SUITES)


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ([], 15),
        (["sid"], 3),
        (["sid+trixie"], 1),
        (["sid+trixie", "bookworm"], 4),
        (["devices"], 15),
    ],
)
def test_only_restricts_the_runs(only: list[str], expected: int) -> None:
    runs = plan.chosen(plan.everything(), only)
    assert len(runs) == expected
    if only == ["devices"]:
        assert {tuple(run.tests) for run in runs} == {("devices",)}


@pytest.mark.parametrize(("only", "cause"), [("nonsense", "no such test"), ("sid", "no machine is left")])
def test_only_without_a_matching_run_is_an_error(only: str, cause: str) -> None:
    with pytest.raises(cache.VmError, match=cause):
        plan.chosen(plan.quick("trixie-backports"), [only])


@pytest.mark.parametrize(
    ("results", "cell"),
    [
        ([], "not tested"),
        ([result("hooks", "auto")], "ok"),
        ([result("hooks", "auto"), result("hooks", "clsact", False)], "**red**: clsact"),
        ([result("devices", "made", None)], "not tested"),
        ([result("devices", "VRF", limit="no packets")], "limit: no packets"),
        ([result("devices", "VRF", False, limit="no packets")], "**red**: VRF"),
    ],
)
def test_the_cells_of_the_tables(results: list[dict[str, Any]], cell: str) -> None:
    assert report.verdict(results) == cell


def test_the_table_of_pairs() -> None:
    packages = {"libbpfcc": "0.26.0+ds-1", "libllvm14": "1:14.0.6-12"}
    results = [result("machine", "begin", packages=packages), *(result(test, "one") for test in plan.PAIR_TESTS)]
    results += [
        result("hooks", "auto", False, "7.3.4+deb13-amd64"),
        result("machine", "end", False, "7.3.4+deb13-amd64"),
    ]
    _, _, oldest, newest = report.pairs(results).splitlines()
    assert report.pairs(results).startswith("| kernel | bookworm: BCC 0.26.0, LLVM 14.0.6 |")
    assert oldest == "| 6.1.0-57-amd64 | ok | not tested | not tested |"
    assert newest.startswith("| 7.3.4+deb13-amd64 | **red**: end, auto; without loading, settings, watch, replay |")


def test_the_table_of_interfaces() -> None:
    results = [
        result("devices", "large segments: VLAN", kind="VLAN"),
        result("devices", "large segments: VLAN: parent", False, kind="VLAN"),
        result("devices", "netkit", None, kind="netkit"),
        result("cards", "e1000e, large segments: packets"),
    ]
    lines = report.devices(results).splitlines()
    assert "| VLAN | **red**: large segments, parent |" in lines
    assert "| netkit | not tested: why |" in lines
    assert "| e1000e, and a VLAN on it | ok |" in lines


def test_the_table_of_neighbours() -> None:
    results = [result("neighbours", "netem, auto"), result("neighbours", "netem, clsact", False)]
    assert report.neighbours(results).splitlines()[2:] == ["| netem, auto | ok |", "| netem, clsact | **red** |"]


def test_the_table_of_the_verifier() -> None:
    results = [
        result("loading", "verifier", verified={"ingress": 100_000, "egress": 90_000}, verifier_s=2.5),
        result("loading", "dns", verified={"ingress": 60_000, "egress": 50_000}, verifier_s=1.5),
        result("hooks", "auto", start_s=14.2),
    ]
    line = report.verifier(results).splitlines()[-1]
    assert line == "| 6.1.0-57-amd64 | bookworm: not tested | 100,000 | 90,000 | 60,000 (dns) | 2.5 s | 14 s |"


def test_a_table_replaces_the_text_between_its_comments() -> None:
    text = "before\n<!-- vmtest: pairs -->\nold\n<!-- end of pairs -->\nafter\n"
    assert report.replaced(text, "pairs", "new") == text.replace("old", "new")
    with pytest.raises(cache.VmError):
        report.replaced(text, "devices", "new")
