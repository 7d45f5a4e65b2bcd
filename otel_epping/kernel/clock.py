# SPDX-License-Identifier: Apache-2.0
"""The clock of exported timestamps: Unix time that follows every step forward and never runs backwards.

When the system clock is set forward, this clock follows at once. The common case is a router that starts in 1970 and
gets the time later. When the system clock is set back, this clock advances at half speed until the system clock has
caught up: a step of one hour takes two hours. If it followed at once, points would be older than the points before
them. Prometheus rejects such points, the OpenTelemetry Collector's deltatocumulative drops them, and other backends
count an interval twice. If it stopped, all points would have the same time. At half speed no point is lost, but rates
look doubled.

The elapsed time is that of CLOCK_BOOTTIME, which advances while the machine is suspended, unlike CLOCK_MONOTONIC.
"""

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_WARN_AHEAD_NS = 10**9  # smaller steps are NTP slewing


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """Returns Unix time in ns when it is called, each time later than before. May be called by any thread.

    `wall_ns` returns the system clock, which can be set. `elapsed_ns` returns a clock that cannot be set.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, elapsed_ns: Callable[[], int] = _since_boot_ns
    ) -> None:
        self._wall_ns, self._elapsed_ns = wall_ns, elapsed_ns
        self._latest_ns, self._latest_elapsed_ns = wall_ns(), elapsed_ns()
        self._is_ahead = False
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Returns Unix time in ns."""
        with self._lock:
            wall_ns, elapsed_ns = self._wall_ns(), self._elapsed_ns()
            at_half_speed_ns = self._latest_ns + max(1, (elapsed_ns - self._latest_elapsed_ns) // 2)
            self._latest_ns, self._latest_elapsed_ns = max(wall_ns, at_half_speed_ns), elapsed_ns
            ahead_ns = self._latest_ns - wall_ns
            if ahead_ns > _WARN_AHEAD_NS and not self._is_ahead:
                _log.warning(
                    "the clock was set back: exported times are %.0f s ahead of it, and advance at half speed until it "
                    "has caught up",
                    ahead_ns / 1e9,
                )
                self._is_ahead = True
            elif not ahead_ns:
                self._is_ahead = False
            return self._latest_ns
