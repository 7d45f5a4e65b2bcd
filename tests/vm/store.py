# SPDX-License-Identifier: Apache-2.0
"""The last results of each machine, as JSON lines in the cache folder: results/KERNEL+USERLAND.jsonl."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.vm.cache import folder
from tests.vm.machine import Result

_FOLDER = "results"


def write(kernel: str, userland: str, results: Iterable[Result]) -> Path:
    """Replace the stored results of the tests that were run now. Keep the stored results of all other tests."""
    results = list(results)
    path = folder() / _FOLDER / f"{kernel}+{userland}.jsonl"
    path.parent.mkdir(exist_ok=True)
    tests = {result["test"] for result in results}
    before = [result for result in _read(path) if result["test"] not in tests]
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(result) + "\n" for result in [*before, *results]))
    new.rename(path)
    return path


def read() -> list[Result]:
    """Return the results of all machines."""
    return [result for path in sorted((folder() / _FOLDER).glob("*.jsonl")) for result in _read(path)]


def _read(path: Path) -> list[Result]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
