# SPDX-License-Identifier: Apache-2.0
"""Sets the machine's clock back for a moment. No namespace can have a wall clock of its own.

If the test is killed during that moment, a separate process restores the clock by means of CLOCK_MONOTONIC, as soon as
its standard input is closed.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_GUARD = """
import sys, time
difference_ns = time.time_ns() - time.monotonic_ns()
print(flush=True)
sys.stdin.read()
time.clock_settime_ns(time.CLOCK_REALTIME, time.monotonic_ns() + difference_ns)
"""


@contextmanager
def set_back(seconds: int) -> Iterator[None]:
    """Set the clock back by this number of seconds while the body runs. Keep the body short."""
    command = [sys.executable, "-c", _GUARD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as guard:  # the end of the block closes its input, and waits for its end
        assert guard.stdout is not None
        assert guard.stdout.readline() == b"\n"
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() - seconds * 10**9)
        yield
