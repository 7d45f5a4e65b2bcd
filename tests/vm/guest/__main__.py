# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that the host has listed in /share/plan.json, one after the other."""

import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.vm.guest import cards, hooks, loading, neighbours, replaying, watching
from tests.vm.guest.devices import check as devices
from tests.vm.guest.results import SHARE, Results

TESTS: dict[str, Callable[[Results], None]] = {
    "loading": loading.default,
    "settings": loading.settings,
    "hooks": hooks.check,
    "watch": watching.check,
    "replay": replaying.check,
    "neighbours": neighbours.check,
    "devices": devices.check,
    "cards": cards.check,
}

# The packages whose versions are part of the result.
_SHOWN = ("libbpf1", "libbpfcc", "libllvm", "iproute2", "python3 ")

_SIGNS = ("BUG:", "Oops:", "WARNING:")


def main() -> None:
    """Run the requested tests. After all tests, write a last result, which shows the host that the tests have ended."""
    shown = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n"], capture_output=True, text=True).stdout
    versions = dict(line.split() for line in shown.splitlines() if line.startswith(_SHOWN))
    Results("machine").tell("begin", True, f"kernel {platform.release()}", packages=versions)
    for name in json.loads(Path(SHARE, "plan.json").read_text()):
        results = Results(name)
        with results.attempt("whole"):
            TESTS[name](results)
    results = Results("machine")
    _look_at_kernel_log(results)
    results.tell("end", True, f"kernel {platform.release()}")


def _look_at_kernel_log(results: Results) -> None:
    """Check that the kernel has logged no warning about a fault of the kernel."""
    lines = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout.splitlines()
    bad = [line for line in lines if any(sign in line for sign in _SIGNS)]
    results.tell("kernel log", not bad, bad[0] if bad else f"no warning in {len(lines)} lines")


if __name__ == "__main__":
    main()
