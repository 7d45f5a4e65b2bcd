# SPDX-License-Identifier: Apache-2.0
"""python -m tests.vm [--all] [--only NAME,...]: `make vmtest`."""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.distro.trees import DistroError
from tests.vm import expected, images, kernels, plan, store
from tests.vm.cache import VmError, folder, say
from tests.vm.machine import Machine, Result, require_qemu, share

_LONGEST = 500  # a longer text is printed only in part; results.jsonl has the whole text
_STATES = {True: "ok", False: "RED", None: "not tried"}


def main() -> int:
    """Run the machines one after the other. Returns 1 if a check failed, and 2 if a machine could not be prepared."""
    parser = argparse.ArgumentParser(prog="vm", description="Runs the agent on other kernels, in QEMU.")
    parser.add_argument("--all", action="store_true", help="every kernel with every userland")
    parser.add_argument("--only", default="", help="comma-separated tests, kernels, and pairs such as sid+trixie")
    arguments = parser.parse_args()
    try:
        require_qemu()
        alone = (folder() / "lock").open("w")
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise VmError("another make vmtest is running: wait for its end") from None
        runs = plan.everything() if arguments.all else plan.quick(kernels.newest())
        runs = plan.chosen(runs, [name for name in arguments.only.split(",") if name])
        return _run(runs)
    except (VmError, DistroError) as error:
        print(f"vmtest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vmtest: interrupted", file=sys.stderr)
        return 130


def _run(runs: list[plan.Run]) -> int:
    summary: list[str] = []
    red: list[str] = []
    with _ingredients() as (product, captures):
        for number, run in enumerate(runs, 1):
            kernel, userland = kernels.kernel(run.kernel), images.userland(run.userland)
            began = time.monotonic()
            name = f"{kernel.release} with {userland.release}"
            say(f"{number} of {len(runs)}: {name}: {', '.join(run.tests)}")
            results = _results(Machine(kernel, userland), run.tests, product, captures)
            store.write(run.kernel, run.userland, results)
            summary.append(f"{name}: {_counted(results)}, {time.monotonic() - began:.0f} s")
            red += [f"{name}: {_line(result)}" for result in results if result["ok"] is False]
    print("\n".join([*summary, *red]))
    return 1 if red else 0


@contextmanager
def _ingredients() -> Iterator[tuple[Path, Path]]:
    """Prepare the data for every virtual machine: the agent, captures, and the events that `otel-epping replay` finds
    on the host when it reads these captures."""
    home = folder() / "given"
    shutil.rmtree(home, ignore_errors=True)  # a killed run may have left the folder
    home.mkdir()
    product, captures = home / "product", home / "captures"
    product.mkdir()
    try:
        images.product(product)
        expected.make(captures)
        say(f"the agent is built; {len(list(captures.glob('*.pcap')))} captures are replayed on this machine")
        yield product, captures
    finally:
        shutil.rmtree(home)


def _results(machine: Machine, tests: list[str], product: Path, captures: Path) -> list[Result]:
    of = {
        "kernel": machine.kernel.suite,
        "release": machine.kernel.release,
        "userland": machine.userland.release,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
    }
    results: list[Result] = []

    def tell(result: Result) -> None:
        if results and (test := results[-1]["test"]) not in ("machine", result["test"]):
            say(f"  {test}: {_counted([other for other in results if other['test'] == test])}")
        results.append(of | result)
        if result["ok"] is not True:
            say(f"  {_line(result)}")

    with share(product, captures, f"{machine.kernel.suite}+{machine.userland.release}") as shared:
        machine.run(shared, tests, tell)
    return results


def _counted(results: list[Result]) -> str:
    counts = {text: sum(result["ok"] is ok for result in results) for ok, text in _STATES.items()}
    return ", ".join(f"{count} {text}" for text, count in counts.items() if count)


def _line(result: Result) -> str:
    text = " ".join(result["text"].split())
    return f"{_STATES[result['ok']]}: {result['test']}: {result['name']}: {text[:_LONGEST]}"


def _commit() -> str:
    """Return the commit of the checkout. If tested files have uncommitted changes, a + is appended."""
    git = ["git", "-C", str(images.ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "bpf", "otel_epping"]).returncode
    return commit + ("+" if changed else "")


if __name__ == "__main__":
    os.umask(0o022)  # the user `nobody` must be able to run the agent
    sys.exit(main())
