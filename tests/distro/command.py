# SPDX-License-Identifier: Apache-2.0
"""The command line: `python3 -m tests.distro [RELEASE...] [--steps STEP...]`, as root.

Each release gets one fresh installation. The steps run one after the other in this installation. The exit status is 0
if all steps passed, 1 if a step failed or an installation could not be created, and 2 if the arguments are wrong.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.distro.installation import fresh
from tests.distro.trees import RELEASES, DistroError, cache_folder

STEPS = {
    "check": "make setup && .venv/bin/otel-epping check --verbose",
    "demo": "make demo",
    "test": "make test",
}
DEFAULT_STEPS = ["demo", "test"]
TAIL_LINES = 40  # lines of the output that are printed if a step fails


@dataclass(frozen=True)
class Result:
    """The result of one step in one release. `step` is empty if the installation could not be created."""

    release: str
    step: str
    passed: bool
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    chosen = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print("distrotest: debootstrap and mounts need root", file=sys.stderr)
        return 1
    results: list[Result] = []
    try:
        for release in chosen.releases or RELEASES:
            results += run_release(release, chosen.steps, chosen.logs)
    except KeyboardInterrupt:
        print("\ndistrotest: interrupted", file=sys.stderr)
        return 130
    print("\nrelease    step   result  seconds")
    for result in results:
        verdict = "passed" if result.passed else "FAILED"
        print(f"{result.release:<9}  {result.step or '-':<5}  {verdict:<6}  {result.seconds:7.0f}")
    return 0 if all(result.passed for result in results) else 1


def run_release(release: str, steps: Sequence[str], logs: Path) -> list[Result]:
    """Run the steps in a fresh installation of a release, and write the output of each step to a file in `logs`."""
    results = []
    began = time.monotonic()
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with fresh(release) as installation:
            for step in steps:
                log = logs / f"{release}-{step}.log"
                print(f"{release}: {step}, output in {log}", flush=True)
                began = time.monotonic()
                with log.open("w") as output:
                    status = installation.run(STEPS[step], output)
                results.append(Result(release, step, status == 0, time.monotonic() - began))
                if status:
                    print(*log.read_text(errors="replace").splitlines()[-TAIL_LINES:], sep="\n")
                verdict = f"FAILED with status {status}" if status else "passed"
                print(f"{release}: {step} {verdict} after {results[-1].seconds:.0f} s", flush=True)
    except DistroError as error:
        print(f"distrotest: {error}", file=sys.stderr)
        results.append(Result(release, "", False, time.monotonic() - began))
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distrotest", description="Run make targets in fresh Debian installations.")
    parser.add_argument(
        "releases", nargs="*", metavar="RELEASE", help=f"{', '.join(RELEASES)} (default: all)", type=_release
    )
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=DEFAULT_STEPS, help="default: demo test")
    parser.add_argument(
        "--logs", metavar="FOLDER", type=Path, default=cache_folder() / "logs", help="default: %(default)s"
    )
    return parser


def _release(name: str) -> str:
    # This function replaces `choices`. With `choices` and nargs="*", argparse before Python 3.12 rejects a command line
    # without releases.
    if name not in RELEASES:
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {', '.join(RELEASES)})")
    return name
