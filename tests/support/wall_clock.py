# SPDX-License-Identifier: Apache-2.0
"""Sets the machine's clock back for a moment. The whole machine is affected, because namespaces share the wall clock.

If the test is killed while the clock is wrong, a separate process restores the clock. The end of the test closes the
standard input of the separate process, which then computes the correct time with CLOCK_MONOTONIC.
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
    """Set the clock back by this number of seconds during the `with` block. Keep the block short."""
    command = [sys.executable, "-c", _GUARD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as guard:  # at its end, this block closes stdin of the guard process, and waits until the process exits
        assert guard.stdout is not None
        assert guard.stdout.readline() == b"\n"
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() - seconds * 10**9)
        yield
