# SPDX-License-Identifier: Apache-2.0
"""Runs benchmarks, prints their tables and which goals hold: `python -m bench [NAME...]`, all if none is named.

With `--beside`, programs of others that are loaded are measured beside ours: give ids or names of
`bpftool prog list`. The goals that compare with one are held against the first of them. Exit code 0, also where a goal
isn't met: the table says so.
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
    agent,
    amid,
    export,
    goals,
    instructions,
    kernel,
    live,
    memory,
    million,
    programs,
    readout,
    start,
    throughput,
)
from bench.programs import Contender
from bench.report import Result, progress
from otel_epping.errors import EppingError
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.load import requirements
from otel_epping.lab.namespaces import LabError
from otel_epping.version import __version__

BENCHMARKS: dict[str, Callable[[list[Contender], bool], Result]] = {
    # `kernel` comes after these, for it fills the tables of those that are beside.
    "live": live.run,
    "throughput": throughput.run,
    "amid": amid.run,
    "instructions": instructions.run,
    "kernel": kernel.run,
    "readout": readout.run,
    "export": export.run,
    "memory": memory.run,
    "agent": agent.run,
    "start": start.run,
    "million": million.run,
}
# It takes minutes and gigabytes, so it must be named.
_APART = "million"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    names = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}; all but {_APART} if none")
    parser.add_argument("--beside", default="", help="ids or names of loaded programs, separated by commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")
    parser.add_argument("--tiny", action="store_true", help="only see that it runs: the figures mean nothing")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}: choose among {names}")
    return arguments


def _machine() -> dict[str, Any]:
    """Where and when it was measured."""
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
    requirements.kernel()
    requirements.privileges()
    machine = _machine()
    others = programs.beside([name.strip() for name in arguments.beside.split(",") if name.strip()])
    results: dict[str, Result] = {}
    seconds: dict[str, float] = {}
    for name in arguments.names or [name for name in BENCHMARKS if name != _APART]:
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
        summary.note = f"Tiny: the figures mean nothing. {summary.note}"
    summary.show()
    if arguments.json:
        everything = {
            "machine": machine,
            "beside": [other.name for other in others],
            "seconds": seconds,
            "benchmarks": {name: result.as_json() for name, result in results.items()},
            "summary": summary.as_json(),
        }
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


def main() -> None:
    """The command. What a user can mend ends in one line and exit code 1."""
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
