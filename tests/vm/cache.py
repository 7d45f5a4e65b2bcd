# SPDX-License-Identifier: Apache-2.0
"""The cache keeps folders that take minutes to create. Each folder has a key, which depends on the inputs from which
the folder was created."""

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

_BEGAN = time.monotonic()


class VmError(Exception):
    """A machine could not be prepared or run. The message names the cause and the cure."""


def say(line: str) -> None:
    """Print a line of progress with the minutes and seconds since the start."""
    minutes, seconds = divmod(round(time.monotonic() - _BEGAN), 60)
    print(f"[{minutes:3d}:{seconds:02d}] {line}", file=sys.stderr, flush=True)


def folder() -> Path:
    """Return the folder for kernels, images and results."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base, "otel-epping", "vm")
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: str | bytes) -> str:
    """Return a key that is computed from the parts. Equal parts give equal keys."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        whole.update(len(content).to_bytes(8, "big") + content)
    return whole.hexdigest()[:16]


def kept(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache. If the folder is missing or has another key, `make` creates it first.

    `make` fills an empty folder, which then replaces the old folder. If two processes need the folder at the same time,
    only one of them calls `make`.
    """
    home = folder() / name
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / "key"
        if stamp.exists() and stamp.read_text() == key:
            return home
        new = home.with_name(f"{home.name}.new")
        shutil.rmtree(new, ignore_errors=True)  # a killed run may have left the folder
        new.mkdir()
        began = time.monotonic()
        make(new)
        (new / "key").write_text(key)
        shutil.rmtree(home, ignore_errors=True)
        new.rename(home)
        say(f"{name} made in {time.monotonic() - began:.0f} s")
    return home
