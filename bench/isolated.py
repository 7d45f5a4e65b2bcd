# SPDX-License-Identifier: Apache-2.0
"""Measures in a process of its own, so that memory is that of the thing measured and of nothing before it.

The process is this module; it dies with whoever started it.
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
    """What a function of a module returns, called in a new process; arguments and result go as JSON."""
    name = f"{function.__module__}:{function.__name__}"
    command = [sys.executable, "-m", "bench.isolated", name, json.dumps(arguments)]
    process = start(command, stdout=subprocess.PIPE)
    stdout, _ = process.communicate()
    if process.returncode:
        raise EppingError(f"{name} failed: see above")
    return json.loads(stdout)


@dataclass
class Spent:
    """CPU time in s, user and system; memory in MB: the peak above what was there before."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mb: float = 0.0


def _status_mb(name: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024 / _MB


@contextmanager
def spending() -> Iterator[Spent]:
    """What the body takes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew: proc(5)
    spent, before_mb = Spent(), _status_mb("VmRSS")
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    yield spent
    spent.cpu_s, spent.wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    spent.peak_mb = max(0.0, _status_mb("VmHWM") - before_mb)  # the kernel's account is some pages out


def peak_of_children_mb() -> float:
    """Greatest resident memory of a child that has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / _MB


def main() -> None:
    """One call."""
    module, _, name = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
