# SPDX-License-Identifier: Apache-2.0
"""Tests that the demo measures correctly, detects wrong results, and leaves nothing behind, no matter how it ends.

All processes of a demo inherit an environment variable that no other process has. The tests use the environment
variable to find the processes, namespaces and BPF objects of the demo. A complete demo takes half a minute and almost
no CPU time, so it runs in parallel with the other tests.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from otel_epping.lab.demo import LOADED, SubnetResult
from otel_epping.lab.namespaces import start
from otel_epping.lab.topology import DEFAULT_NETWORKS, DelayedNetwork
from tests.support.patience import PATIENCE_S

COMMAND = [sys.executable, "-m", "otel_epping", "demo"]
GONE_S = 10  # If the demo does not stop its traffic, the traffic runs for more than GONE_S.
# Texts that show the progress of a demo: a line of its output, and the command of its traffic.
STARTING, MEASURING = "lab:", "lab.traffic talk"

# A demo whose link does not have the delays in the lab's table. The delay of one subnet is too long, and the delay of
# another subnet is too short.
LIARS = {"198.51.100.0/24": 3, "203.0.113.0/24": 0.5}
LYING = f"""
import sys
from dataclasses import replace
from otel_epping import cli; from otel_epping.lab import demo

class LyingLab(demo.Lab):
    def __init__(self, networks):
        super().__init__(networks)
        self.networks = tuple(
            replace(each, delay_ns=int(each.delay_ns * {LIARS}.get(str(each.subnet), 1))) for each in self.networks
        )

demo.Lab = LyingLab
demo._SECONDS = 3
sys.argv = ["otel-epping", "demo"]
cli.main()
"""


@dataclass
class Demo:
    """A running demo, and the namespaces and BPF objects that the tests have found in the demo's processes."""

    mark: str
    process: subprocess.Popen[str]
    output: Path
    owned: set[tuple[str, str]] = field(default_factory=set)

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.text() and not self.runs(text):
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def runs(self, words: str) -> bool:
        return any(words in _read(each / "cmdline").replace(b"\0", b" ").decode() for each in self.processes())

    def processes(self) -> set[Path]:
        mark = self.mark.encode()
        return {folder for folder in Path("/proc").glob("[0-9]*") if mark in _read(folder / "environ")}

    def look(self) -> set[tuple[str, str]]:
        """Find the namespaces, programs and maps that the demo's processes hold.

        Return all objects that were found so far.
        """
        host = str(Path("/proc/self/ns/net").readlink())
        for process in self.processes():
            for entry in (process / "ns/net", *_listed(process / "fd")):
                target = _target(entry)
                if target.startswith("net:") and target != host:
                    self.owned.add(("net", target))
            for entry in _listed(process / "fdinfo"):
                for kind, number in re.findall(rb"^(map|prog)_id:\t(\d+)$", _read(entry), re.M):
                    self.owned.add((kind.decode(), number.decode()))
        return self.owned

    def assert_gone(self) -> None:
        """Assert that all processes, namespaces, programs and maps of the demo are gone within GONE_S."""
        deadline = time.monotonic() + GONE_S
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left

    def _left(self) -> list[str]:
        left = [str(folder) for folder in self.processes()]
        held = {_target(entry) for entry in Path("/proc").glob("[0-9]*/ns/net")}
        listed = subprocess.run(["lsns", "-n", "-t", "net", "-o", "NS"], capture_output=True, text=True, check=True)
        held |= {f"net:[{inode}]" for inode in listed.stdout.split()}
        for kind, name in self.owned:
            if kind == "net":
                left += [name] if name in held else []
            elif subprocess.run(["bpftool", kind, "show", "id", name], capture_output=True).returncode == 0:
                left.append(f"{kind} {name}")
        return left


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended since it was listed
        return b""


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def begin(folder: Path, command: list[str], **settings: str) -> Demo:
    mark = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    output = folder / f"{mark}.log"
    with output.open("w") as file:
        process = start(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment | settings | {"DEMO_MARK": mark, "COLUMNS": "120"},
        )
    return Demo(mark, process, output)


@pytest.fixture(scope="module", autouse=True)
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Starts the demo with a report before the first test. The demo is not changed for the tests.

    The environment of the demo has settings that a user may have for other programs.
    """
    settings = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://192.0.2.1:4317",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        "OTEL_EPPING_PREFIX_V4": "8",
    }
    folder = tmp_path_factory.mktemp("whole")
    demo = begin(folder, [*COMMAND, "--report", f"{folder}/demo.html"], **settings)
    yield demo
    demo.process.kill()
    demo.process.wait()


def interrupt(demo: Demo) -> None:
    """Press Ctrl-C. The test signals the whole process group, as a terminal does."""
    os.killpg(demo.process.pid, signal.SIGINT)


@pytest.mark.parametrize("when", [STARTING, MEASURING], ids=["starting", "measuring"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, when: str) -> None:
    demo = begin(tmp_path, COMMAND)
    demo.wait_for(when)
    owned = demo.look()
    assert sum(kind == "net" for kind, _ in owned) == 4
    if when == MEASURING:
        assert {kind for kind, _ in owned} == {"net", "map", "prog"}
    interrupt(demo)
    assert demo.process.wait(PATIENCE_S) in (1, 130, -signal.SIGINT)
    assert "Traceback" not in demo.text()
    demo.assert_gone()


def test_sigkill_leaves_nothing(tmp_path: Path) -> None:
    demo = begin(tmp_path, COMMAND)
    demo.wait_for(MEASURING)
    assert {kind for kind, _ in demo.look()} == {"net", "map", "prog"}
    demo.process.kill()
    demo.process.wait()
    demo.assert_gone()


def verdicts(output: str) -> dict[str, str]:
    """Return the last word of each subnet's row in the table."""
    return dict(re.findall(r"^ *([0-9a-f.:]+/\d+) .* (agrees|differs) *$", output, re.M))


