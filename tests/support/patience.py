# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for a condition. A shorter limit makes no test faster, and the machine may be busy."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0


def becomes(value: Callable[[], Any], expected: Any) -> None:
    """Call `value` until it returns what is expected."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := value()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == expected


def stays(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Check that the condition is true now and for so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), f"not for {seconds} s: {what}"
        time.sleep(0.05)
