# SPDX-License-Identifier: Apache-2.0
"""Tests that the checkers accept a capture with known RTTs and real captures. Also tests the command that runs the
checkers.

The real captures are in ../shared/pcaps. If that folder does not exist, the test prints a warning and uses only the
known capture.
"""

import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

from tests.oracles import coverage, everything, pping
from tests.oracles.known import Check, fails
from tests.oracles.ours import Observed, Ours

pytestmark = pytest.mark.parallel


ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "pcaps"


def test_the_known_capture_has_no_error(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    assert everything.check(check.folder, check.ours), capsys.readouterr().out
    assert check.pping().tally == {
        "pping only: the origin is a SYN or SYN-ACK, whose reply belongs to the handshake": 1,
        pping.BOTH: 3,
    }
    assert check.tshark().tally == {
        "tcp_handshake: ours and tshark's": 4,
        "tcp_sequence: ours and tshark's": 2,
        "dns: ours and tshark's": 1,
        "icmp_echo: ours and tshark's": 1,
    }
    assert check.observed.kinds["retransmitted"] == {15}
    tally = coverage.check([check.capture], check.ours).tally
    assert tally["with an RTT (100.0%)"] == tally["TCP flows with payload in both directions"] == 2
    assert tally["with an RTT by tcp_sequence (50.0%)"] == tally["with an RTT by tcp_timestamp (50.0%)"] == 1


def test_real_captures_have_no_error(ours: Ours, capsys: pytest.CaptureFixture[str]) -> None:
    if not REAL.is_dir():
        warnings.warn(f"no real captures in {REAL}: the checkers ran only on generated captures", stacklevel=1)
        return
    held = everything.check(REAL, ours)
    printed = capsys.readouterr().out
    assert held, printed
    assert sum(line.endswith("ours and pping's") for line in printed.splitlines()) >= 9


class Mute(Ours):
    """A program that finds no RTT in the first flow."""

    def __init__(self, ours: Ours) -> None:
        self.methods, self._ours = ours.methods, ours

    def run(self, path: Path) -> Observed:
        observed = self._ours.run(path)
        return replace(observed, samples=[sample for sample in observed.samples if sample.frame > 7])


def test_coverage_of_too_few_flows_is_an_error(check: Check) -> None:
    report = coverage.check([check.capture], Mute(check.ours))
    flows, handshakes = (
        "1 of 2 flows have an RTT: less than 99%",
        "1 of 2 flows with a handshake have an RTT: less than 99.5%",
    )
    fails(report, flows, handshakes)
    said = "7 packets, 4 with new data or FIN, 0 retransmitted; 4 TSvals of data, 3 of them echoed"
    assert report.notes == [f"made.pcap, 10.0.0.1:40000 > 11.0.0.2:443: {said}"]


def test_the_command(check: Check, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    for path in check.folder.glob("made.*"):
        (spoiled / path.name).write_bytes(path.read_bytes())
    pping = spoiled / "made.pping"
    pping.write_text(pping.read_text().replace("0.030250 0.030250", "0.030252 0.030252"))
    command = [sys.executable, str(ROOT / "tests" / "oracles"), "all"]
    runs = [
        subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for folder in (check.folder, spoiled)
    ]
    (good, good_errors), (bad, bad_errors) = (run.communicate() for run in runs)
    assert [run.returncode for run in runs] == [0, 1], good + bad
    assert good_errors == bad_errors == ""
    assert good.splitlines()[-1].split() == ["coverage", "holds"]
    assert "UNEXPLAINED: pping's line 2, 11.0.0.2:443 > 10.0.0.1:40000" in bad
    assert "made.pcap against pping   2 UNEXPLAINED" in bad


def test_the_command_without_tshark(check: Check) -> None:
    command = [sys.executable, str(ROOT / "tests" / "oracles"), "tshark", str(check.capture)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})
    assert done.returncode == 2
    assert done.stderr.startswith("oracles: tshark is not installed: ")
    assert done.stderr.count("\n") == 1


def _documented() -> list[list[str]]:
    """Returns the commands in CONTRIBUTING.md. Each command is cut off before its first placeholder."""
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    commands = [line.partition("#")[0].split() for line in lines if line.startswith("    .venv/bin/python ")]
    return [list(takewhile(lambda word: not word[0].isupper(), command)) for command in commands]


@pytest.mark.parametrize("command", _documented(), ids=" ".join)
def test_every_command_that_is_documented_runs(command: list[str], tmp_path: Path) -> None:
    """Runs each command twice: as documented from the root of the project, and with its absolute path from another
    folder."""
    assert (ROOT / command[1]).exists()
    for folder, script in ((ROOT, command[1]), (tmp_path, str(ROOT / command[1]))):
        done = subprocess.run(
            [sys.executable, script, *command[2:], "--help"], cwd=folder, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), script
        assert done.stdout.lower().startswith("usage: ")


def test_all_oracles_are_documented() -> None:
    assert {" ".join(command[1:]) for command in _documented()} == {
        *(f"tests/oracles {name}" for name in ("pping", "tshark", "coverage", "links", "all")),
        "tests/oracles/epping.py",
        "tests/oracles/perses.py",
    }
