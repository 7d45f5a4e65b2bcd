# SPDX-License-Identifier: Apache-2.0
"""Kills the loader while it works, as the kernel does when memory runs out.

The loader uses 160 MB for about a second.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from tests.support.command import environment
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT


def loader_of(pid: int) -> int | None:
    """Return the loader that a thread of an agent has started."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread or the child process has ended since it was listed
            for child in children.read_text().split():
                if "load/compiler.py" in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
    return None


def loading(ns: Namespace, library: str = "libbcc") -> tuple[subprocess.Popen[str], int]:
    """Start an agent. When the agent's loader has loaded `library`, return the agent and the loader."""
    settings = environment({"OTEL_METRICS_EXPORTER": "console"})
    agent = ns.popen([*AGENT, "run", "-i", "lo"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings)
    deadline = time.monotonic() + PATIENCE_S
    while not (loader := loader_of(agent.pid)) or library not in Path(f"/proc/{loader}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return agent, loader


@pytest.mark.parametrize("library", ["python", "libbcc"], ids=["at its start", "when it has loaded the compiler"])
def test_a_killed_loader_is_reported_in_one_line(ns: Namespace, library: str) -> None:
    agent, loader = loading(ns, library)
    os.kill(loader, signal.SIGKILL)
    _, stderr = agent.communicate(timeout=PATIENCE_S)
    assert agent.returncode == 1
    assert stderr.splitlines() == [
        "otel-epping: the loader was killed by signal 9: it needs 200 MB of memory for a second; dmesg shows "
        "whether memory was exhausted"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("with_loader", [True, False], ids=["and its loader", "alone"])
def test_an_agent_stopped_during_loading_logs_only_the_stop(ns: Namespace, number: int, with_loader: bool) -> None:
    """A service manager may signal both the agent and the loader. A user may signal only the agent."""
    agent, loader = loading(ns)
    agent.send_signal(number)
    if with_loader:
        os.kill(loader, number)
    _, stderr = agent.communicate(timeout=PATIENCE_S)
    assert agent.returncode == 0
    (line,) = stderr.splitlines()
    assert line.endswith("stopped before an interface was watched")


def test_a_loader_does_not_outlive_its_agent(ns: Namespace) -> None:
    agent, loader = loading(ns)
    agent.kill()
    agent.communicate()
    eventually(
        lambda: not Path(f"/proc/{loader}/exe").exists(),
        0.3,
        "the loader ends before its work is done, which takes about a second",
    )
