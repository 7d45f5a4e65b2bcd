# SPDX-License-Identifier: Apache-2.0
"""Kills the loader while it works, as the kernel does when memory is short: the loader takes 160 MB for a second."""

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
    """Return the loader that any thread of an agent has started."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread or a child that ends meanwhile
            for child in children.read_text().split():
                if "load/compiler.py" in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
    return None


def loading(ns: Namespace, library: str = "libbcc") -> tuple[subprocess.Popen[str], int]:
    """Return an agent and its loader as soon as it has loaded this library."""
    settings = environment({"OTEL_METRICS_EXPORTER": "console"})
    agent = ns.popen([*AGENT, "run", "-i", "lo"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings)
    deadline = time.monotonic() + PATIENCE_S
    while not (loader := loader_of(agent.pid)) or library not in Path(f"/proc/{loader}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return agent, loader


@pytest.mark.parametrize("library", ["python", "libbcc"], ids=["at its start", "when it has loaded the compiler"])
def test_a_loader_that_is_killed_is_one_clear_line(ns: Namespace, library: str) -> None:
    agent, loader = loading(ns, library)
    os.kill(loader, signal.SIGKILL)
    _, stderr = agent.communicate(timeout=PATIENCE_S)
    assert agent.returncode == 1
    assert stderr.splitlines() == [
        "otel-epping: the loader was killed by signal 9: it needs 200 MB of memory for a second; dmesg shows "
        "whether memory was exhausted"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("too", [True, False], ids=["and its loader", "alone"])
def test_an_agent_that_is_stopped_while_it_loads_says_just_that(ns: Namespace, number: int, too: bool) -> None:
    """Stopped by a service manager, which may signal the loader too, or by hand."""
    agent, loader = loading(ns)
    agent.send_signal(number)
    if too:
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
        lambda: not Path(f"/proc/{loader}/exe").exists(), 0.3, "the loader is gone, though it had work for a second"
    )
