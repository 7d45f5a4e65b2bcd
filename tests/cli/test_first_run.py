# SPDX-License-Identifier: Apache-2.0
"""Tests the first run on a machine where a requirement is missing. One line gives the cause and the cure.

`check` prints the same line. The tests really remove the requirements: setpriv(1) removes capabilities, and setarch(8)
reports an old kernel release. To hide the files of a package, the tests mount something empty over the files, in
the mount namespace of the tested process.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.lab.namespaces import Namespace
from tests.support.command import COMMAND, Agent, epping, said
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, NOBODY, REPOSITORY, as_nobody

pytestmark = pytest.mark.parallel


BCC = "/usr/lib/python3/dist-packages/bcc"
MIB = 2**20

OLD_KERNEL = ["setarch", "--uname-2.6"]

CAPABILITIES = ("CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF")
CHECKED = ("kernel", "BTF", *CAPABILITIES, "locked", "libbpf", "hook", "compiler", "program", "run", "room", "memory")
NO_CAPABILITIES = "missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF: run as root, or give the process these capabilities"
NO_HEADERS = "apt-get install linux-libc-dev"
NO_BCC = "BCC is not installed: apt-get install python3-bpfcc"
TOO_OLD = "is too old: use Linux 5.15 or newer"


def without(*paths: str) -> list[str]:
    """Return a prefix for a command. With the prefix, the command sees each directory or file in `paths` as empty."""
    hide = 'if test -d "$path"; then mount -t tmpfs none "$path"; else mount --bind /dev/null "$path"; fi || exit'
    script = f'for path in {" ".join(paths)}; do {hide}; done; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def kernel_maps(max_subnets: int) -> list[dict[str, Any]]:
    """Return the BPF maps of an agent that have an entry for each slot.

    A test gives its agent an unusual number of subnets, and finds the agent's maps by their size.
    """
    size = EppingConfig(max_subnets=max_subnets).max_slots
    listed = subprocess.run(["bpftool", "-j", "map", "show"], capture_output=True, text=True, check=True).stdout
    return [entry for entry in json.loads(listed) if entry["max_entries"] == size]


def assert_freed(max_subnets: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := kernel_maps(max_subnets):  # the kernel frees a map with a delay, when no CPU uses the map any more
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.mark.parametrize("command", [["run", "-i", "lo"], ["demo"]], ids=["run", "demo"])
def test_without_privileges(ns: Namespace, command: list[str]) -> None:
    assert said(epping(ns, *command, command=as_nobody(NOBODY))) == NO_CAPABILITIES


def missing(result: subprocess.CompletedProcess[str]) -> str:
    """Return the lines of the `check` output that report a missing requirement."""
    assert result.returncode == 1
    return "\n".join(line for line in result.stdout.splitlines() if line.startswith("MISSING "))


@pytest.mark.parametrize("command", [[*AGENT, "run", "-i", "lo"], [*COMMAND, "demo"]], ids=["run", "demo"])
def test_old_kernel(ns: Namespace, command: list[str]) -> None:
    assert TOO_OLD in said(epping(ns, command=[*OLD_KERNEL, *command]))


def test_check_on_an_old_kernel(ns: Namespace) -> None:
    assert TOO_OLD in missing(epping(ns, "check", command=[*OLD_KERNEL, *COMMAND]))


def library() -> str:
    (path,) = {str(path.resolve()) for path in Path("/usr/lib").glob("*/libbpf.so.1")}
    return path


HEADERS = "/usr/include/linux"
LACKS: list[tuple[str, Callable[[], list[str]], str, str]] = [
    ("BCC", lambda: [BCC], NO_BCC, NO_BCC),
    ("headers", lambda: [HEADERS], NO_HEADERS, NO_HEADERS),
    ("libbpf", lambda: [library()], "apt-get install libbpf1", "apt-get install libbpf1"),
]


@pytest.mark.parametrize(("paths", "of_check", "of_run"), [lack[1:] for lack in LACKS], ids=[lack[0] for lack in LACKS])
def test_packages_that_are_missing(ns: Namespace, paths: Callable[[], list[str]], of_check: str, of_run: str) -> None:
    command = [*without(*paths()), *AGENT]
    assert of_check in missing(epping(ns, "check", command=command))
    result = epping(ns, "run", "-i", "lo", command=command)
    assert result.returncode == 1
    # Messages of a compiler or a linker may precede the last line.
    assert result.stderr.splitlines()[-1].startswith("otel-epping: ")
    assert of_run in result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def lattice_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a virtual environment with PyPI's package `bcc`. This package is not the BPF compiler."""
    folder = tmp_path_factory.mktemp("lattice")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "ours.pth").write_text(f"{ours}\n{REPOSITORY}\n")
    (packages / "bcc").mkdir()
    (packages / "bcc" / "__init__.py").write_text('"""Body-centred cubic crystals."""\n\nATOMS = 2\n')
    return str(folder / "bin" / "python")


