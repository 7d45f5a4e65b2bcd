# SPDX-License-Identifier: Apache-2.0
"""The real agent as a process of its own: `otel-epping run` on the near host's interface."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import programs
from bench.blackhole import Blackhole
from bench.hosts import INTERFACE, Hosts
from otel_epping.errors import EppingError

_FIRST_S = 30.0
# Requests of one export come no further apart than this share of the interval.
_PAUSE = 0.15
_TICKS = os.sysconf("SC_CLK_TCK")


class Agent:
    """A running agent that exports to `endpoint`; a context manager that kills it."""

    def __init__(self, hosts: Hosts, endpoint: str, *options: str) -> None:
        self._hosts = hosts
        with ExitStack() as undo:
            self._log = undo.enter_context(tempfile.TemporaryFile("w+"))
            # None of the user's own settings.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
            environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "120"}
            command = [sys.executable, "-m", "otel_epping", "run", "-i", INTERFACE, *options]
            self.started_s = time.monotonic()
            self.process = hosts.near.popen(command, env=environment, stderr=self._log, stdout=subprocess.DEVNULL)
            undo.callback(self.process.wait)
            undo.callback(self.process.kill)
            self._undo = undo.pop_all()

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def log(self) -> str:
        """What it said so far."""
        self._log.seek(0)
        return self._log.read()

    def wait_until(self, condition: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.01) -> None:
        """Waits until something is true of it. Raises EppingError if it ends before, and after a time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise EppingError(f"the agent ended with status {self.process.returncode}", self.log)
            if time.monotonic() > deadline:
                raise EppingError(f"the agent: not within {timeout_s:.0f} s: {what}", self.log)
            time.sleep(every_s)

    def next_export(self, receiver: Blackhole, interval_s: float) -> int:
        """Waits for an export and until it is over; how many bytes it had."""
        seen = first = len(receiver.sizes)
        self.wait_until(lambda: len(receiver.sizes) > first, _FIRST_S + interval_s, "an export", 0.05)
        while len(receiver.sizes) > seen:
            seen = len(receiver.sizes)
            time.sleep(interval_s * _PAUSE)
        return sum(receiver.sizes[first:seen])

    def program(self) -> int | None:
        """The id of its program, once it is attached to both hooks."""
        with self._hosts.near.entered():
            return programs.attached_program(self._hosts.ifindex, "egress")

    def maps(self) -> dict[str, int]:
        """Descriptors of its program's maps, by the first 15 letters of their names."""
        program = self.program()
        assert program
        return programs.maps_of(program)

    def cpu_s(self) -> tuple[float, float]:
        """CPU time so far: in user space, and in the kernel on its behalf."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Resident memory; its peak with VmHWM. 0 when it has just ended."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        size = status.partition(f"{name}:")[2].split()
        return int(size[0]) * 1024 / 1e6 if size else 0.0

    def stop(self) -> float:
        """Ends it as a user does; returns its peak of resident memory, in MB. Raises EppingError if it ends badly."""
        self.process.terminate()
        peak_mb = 0.0
        while self.process.poll() is None:
            peak_mb = max(peak_mb, self.memory_mb("VmHWM"))
            time.sleep(0.01)
        if self.process.returncode:
            raise EppingError("the agent did not end well", self.log)
        return peak_mb
