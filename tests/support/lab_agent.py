# SPDX-License-Identifier: Apache-2.0
"""Runs the agent as a process in the lab, and real connections through the interface that the agent watches.

    lab      hosts in network namespaces. The session has only one lab. The lab has no traffic unless a test starts it
    agents   starts `otel-epping run` on the router's interface, as the user `nobody` with only the needed capabilities,
             and ends the agent after the test
    talking  runs real TCP connections while the body of the `with` statement runs
    quiet    waits until no packet is on the wire, so that totals can be compared exactly

Every agent has a name (`service.instance.id`), so that one sink can receive data from many agents. The agents watch the
same packets at the same time, so their counts must be exactly equal. arrivals.py separates the points by agent.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from otel_epping.lab import traffic
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.topology import WAN_INTERFACE, Lab
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, assert_unprivileged

T = TypeVar("T")


def figure(name: str, value: object) -> None:
    """Print a measured value. `pytest -s` shows it."""
    print(f"\n[measured] {name}: {value}")


def eventually(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Wait until `condition` returns a true value, and return this value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"this did not become true within {timeout_s} s: {what}"
        time.sleep(0.02)
    return value


class Agent:
    """`otel-epping run` on the router's interface. By default, the agent exports all metrics of all subnets.

    `log` is its standard error, `out` its standard output.
    """

    def __init__(self, lab: Lab, folder: Path, name: str, endpoint: str, interval: str, **variables: str) -> None:
        self.name = name
        self._log, self._out = folder / f"{name}.log", folder / f"{name}.out"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")} | {
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={name},deployment.environment.name=lab",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EPPING_METRICS": "all",
            "OTEL_EPPING_MAX_SERIES": "0",
            **variables,
        }
        command = [*AGENT, "run", "-i", WAN_INTERFACE, "--interval", interval]
        with self._log.open("w") as log, self._out.open("w") as out:
            self.process = lab.router.popen(command, env=environment, stderr=log, stdout=out)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def out(self) -> str:
        return self._out.read_text()

    def watching(self) -> "Agent":
        """Wait until the agent watches its interface."""

        def watches() -> bool:
            assert self.process.poll() is None, self.log
            return "watching" in self.log

        eventually(watches, PATIENCE_S, f"{self.name} watches; its log is: {self.log}")
        assert_unprivileged(self.process, self.log)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def memory_kb(self) -> int:
        """The resident memory without the pages of files.

        The number of resident pages of the same libraries differs by 12 MB: since Linux 6.18, a page fault maps a large
        folio of the page cache as a whole (commit 357b92761d94), and folios are large after pip has written the files.
        """
        smaps = Path(f"/proc/{self.process.pid}/smaps").read_text()
        mappings = re.findall(r"^\w+-\w+ \S+ \S+ \S+ \d+ *(.*)\n(?:.*\n)*?Rss: +(\d+) kB", smaps, re.M)
        return sum(int(resident) for path, resident in mappings if not path.startswith("/"))

    @property
    def peak_kb(self) -> int:
        """The greatest resident memory that the agent has had, with the pages of files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])


@contextmanager
def watched(agents: Sequence[Agent]) -> Iterator[None]:
    """Wait until all agents watch their interfaces, and run the body of the `with` statement. Then stop the agents.

    Each agent must end with exit code 0.
    """
    try:
        for agent in agents:
            agent.watching()
        yield
        for agent in agents:
            assert agent.stop() == 0, agent.log
    finally:
        for agent in agents:
            agent.kill()


@contextmanager
def crowded(name: str, interfaces: int) -> Iterator[Namespace]:
    """A host with many interfaces: v0, v1 and so on."""
    with Namespace(name) as namespace:
        for index in range(interfaces):
            namespace.ip(f"link add v{index} type ifb", f"link set v{index} up")
        yield namespace


@contextmanager
def talking(lab: Lab) -> Iterator[None]:
    """Run real TCP connections while the body of the `with` statement runs. Then wait until no packet is on the
    wire."""
    clients = [lab.talk(lab.client), lab.talk(lab.legacy, addresses=lab.addresses[::3])]
    try:
        yield
    finally:  # even if the test failed, end the connections, because the next test waits until no packet passes
        errors = [traffic.finish(client).errors for client in clients]
    assert not any(errors), errors
    quiet(lab)


def link_packets(namespace: Namespace) -> int:
    """Return how many packets the WAN interface received and transmitted, according to the kernel's statistics."""
    statistics = json.loads(namespace.run("ip", "-s", "-j", "link", "show", WAN_INTERFACE))[0]["stats64"]
    return int(statistics["rx"]["packets"]) + int(statistics["tx"]["packets"])


def quiet(lab: Lab) -> None:
    """Wait until no packet has passed for longer than the longest delay of the lab."""
    before, since = link_packets(lab.router), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if (now := link_packets(lab.router)) != before:
            before, since = now, time.monotonic()


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve()
        yield lab


@pytest.fixture
def agents(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Returns a function (name, endpoint, interval, **variables) that starts agents. Each agent ends with its test."""
    started: list[Agent] = []

    def start(name: str, endpoint: str, interval: str, **variables: str) -> Agent:
        started.append(Agent(lab, tmp_path, name, endpoint, interval, **variables))
        return started[-1]

    yield start
    for agent in started:
        agent.kill()
