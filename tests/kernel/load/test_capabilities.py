# SPDX-License-Identifier: Apache-2.0
"""Tests which capabilities are required, which capabilities the loader has, and that the running agent has no
capabilities.

The tests grant and remove real capabilities. The tests read the capabilities of each thread from /proc.
"""

import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import capabilities, loader
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table
from tests.support.command import COMMAND, Agent, converse, environment, epping, said
from tests.support.patience import PATIENCE_S
from tests.support.seccomp import LINK_CREATE, MAP_UPDATE, refusing
from tests.support.unprivileged import (
    AGENT,
    CAPABLE_NOBODY,
    NEEDED,
    NET_ADMIN,
    NOBODY,
    as_nobody,
    assert_holds_nothing,
    fields,
    held,
    nobody_with,
    threads,
)

pytestmark = pytest.mark.parallel


THREE = NET_ADMIN | 1 << 38 | 1 << 39
OLD_KERNEL = ["setarch", "--uname-2.6"]


# ---- required capabilities


@pytest.mark.parametrize("lacking", NEEDED)
def test_each_capability_that_is_missing_is_named_with_its_reason(ns: Namespace, lacking: str) -> None:
    command = as_nobody(nobody_with(*(name for name in NEEDED if name != lacking)))
    name = f"CAP_{lacking.upper()}"
    refusal = f"missing {name}: run as root, or give the process these capabilities"
    result = epping(ns, "check", command=command)
    assert result.returncode == 1
    rows = [line for line in result.stdout.splitlines() if "CAP_" in line]
    assert [row.split()[:2] for row in rows if row.startswith("MISSING CAP_")] == [["MISSING", name]]
    assert (
        f"needed {capabilities.NEEDED[name].reason}: run as root, or give the process this capability" in result.stdout
    )
    assert sum(row.startswith("ok ") for row in rows) == 2
    assert refusal in rows[-1]
    assert said(epping(ns, "run", "-i", "lo", command=command)) == refusal


def test_check_without_any(ns: Namespace) -> None:
    result = epping(ns, "check", command=[*OLD_KERNEL, *as_nobody(NOBODY)])
    assert result.returncode == 1
    rows = {line[8:22].strip(): line[23:] for line in result.stdout.splitlines() if line.startswith("MISSING")}
    assert {name for name in rows if name.startswith("CAP_")} == set(capabilities.NEEDED)
    # Old kernels count the memory of BPF maps against RLIMIT_MEMLOCK.
    assert "too small for maps: use ulimit -l unlimited, or LimitMEMLOCK=infinity" in rows["locked memory"]


# ---- capabilities of the running agent


