# SPDX-License-Identifier: Apache-2.0
"""Runs otel-epping as a user does: the real command in its own process, in a network namespace of the tests.

    ns      the namespace. All tests share it, so a test that changes its links must restore the links
    epping  runs a command to its end, and checks that it prints no traceback
    said    returns the last line that a failed run printed
    start   starts an agent in the background, and waits until the agent watches and has dropped its capabilities
    public  a folder that the user `nobody` can read

Agents run as the user `nobody` (unprivileged.py). All other commands run as the user who runs the tests. `epping` and
`start` accept a `command`, which may remove rights or files from the environment of otel-epping before otel-epping
starts.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, assert_unprivileged

COMMAND = [sys.executable, "-m", "otel_epping"]


@pytest.fixture(scope="session")
def ns() -> Iterator[Namespace]:
    """A host with four interfaces. Loopback, `up0` and its peer `up1` are up. `down0` is down."""
    with Namespace("cli") as namespace:
        namespace.ip(
            "link add up0 type veth peer name up1",
            "address add 10.9.0.1/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "link add down0 type veth peer name down1",
        )
        yield namespace


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment of the tests without OTEL_* variables, with `settings` added."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | settings


def epping(
    ns: Namespace, *arguments: str, command: list[str] | None = None, settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run otel-epping to its end. `command` may restrict the environment before it starts otel-epping."""
    usual = AGENT if arguments[:1] == ("run",) else COMMAND
    process = ns.popen(
        [*(command or usual), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(settings or {}),
    )
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in stdout + stderr, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def said(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a failed run printed. If the arguments are wrong, Click prints the usage before the
    error."""
    *before, last = result.stderr.splitlines()
    if result.returncode == 2:
        assert [line.split(" ")[0] for line in before] in ([], ["Usage:", "Try", ""])
        assert last.startswith("Error: ")
    else:
        assert result.returncode == 1
        assert before == []
        assert last.startswith("otel-epping: ")
    assert not result.stdout
    return last.partition(": ")[2]


@dataclass
class Agent:
    """`otel-epping run` in the background."""

    process: subprocess.Popen[str]
    log: Path

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE_S  # on a busy machine, the program takes long to compile
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self) -> int:
        """End the agent and return its exit code."""
        self.process.terminate()
        code = self.process.wait(PATIENCE_S)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        return code


@pytest.fixture
def start(ns: Namespace, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Returns a function that starts an agent and waits until the agent watches its interfaces."""
    agents: list[Agent] = []

    def start(
        *arguments: str,
        command: list[str] = AGENT,
        output: int = subprocess.DEVNULL,
        namespace: Namespace = ns,
        **settings: str,
    ) -> Agent:
        log = tmp_path / f"agent{len(agents)}.log"
        with log.open("w") as stderr:
            process = namespace.popen(
                [*command, "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=stderr,
                env=environment(settings or {}),
            )
        agents.append(Agent(process, log))
        agents[-1].wait_for("watching")
        assert_unprivileged(process, log.read_text())
        return agents[-1]

    yield start
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can read. The folders that pytest creates can be read only by their owner."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def converse(ns: Namespace, turns: int = 20, address: str = "127.0.0.1") -> None:
    """Send requests and answers over TCP on the loopback interface of the namespace. `address` is the server."""
    with (
        ns.entered(),
        socket.create_server((address, 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        for _ in range(turns):
            near.sendall(b"request")
            far.recv(100)
            far.sendall(b"answer")
            near.recv(100)
            time.sleep(0.01)
