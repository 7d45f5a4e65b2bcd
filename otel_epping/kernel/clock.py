# SPDX-License-Identifier: Apache-2.0
"""The clock on the wall, for timestamps: it follows every step forward, and never runs backwards.

Clocks are set. Forward is the common case, a router that begins in 1970 until it hears of the time: that is followed at
once, or its points would be of 1970 for years. A clock that is set back is not, for a point that is older than the one
before it is refused (Prometheus), dropped (the Collector's deltatocumulative) or counts for an interval a second time.
So our clock then runs at half its speed until the other has caught up: an hour is made good in two. Times stay apart
from one another, as they would not if it stood still, and nothing is lost but that rates look doubled meanwhile.

In between it goes by CLOCK_BOOTTIME, which runs on while the machine is suspended, as CLOCK_MONOTONIC doesn't.
"""

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_TOLD_NS = 10**9  # less is what keeping time looks like


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """Unix time in ns at each call, from any thread; each is later than the one before.

    `wall_ns` is the clock that may be set, `elapsed_ns` one that cannot.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, elapsed_ns: Callable[[], int] = _since_boot_ns
    ) -> None:
        self._wall_ns, self._elapsed_ns = wall_ns, elapsed_ns
        self._latest_ns, self._looked_ns = wall_ns(), elapsed_ns()
        self._is_ahead = False
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Unix time in ns."""
        with self._lock:
            wall_ns, looked_ns = self._wall_ns(), self._elapsed_ns()
            at_half_speed_ns = self._latest_ns + max(1, (looked_ns - self._looked_ns) // 2)
            self._latest_ns, self._looked_ns = max(wall_ns, at_half_speed_ns), looked_ns
            ahead_ns = self._latest_ns - wall_ns
            if ahead_ns > _TOLD_NS and not self._is_ahead:
                _log.warning(
                    "the clock was set back: exported times are %.0f s ahead, and at half speed", ahead_ns / 1e9
                )
                self._is_ahead = True
            elif not ahead_ns:
                self._is_ahead = False
            return self._latest_ns