def test_a_link_with_wrong_delays_is_detected(tmp_path: Path) -> None:
    demo = begin(tmp_path, [sys.executable, "-c", LYING])
    assert demo.process.wait(PATIENCE_S) == 1
    found = verdicts(demo.text())
    assert len(found) == len(DEFAULT_NETWORKS) + 1
    assert {found[subnet] for subnet in LIARS} == {"differs"}
    assert "agrees" in found.values()
    assert demo.text().splitlines()[-1].startswith("otel-epping: some RTTs do not agree with the delays")


NETWORK = DelayedNetwork(DEFAULT_NETWORKS[5].subnet, 50_000_000)
LIMITED = replace(NETWORK, bits_per_s=4_000_000)
TRUE = SubnetResult(NETWORK, count=100, min_s=0.0501, median_s=0.051, p95_s=0.06, max_s=0.3, without_timestamps=0.0)


@pytest.mark.parametrize(
    ("result", "agrees"),
    [
        (TRUE, True),
        (replace(TRUE, min_s=0.0499), False),
        (replace(TRUE, median_s=0.0549), True),
        (replace(TRUE, median_s=0.0551), False),
        (replace(TRUE, count=9), False),
        (SubnetResult(NETWORK, 0, 0.0, 0.0, 0.0, 0.0, 0.0), False),
        (replace(TRUE, network=LIMITED, median_s=0.2), True),
        (replace(TRUE, network=LIMITED, min_s=0.0551, median_s=0.2), False),
        (replace(TRUE, network=LIMITED, min_s=0.0499, median_s=0.2), False),
    ],
)
def test_when_a_result_agrees_with_the_delay(result: SubnetResult, agrees: bool) -> None:
    assert result.agrees is agrees


def test_without_root_the_error_is_one_line() -> None:
    nobody = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    ended = subprocess.run([*nobody, *COMMAND], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "otel-epping: missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF: run as root, or give the process these capabilities"
    ]


def test_the_whole_demo_agrees_and_leaves_nothing(whole: Demo) -> None:
    whole.look()
    assert whole.process.wait(PATIENCE_S) == 0, whole.text()
    found = verdicts(whole.text())
    assert set(found) == {str(network.subnet) for network in (*DEFAULT_NETWORKS, LOADED)}
    assert set(found.values()) == {"agrees"}
    assert {network.subnet.version for network in DEFAULT_NETWORKS} == {4, 6}
    assert len(found) >= 8
    whole.assert_gone()


def test_the_report_of_the_demo_names_the_network_that_is_slow_under_load(whole: Demo) -> None:
    assert whole.process.wait(PATIENCE_S) == 0, whole.text()
    worst = re.escape(str(LOADED.subnet))
    samples, load = r"\(p95 \d+ ms, [\d,]+ samples\)", r"because of load: \d+ ms when quiet, \d+ ms when busy"
    verdict = rf"slow: {worst} adds \d+ ms {samples}, {load}"
    assert re.search(verdict, whole.text())
    page = (whole.output.parent / "demo.html").read_text()
    assert re.search(verdict, page)
    arrived = dict(re.findall(r"^ *([0-9a-f.:]+/\d+) +\d+ +(\d+) ", whole.text(), re.M))
    reported = dict(re.findall(r">([0-9a-f.:]+/\d+)</a></td><td>tcp_timestamp</td><td [^>]*data-v=\"(\d+)\"", page))
    assert len(arrived) == len(DEFAULT_NETWORKS) + 1
    # The traffic continues while the agent stops, and the agent reads the last counts for each exporter.
    assert all(abs(int(reported[subnet]) - int(samples)) <= 10 for subnet, samples in arrived.items())


def test_the_demo_ends_with_the_commands_for_the_interface_with_the_default_route(whole: Demo) -> None:
    assert whole.process.wait(PATIENCE_S) == 0, whole.text()
    route = re.search(r"^default .*dev (\S+)", subprocess.check_output(["ip", "route"], text=True), re.M)
    interface = route[1] if route else "eth0"
    commands = [shlex.split(line) for line in whole.text().splitlines()[-2:]]
    start = ["sudo"] * ("SUDO_USER" in os.environ) + [sys.executable, "-m", "otel_epping"]
    assert [each[: len(start)] for each in commands] == [start, start]
    top, report = (each[len(start) :] for each in commands)
    assert top == ["top", "-i", interface]
    assert report == ["report", "-i", interface, "--duration", "5m", "-o", "report.html"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("missing/demo.html", "cannot write {}: No such file or directory: create the directory first"),
        (".", "cannot write {}: Is a directory: name a file, for example latency.html"),
    ],
)
def test_the_demo_does_not_start_if_its_report_cannot_be_written(tmp_path: Path, path: str, error: str) -> None:
    command = [*COMMAND, "--report", path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"otel-epping: {error.format((tmp_path / path).resolve())}\n"


WITHOUT_PLOTLY = """
import sys
sys.modules["plotly"] = None
sys.argv = ["otel-epping", "demo", "--report", "demo.html"]
from otel_epping import cli
cli.main()
"""


def test_the_demo_does_not_start_if_packages_of_the_report_are_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_PLOTLY]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, list(tmp_path.iterdir())) == (1, "", [])
    assert ended.stderr == "otel-epping: the report needs plotly: pip install 'otel-epping[report]'\n"
