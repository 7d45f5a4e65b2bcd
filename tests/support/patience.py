# SPDX-License-Identifier: Apache-2.0
"""The longest time for which tests wait for a condition. This time is long because the machine may be busy. A long
limit does not slow down tests, because a test continues as soon as its condition is true."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 60.0


def becomes(value: Callable[[], Any], expected: Any) -> None:
    """Call `value` until it returns the expected value."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := value()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == expected


def stays(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Check that the condition is true now and stays true for this number of seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition(), f"this was not true for {seconds} s: {what}"
        time.sleep(0.05)
