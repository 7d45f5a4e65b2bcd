# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark by its command, with the smallest workload."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import goals, programs, traffic_model
from bench.__main__ import BENCHMARKS
from bench.kernel_report import LARGE
from bench.lookup import LRU
from bench.workloads import MIXED
from otel_epping.lab.namespaces import start
from tests.support.command import environment

# The benchmarks in this list take about as long as all other benchmarks together.
HALF = ["agent_usage", "live_traffic", "memory", "start"]

COMPARED = "somebody"
# Calls bpf_ktime_get_ns() five times, so that the run time of the program is long enough to measure. Then: r0 =
# TC_ACT_UNSPEC; exit.
SLOW = 5 * bytes.fromhex("8500000005000000") + bytes.fromhex("b7000000ffffffff 9500000000000000")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run benchmarks until they end, and return their output.

    If the calling thread ends, the benchmark processes end too.
    """
    process = start(
        [sys.executable, "-m", "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({}),
        cwd=Path(__file__).parents[2],
    )
    stdout, stderr = process.communicate()
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def id_of(program_fd: int) -> str:
    return Path(f"/proc/self/fdinfo/{program_fd}").read_text().split("prog_id:")[1].split()[0]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of all benchmarks. For comparison, the benchmarks also measure a second program on both hooks.

    The benchmarks are divided into two halves, which run in parallel.
    """
    theirs = programs.Contender(COMPARED, {"both": programs.load(COMPARED, SLOW)})
    folder = tmp_path_factory.mktemp("bench")

    def run(names: list[str]) -> Any:
        file = folder / f"{names[0]}.json"
        result = bench(*names, "--tiny", "--compare", id_of(theirs.hooks["both"]), "--json", str(file))
        assert result.returncode == 0, result.stderr
        assert all(goal.what in result.stdout for goal in goals.GOALS)
        return json.loads(file.read_text())["benchmarks"]

    others = [name for name in BENCHMARKS if name not in HALF]
    with ThreadPoolExecutor() as pool:
        halves = list(pool.map(run, (HALF, others)))
    theirs.close()
    return halves[0] | halves[1]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures(everything: Any, name: str) -> None:
    result = everything[name]
    assert all(table["rows"] for table in result["tables"])
    numbers = [cell for table in result["tables"] for row in table["rows"] for cell in row.values()]
    assert any(isinstance(cell, float) and cell > 0 for cell in numbers)


def test_each_program_has_a_result(everything: Any) -> None:
    gross, net, _ = everything["kernel"]["tables"]
    for table, name in ((gross, programs.NULL), (gross, COMPARED), (net, programs.OURS), (net, LARGE), (net, LRU)):
        assert any(row[name] for row in table["rows"]), name
    assert everything["kernel"]["figures"]["kernel.growth_share"] > 0
    assert {"kernel.few_mixed_share", "kernel.many_mixed_share"} <= set(everything["kernel"]["figures"])


def test_mixed_packets_complete_rtt_samples(everything: Any) -> None:
    rows = everything["kernel"]["tables"][1]["rows"]
    assert all((row["RTTs"] or 0) > 0 for row in rows if MIXED in row["packets"])
    assert {row["packets"] for row in rows} > {MIXED, f"{MIXED}, skewed"}


def test_the_mean_flow_length_is_that_of_the_study() -> None:
    # The expected mean is the number of packets divided by the number of flows, both from a published traffic study
    # (see bench/traffic_model.py). In a sample of flows, the longest flow has most of the packets and dominates the
    # mean number of packets.
    lengths = traffic_model.real_lengths(np.random.default_rng(1), 4_000_000)
    assert lengths.mean() == pytest.approx(316_857_594_090 / 4_032_376_751, rel=0.1)


def test_a_figure_is_compared_with_its_goal() -> None:
    least = goals.GOALS[0]
    assert least.compared
    for figures, compared, word in (
        ({least.figure: 0.29}, True, goals.HOLDS),
        ({least.figure: 0.31}, True, goals.FAILS),
        ({}, True, goals.NOT_MEASURED),
        ({}, False, goals.NEEDS_COMPARE),
    ):
        assert goals.verdict(least, figures, compared)[2] == word


def test_invalid_arguments_are_reported_in_one_line() -> None:
    result = bench("memory", "--compare", "nobody")
    assert result.returncode == 1
    assert result.stderr == "bench: no program 'nobody' is loaded: see bpftool prog list\n"
    result = bench("everything")
    assert result.returncode == 2
    assert "there is no benchmark 'everything': choose among live_traffic, throughput" in result.stderr.splitlines()[-1]
