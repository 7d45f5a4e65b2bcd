# SPDX-License-Identifier: Apache-2.0
"""Runs the real agent, `otel-epping run`, as a process that watches the near end of the veth pair."""

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
from bench.veth_pair import INTERFACE, VethPair
from otel_epping.errors import EppingError

_FIRST_S = 30.0
# An export has ended if no request arrives during this fraction of the export interval.
_PAUSE = 0.15
_TICKS = os.sysconf("SC_CLK_TCK")
# With these options, the agent exports all metrics of all subnets.
EVERYTHING = ("--metrics", "all", "--max-series", "0")


class AgentProcess:
    """A running agent that exports to `endpoint`.

    This context manager kills the agent's process on exit."""

    def __init__(self, veth: VethPair, endpoint: str, *options: str) -> None:
        self._veth = veth
        with ExitStack() as undo:
            self._log = undo.enter_context(tempfile.TemporaryFile("w+"))
            # The agent must not use the OTEL_* variables of the user who runs the benchmark.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
            environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "120"}
            command = [sys.executable, "-m", "otel_epping", "run", "-i", INTERFACE, *options]
            self.started_s = time.monotonic()
            self.process = veth.near.popen(command, env=environment, stderr=self._log, stdout=subprocess.DEVNULL)
            undo.callback(self.process.wait)
            undo.callback(self.process.kill)
            self._undo = undo.pop_all()

    def __enter__(self) -> "AgentProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def log(self) -> str:
        """All log lines that the agent has written so far."""
        self._log.seek(0)
        return self._log.read()

    def wait_until(self, condition: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.01) -> None:
        """Waits until `condition()` is true. Raises EppingError if the agent ends first, or `timeout_s` have passed."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise EppingError(f"the agent ended with status {self.process.returncode}", self.log)
            if time.monotonic() > deadline:
                raise EppingError(f"the agent needs more than {timeout_s:.0f} s until {what}", self.log)
            time.sleep(every_s)

    def next_export(self, receiver: Blackhole, interval_s: float) -> int:
        """Waits until the next export has started and ended. Returns the size of the export in bytes."""
        seen = first = len(receiver.sizes)
        self.wait_until(lambda: len(receiver.sizes) > first, _FIRST_S + interval_s, "an export starts", 0.05)
        while len(receiver.sizes) > seen:
            seen = len(receiver.sizes)
            time.sleep(interval_s * _PAUSE)
        return sum(receiver.sizes[first:seen])

    def program(self) -> int | None:
        """Returns the id of the agent's egress program, or None if the program is not attached yet."""
        with self._veth.near.entered():
            return programs.attached_program(self._veth.ifindex, "egress")

    def maps(self) -> dict[str, int]:
        """Returns the descriptors of the maps that the agent's program uses. The key of a descriptor consists of the
        first 15 characters of the map's name.
        """
        program = self.program()
        assert program
        return programs.maps_of(program)

    def cpu_s(self) -> tuple[float, float]:
        """Returns the user and system CPU time that the agent has used so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Returns the agent's resident memory in MB, or the peak of this memory if `name` is VmHWM.

        If the process has just ended, returns 0.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        size = status.partition(f"{name}:")[2].split()
        return int(size[0]) * 1024 / 1e6 if size else 0.0

    def stop(self) -> float:
        """Sends SIGTERM and waits until the agent ends. Returns the peak of the agent's resident memory in MB.

        Raises EppingError if the exit status is not 0.
        """
        self.process.terminate()
        peak_mb = 0.0
        while self.process.poll() is None:
            peak_mb = max(peak_mb, self.memory_mb("VmHWM"))
            time.sleep(0.01)
        if self.process.returncode:
            raise EppingError(f"the agent ended with status {self.process.returncode} after SIGTERM", self.log)
        return peak_mb
