# SPDX-License-Identifier: Apache-2.0
"""Runs a measurement in a new process, so that the measured memory excludes the memory of earlier measurements.

The new process runs this module, and ends when its parent process ends.
"""

import gc
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_epping.errors import EppingError
from otel_epping.lab.namespaces import start

_MB = 1e6


def call(function: Callable[..., Any], **arguments: Any) -> Any:
    """Calls a function of a module in a new process.

    Returns the function's result. Passes the arguments and the result as JSON.
    """
    name = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", "bench.fresh_process", name, json.dumps(arguments)]
    process = start(command, stdout=subprocess.PIPE)
    stdout, _ = process.communicate()
    if process.returncode:
        raise EppingError(f"{name} failed in its own process: see the traceback above")
    return json.loads(stdout)


@dataclass
class Usage:
    """The CPU time (user and system) and wall time in s, and the growth of the resident memory from the start to the
    peak in MB.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mb: float = 0.0


def status_mb(name: str) -> float:
    """Returns a size in /proc/self/status in MB, such as VmRSS or VmHWM (proc(5))."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024 / _MB


@contextmanager
def measure_usage() -> Iterator[Usage]:
    """Measures the time and memory that the body of the `with` statement uses."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    usage, before_mb = Usage(), status_mb("VmRSS")
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield usage
    usage.cpu_s, usage.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    usage.peak_mb = max(0.0, status_mb("VmHWM") - before_mb)  # the kernel's counters may be wrong by a few pages


def peak_of_children_mb() -> float:
    """Returns the largest peak of resident memory among all child processes that have ended, in MB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / _MB


def main() -> None:
    """Calls the function that the command line names, and prints the result as JSON."""
    module, _, name = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
