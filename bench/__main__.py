# SPDX-License-Identifier: Apache-2.0
"""Runs benchmarks, and prints their tables and a table of the goals.

`python -m bench [NAME...]` runs the named benchmarks. Without a NAME, the command runs all benchmarks except
million_subnets and month_report. `--compare` names other loaded BPF programs to measure, by the ids or names that
`bpftool prog list` prints. Some goals compare our program with another program. For these goals, the other program is
the first program that `--compare` names. The exit code is 0 even if a goal is not met. The last table shows which goals
are met.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import (
    agent_usage,
    cold_cache,
    export,
    goals,
    instructions,
    kernel,
    live_traffic,
    memory,
    million_subnets,
    month_report,
    named_networks,
    programs,
    readout,
    start,
    throughput,
    top_usage,
)
from bench.programs import Contender
from bench.report import Result, progress
from otel_epping.errors import EppingError
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.load import requirements
from otel_epping.lab.namespaces import LabError
from otel_epping.version import __version__

BENCHMARKS: dict[str, Callable[[list[Contender], bool], Result]] = {
    # The benchmark `kernel` fills the flow tables of the compared programs. So `live_traffic`, `throughput` and
    # `cold_cache` run before `kernel`.
    "live_traffic": live_traffic.run,
    "throughput": throughput.run,
    "cold_cache": cold_cache.run,
    "instructions": instructions.run,
    "kernel": kernel.run,
    "named_networks": named_networks.run,
    "readout": readout.run,
    "export": export.run,
    "memory": memory.run,
    "agent_usage": agent_usage.run,
    "top_usage": top_usage.run,
    "start": start.run,
    "million_subnets": million_subnets.run,
    "month_report": month_report.run,
}
# These benchmarks take minutes, and need gigabytes of memory or of disk space. So they run only if the user names them.
_ONLY_IF_NAMED = ("million_subnets", "month_report")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    names = ", ".join(BENCHMARKS)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{names}; default: all except {' and '.join(_ONLY_IF_NAMED)}"
    )
    parser.add_argument(
        "--compare",
        default="",
        metavar="NAME|ID,...",
        help="also measure these loaded programs (see bpftool prog list)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="use the smallest sizes, to test the benchmarks only; the measured figures are meaningless",
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: choose among {names}")
    return arguments


def _machine() -> dict[str, Any]:
    """Returns the CPUs of this machine, the versions of the kernel, Python and otel-epping, and the current time."""
    cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0]
    return {
        "otel_epping": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": possible_cpus(),
        "cpu": cpu.strip("\t: ") or platform.machine(),
    }


def _run(arguments: argparse.Namespace) -> None:
    requirements.check_kernel()
    requirements.check_privileges()
    machine = _machine()
    others = programs.loaded([name.strip() for name in arguments.compare.split(",") if name.strip()])
    results: dict[str, Result] = {}
    seconds: dict[str, float] = {}
    for name in arguments.names or [name for name in BENCHMARKS if name not in _ONLY_IF_NAMED]:
        began = time.monotonic()
        progress(name)
        results[name] = BENCHMARKS[name](others, arguments.tiny)
        seconds[name] = time.monotonic() - began
        for table in results[name].tables:
            if table.printed:
                table.show()
    figures = {figure: value for result in results.values() for figure, value in result.figures.items()}
    summary = goals.summary(figures, bool(others))
    summary.note = ", ".join(f"{name} {value}" for name, value in machine.items())
    if arguments.tiny:
        summary.note = f"--tiny: the figures are meaningless. {summary.note}"
    summary.show()
    if arguments.json:
        everything = {
            "machine": machine,
            "compared": [other.name for other in others],
            "seconds": seconds,
            "benchmarks": {name: result.as_json() for name, result in results.items()},
            "summary": summary.as_json(),
        }
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


def main() -> None:
    """Runs the command. If the user can fix an error, prints the error in one line and exits with code 1."""
    try:
        _run(_arguments())
    except (EppingError, LabError) as error:
        if detail := getattr(error, "detail", ""):
            print(detail, file=sys.stderr)
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