@pytest.fixture(scope="module")
def capable_python(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command otel-epping, run by a Python interpreter.

    The executable file of the interpreter has capabilities, as in a container image.
    """
    folder = tmp_path_factory.mktemp("capable")
    folder.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", "--copies", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "ours.pth").write_text(f"/srv/{packages.relative_to(folder)}\n")
    attribute = struct.pack("<5I", 0x02000001, THREE & 0xFFFFFFFF, 0, THREE >> 32, 0)  # struct vfs_cap_data
    os.setxattr(folder / "bin" / "python", "security.capability", attribute)
    mounted = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /opt && exec "$@"', str(folder)]
    return [*mounted, *as_nobody(nobody_with(*NEEDED, ambient=False), python="/opt/bin/python")]


@pytest.mark.parametrize("given", ["ambient", "root", "file"])
def test_the_running_agent_has_no_capabilities(
    ns: Namespace, start: Callable[..., Agent], capable_python: list[str], given: str
) -> None:
    # If root runs the agent, the agent must also drop the capabilities of root.
    command = {"ambient": AGENT, "root": COMMAND, "file": capable_python}[given]
    with Sink(namespace=ns) as sink:
        agent = start(
            *("-i", "lo", "--interval", "300ms", "--health-port", "9464"),  # the probe server runs in its own thread
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            command=command,
        )
        # after the first export, all threads have started
        sink.wait_for(lambda received: received.requests, PATIENCE_S)
        assert len(threads(agent.process.pid)) > 1
        assert_holds_nothing(agent.process.pid)
        converse(ns)
        assert agent.stop() == 0
        assert "capabilities" not in agent.log.read_text()
        assert sum(point.point.count for point in sink.points(metric_table.RTT.name)) > 0


def test_a_thread_that_keeps_its_capabilities_is_reported(ns: Namespace, tmp_path: Path) -> None:
    """The fixture `start` would fail in this test, because `start` checks that no thread has a capability."""
    # Before Python 3.14, the kernel uses the name of the program as the name of a thread. From Python 3.14 on, the
    # kernel uses the name of the Thread object. In this test, the program and the Thread object have the same name,
    # "python".
    thread = "threading.Thread(name='python', target=threading.Event().wait, daemon=True)"
    script = f"import sys, threading; {thread}.start(); from otel_epping.cli import main; main()"
    command = as_nobody(CAPABLE_NOBODY, "-c", script, "run", "-i", "lo")
    log = tmp_path / "log"
    with log.open("w") as stderr:
        variables = environment({"OTEL_METRICS_EXPORTER": "console"})
        agent = Agent(ns.popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=variables), log)
    agent.wait_for("watching")
    assert agent.log.read_text().count("threads that otel-epping did not start keep their capabilities: python") == 1
    assert agent.stop() == 0


def test_the_work_of_the_agent_needs_no_capability(ns: Namespace) -> None:
    """Without capabilities, the agent attaches to an interface that appears later, and accesses the maps in every way.

    The counts are mapped read-only.
    """
    process = ns.popen(
        as_nobody(CAPABLE_NOBODY, "/mnt/tests/support/after_drop.py", "later0"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "dropped\n"
    assert not any(held(fields(Path(f"/proc/{process.pid}/status"))).values())
    with Namespace("far") as far:
        ns.ip(f"link add later0 type veth peer name later1 netns {far.path}", "address add 10.8.0.1/24 dev later0")
        ns.ip("link set later0 up")
        far.ip("address add 10.8.0.2/24 dev later1", "link set later1 up")
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "attached\n"
        converse_between(ns, far)
        output, errors = process.communicate("\n", timeout=PATIENCE_S)
    results = dict(line.partition(" ")[::2] for line in output.splitlines())
    assert int(results["packets"]) >= 10, output + errors
    assert int(results["flows"]) >= 1
    assert int(results["events"].split()[0]) > 0
    assert int(results["watched"]) > 0
    assert int(results["silent"]) == 0
    assert results["weighed"] == "True"
    assert "attached again" in output
    assert output.count("moved True") == output.count("taken away True") == 2
    assert "attached by the monitor True True" in output
    assert output.count("refused") == 2
    assert "missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF" in results["refused"]
    assert "written" not in output
    assert process.returncode == -signal.SIGSEGV


# ---- kernels that require a capability at run time


@pytest.mark.parametrize(("forbidden", "kept"), [(MAP_UPDATE, "CAP_BPF"), (LINK_CREATE, "CAP_NET_ADMIN")])
def test_a_capability_required_at_run_time_is_detected(ns: Namespace, forbidden: str, kept: str) -> None:
    ask = "from otel_epping.kernel.load import capabilities as capabilities; print(*capabilities.needed_at_run_time())"
    answer = ns.run(*refusing(errno.EPERM, forbidden), sys.executable, "-c", ask)
    assert answer.split() == [kept]


def test_a_kept_capability_is_logged(ns: Namespace) -> None:
    command = [*refusing(errno.EPERM, LINK_CREATE), *AGENT]
    kept = "CAP_NET_ADMIN: kept, because this kernel requires it to use the loaded program"
    result = epping(ns, "check", command=command)
    assert result.returncode == 0, result.stdout
    assert kept in result.stdout
    result = epping(ns, "run", "-i", "lo", command=command, settings={"OTEL_METRICS_EXPORTER": "console"})
    first, last = result.stderr.splitlines()
    assert f"WARNING {kept}" in first
    assert last == "otel-epping: cannot attach to lo (Operation not permitted): see otel-epping check"


def test_all_other_capabilities_are_dropped() -> None:
    def status() -> dict[str, str]:
        return fields(Path("/proc/thread-self/status"))

    with ThreadPoolExecutor(1, initializer=partial(capabilities.drop, {"CAP_NET_ADMIN"})) as thread:
        kept = thread.submit(status).result()
    assert held(kept) == {"CapInh": 0, "CapPrm": NET_ADMIN, "CapEff": NET_ADMIN, "CapAmb": 0}
    assert int(kept["CapBnd"], 16) == 0
    assert int(status()["CapEff"], 16) & THREE == THREE  # this thread deliberately keeps its capabilities


# ---- capabilities and environment of the loader


# The loader has the same capabilities for every user who runs the agent, also for root.
@pytest.mark.parametrize("command", [COMMAND, AGENT], ids=["root", "nobody"])
def test_the_loader_has_three_capabilities_and_no_secrets(ns: Namespace, command: list[str]) -> None:
    secret = "s3cr3t-of-the-exporter"
    agent = ns.popen(
        [*command, "run", "-i", "lo"],
        stderr=subprocess.PIPE,
        env=environment({"OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secret}", "ARCH": "mips"}),
    )
    deadline = time.monotonic() + PATIENCE_S
    while not (children := loaders(agent.pid)):
        assert agent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (child,) = children
    status = fields(child / "status")
    variables = (child / "environ").read_bytes()
    assert held(status) == {"CapInh": THREE, "CapPrm": THREE, "CapEff": THREE, "CapAmb": THREE}
    assert int(status["CapBnd"], 16) == THREE
    assert status["NoNewPrivs"] == "1"
    assert b"PATH=" in variables
    assert secret.encode() not in variables
    assert b"ARCH=mips" not in variables  # BCC would compile for the architecture that this variable names
    agent.kill()
    agent.communicate()


def loaders(parent: int) -> list[Path]:
    """Return the loaders that a process has started, as /proc shows them."""
    found = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"load/compiler.py" in (Path("/proc") / child / "cmdline").read_bytes():
                found.append(Path("/proc") / child)
    return found


def converse_between(near: Namespace, far: Namespace) -> None:
    """Exchange requests and responses over a TCP connection between two hosts."""
    with near.entered():
        listener = socket.create_server(("10.8.0.1", 0))
    with far.entered():
        client = socket.create_connection(listener.getsockname())
    with listener, client, listener.accept()[0] as server:
        for _ in range(10):
            client.sendall(b"request")
            server.recv(100)
            server.sendall(b"answer")
            client.recv(100)
            time.sleep(0.01)


def test_headers_that_are_symbolic_links_are_read(tmp_path: Path) -> None:
    """In Debian 13, some headers are symbolic links."""
    elsewhere, include = tmp_path / "uapi" / "asm", tmp_path / "include"
    elsewhere.mkdir(parents=True)
    (include / "some-linux-gnu" / "asm").mkdir(parents=True)
    (elsewhere / "types.h").write_text("types")
    link = include / "some-linux-gnu" / "asm" / "types.h"
    link.symlink_to(elsewhere / "types.h")
    read = f"""
import sys
from pathlib import Path
from otel_epping.kernel.load.landlock import confine
from otel_epping.kernel.load.compiler import header_folders
include = Path({str(include)!r})
confine(header_folders([include, include / "some-linux-gnu"]))
print(Path({str(link)!r}).read_text())
for forbidden in (lambda: Path("/etc/passwd").read_text(), lambda: Path({str(link)!r}).write_text("")):
    try:
        forbidden()
    except PermissionError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["types", "refused", "refused"]


@pytest.mark.parametrize("outside", ["/etc/passwd", "/proc/kallsyms"])
def test_the_compiler_can_read_only_its_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outside: str) -> None:
    """Landlock allows the compiler to read only its headers, so this test fails on a kernel without Landlock.

    Without Landlock, only the lack of capabilities restricts the loader.
    """
    source = tmp_path / "bpf"
    shutil.copytree(loader.source_folder(), source)
    program = source / "epping.bpf.c"
    text = program.read_text()
    (source / "stubs" / "more").write_text("int more;\n")
    monkeypatch.setattr(loader, "source_folder", lambda: source)

    def load(more: str) -> None:
        program.write_text(f'#include "{more}"\n{text}')
        EppingCollector(EppingConfig(max_flows=64, max_subnets=64)).close()

    load(f"{source}/stubs/more")
    with pytest.raises(EppingError, match="cannot compile") as refused:
        load(outside)
    assert f"'{outside}': Permission denied" in refused.value.detail
