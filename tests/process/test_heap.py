# SPDX-License-Identifier: Apache-2.0
"""Tests that freed memory is returned to the kernel, and that threads share a heap."""

import subprocess
import sys

import pytest

from otel_epping.process import heap

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

# Blocks below the threshold of mmap(2) are in the heap. The last block stays in use, so the heap cannot shrink.
FREE_AND_TRIM = """
from pathlib import Path
from otel_epping.process import heap

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(b"x" * 60_000) for _ in range(500)]
del blocks[:-1]
before = resident_bytes()
heap.trim()
print(before - resident_bytes())
"""

# malloc_stats() prints a line for each arena.
ARENAS = """
import ctypes
import threading
from otel_epping.process import heap

heap.use_one_arena()
thread = threading.Thread(target=lambda: [bytearray(60_000) for _ in range(100)])
thread.start()
thread.join()
ctypes.CDLL(None).malloc_stats()
"""


def test_trim_returns_freed_memory() -> None:
    if not heap._malloc_trim:
        pytest.skip("only the GNU C library has malloc_trim()")
    freed = subprocess.run([sys.executable, "-c", FREE_AND_TRIM], check=True, capture_output=True, text=True).stdout
    assert int(freed) > 20_000_000


def test_nothing_happens_with_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_malloc_trim", None)
    monkeypatch.setattr(heap, "_mallopt", None)
    heap.trim()
    heap.use_one_arena()


def test_all_threads_use_one_arena() -> None:
    if not heap._mallopt:
        pytest.skip("only the GNU C library has arenas")
    stats = subprocess.run([sys.executable, "-c", ARENAS], check=True, capture_output=True, text=True).stderr
    assert "Arena 0:" in stats
    assert "Arena 1:" not in stats
