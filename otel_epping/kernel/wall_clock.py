# SPDX-License-Identifier: Apache-2.0
"""The clock for exported timestamps. The clock returns Unix time, and never runs backwards.

When the system clock is set forward, `Clock` is set forward at once, too. A common case is a router whose clock starts
in 1970 and is set later. When the system clock is set back, `Clock` advances at half speed until the system clock has
caught up. If the system clock is set back by one hour, catching up takes two hours.

If `Clock` were set back at once, new points would have earlier times than the previous points. Prometheus rejects
points with earlier times, the OpenTelemetry Collector's deltatocumulative processor drops such points, and other
backends count an interval twice. If `Clock` stopped, all points would have the same time. At half speed no point is
lost, but rates appear doubled.

Elapsed time is read from CLOCK_BOOTTIME. Unlike CLOCK_MONOTONIC, CLOCK_BOOTTIME advances while the machine is
suspended.
"""

import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

_WARN_AHEAD_NS = 10**9  # smaller differences are normal while NTP adjusts the system clock


def since_boot_ns() -> int:
    """Returns CLOCK_BOOTTIME in ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock:
    """A callable object that returns Unix time in ns. Each result is later than the previous result.

    Any thread may call the object.

    `wall_ns` reads the system clock, which can be set. `elapsed_ns` reads a clock that cannot be set.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, elapsed_ns: Callable[[], int] = since_boot_ns
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
                    "the system clock was set back: exported timestamps are %.0f s ahead of the system clock, and "
                    "advance at half speed until the system clock has caught up",
                    ahead_ns / 1e9,
                )
                self._is_ahead = True
            elif not ahead_ns:
                self._is_ahead = False
            return self._latest_ns
