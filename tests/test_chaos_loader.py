# SPDX-License-Identifier: Apache-2.0
"""The loader is killed while it works, as the kernel does when memory is short: it takes 160 MB, for a second."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import COMMAND, environment

from otel_epping.lab.namespaces import Namespace


def loader_of(pid: int) -> int | None:
    """The loader that an agent has started, whichever of its threads did."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if "loader_child" in Path(f"/proc/{child}/cmdline").read_text():
                return int(child)
    return None


@pytest.mark.parametrize("library", ["python", "libbcc"], ids=["at its start", "when it has loaded the compiler"])
def test_a_loader_that_is_killed_is_one_clear_line(ns: Namespace, library: str) -> None:
    settings = environment({"OTEL_METRICS_EXPORTER": "console"})
    agent = ns.popen([*COMMAND, "run", "-i", "lo"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings)
    deadline = time.monotonic() + 20
    while not (loader := loader_of(agent.pid)) or library not in Path(f"/proc/{loader}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(loader, signal.SIGKILL)
    _, stderr = agent.communicate(timeout=10)
    assert agent.returncode == 1
    assert stderr.splitlines() == [
        "otel-epping: the loader was killed by signal 9: it needs 200 MB for a second, see dmesg if memory was short"
    ]