def test_the_wrong_bcc_does_no_harm_next_to_the_right_one(ns: Namespace, lattice_python: str) -> None:
    result = epping(ns, "check", command=[lattice_python, "-m", "otel_epping"])
    assert result.returncode == 0, result
    assert "in /usr/bin/python3" in result.stdout


def test_wrong_bcc_is_recognised(ns: Namespace, lattice_python: str) -> None:
    # The command runs as root, because only root may read pytest's directory. The command fails before it watches lo.
    result = epping(ns, "run", "-i", "lo", command=[*without(BCC), lattice_python, "-m", "otel_epping"])
    line = result.stderr.splitlines()[-1]
    assert "site-packages/bcc" in line
    assert "PyPI's crystal-lattice package" in line
    assert "pip uninstall bcc, then apt-get install python3-bpfcc" in line


# ---- check


def test_check_reports_the_memory_of_the_program(ns: Namespace, start: Callable[..., Agent]) -> None:
    result = epping(ns, "check")
    assert result.returncode == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in CHECKED]
    assert re.search(r"16384 subnets that are seen on two interfaces, .* 34816 slots, .* 49152 histograms", lines[-2])
    figures = re.search(
        r"([\d.]+) MiB in the kernel for --max-subnets 16384 .* 80000 flows \(([\d.]+) MiB of it for each", lines[-1]
    )
    assert figures
    total, per_cpu = float(figures[1]), float(figures[2])
    assert total - per_cpu * possible_cpus() <= 64
    assert per_cpu <= 7

    agent = start("-i", "lo", OTEL_METRICS_EXPORTER="console")
    infos = Path(f"/proc/{agent.process.pid}/fdinfo").glob("*")
    ids = {found[1] for info in infos if (found := re.search(r"^map_id:\s*(\d+)$", info.read_text(), re.M))}
    assert len(ids) >= 7
    shown = [subprocess.check_output(["bpftool", "-j", "map", "show", "id", each], text=True) for each in ids]
    assert total == pytest.approx(sum(json.loads(each)["bytes_memlock"] for each in shown) / MIB, rel=0.01)
    assert agent.stop() == 0


def test_verbose_check_has_the_verifiers_figures_of_each_method(ns: Namespace) -> None:
    result = epping(ns, "check", "--verbose", "--methods", "dns,icmp_echo")
    assert result.returncode == 0
    figures = re.compile(r"ok +(\w+) +ingress ([\d,]+), egress ([\d,]+) instructions verified, in \d+\.\d+ s")
    found = {line[1]: line for line in map(figures.fullmatch, result.stdout.splitlines()) if line}
    assert list(found) == ["verifier", "dns", "icmp_echo"]
    for line in found.values():
        # The kernel accepts programs of at most one million verified instructions.
        assert all(0 < int(count.replace(",", "")) < 500_000 for count in line.groups()[1:])


def test_nothing_stays_in_the_kernel(ns: Namespace, start: Callable[..., Agent]) -> None:
    size = 10_007
    assert epping(ns, "check", "--max-subnets", str(size)).returncode == 0
    assert_freed(size)
    agent = start("-i", "lo", "--max-subnets", str(size), OTEL_METRICS_EXPORTER="console")
    assert kernel_maps(size)
    agent.process.kill()
    agent.process.wait()
    assert_freed(size)
