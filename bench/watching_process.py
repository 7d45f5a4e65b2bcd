# SPDX-License-Identifier: Apache-2.0
"""Runs an otel-epping process that watches the near end of the veth pair. Measures the CPU time and the memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from bench import programs
from bench.veth_pair import INTERFACE, VethPair
from otel_epping.errors import EppingError

_P = TypeVar("_P", bound="WatchingProcess")

_TICKS = os.sysconf("SC_CLK_TCK")


class WatchingProcess:
    """Runs `otel-epping COMMAND -i b0 OPTION...` in the near namespace. `environment` has additional variables.

    This context manager kills the process on exit.
    """

    def __init__(
        self, veth: VethPair, command: str, *options: str, environment: dict[str, str], **popen_options: Any
    ) -> None:
        self._veth = veth
        with ExitStack() as undo:
            self._log = undo.enter_context(tempfile.TemporaryFile("w+"))
            # The process must not use the OTEL_* variables of the user who runs the benchmark.
            ours = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
            argv = [sys.executable, "-m", "otel_epping", command, "-i", INTERFACE, *options]
            streams = {"stderr": self._log, "stdout": subprocess.DEVNULL} | popen_options
            self.started_s = time.monotonic()
            self.process = veth.near.popen(argv, env=ours | environment, **streams)
            undo.callback(self.process.wait)
            undo.callback(self.process.kill)
            self._undo = undo.pop_all()

    def __enter__(self: _P) -> _P:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @property
    def log(self) -> str:
        """The text that the process has written to standard error since the start."""
        self._log.seek(0)
        return self._log.read()

    def wait_until(self, condition: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.01) -> None:
        """Waits until `condition()` is true. Raises EppingError if the process ends first, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None:
                raise EppingError(f"the process ended with status {self.process.returncode}", self.log)
            if time.monotonic() > deadline:
                raise EppingError(f"after {timeout_s:.0f} s, the process still waits until {what}", self.log)
            time.sleep(every_s)

    def program(self) -> int | None:
        """Returns the id of the egress program, or None if the program is not attached yet."""
        with self._veth.near.entered():
            return programs.attached_program(self._veth.ifindex, "egress")

    def maps(self) -> dict[str, int]:
        """Returns the descriptors of the maps that the program uses, by the first 15 characters of the map's name."""
        program = self.program()
        assert program
        return programs.maps_of(program)

    def cpu_s(self) -> tuple[float, float]:
        """Returns the user and system CPU time that all threads of the process have used so far, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS

    def memory_mb(self, name: str = "VmRSS") -> float:
        """Returns the resident memory in MB, or the peak of this memory if `name` is VmHWM.

        If the process has just ended, returns 0.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        size = status.partition(f"{name}:")[2].split()
        return int(size[0]) * 1024 / 1e6 if size else 0.0
