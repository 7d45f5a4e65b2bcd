# SPDX-License-Identifier: Apache-2.0
"""Tests the clock that gives the timestamps. The clocks of the simulated machine have steps in both directions, drift
and suspension."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.kernel.wall_clock import Clock

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


SECOND = 10**9
HOUR = 3600 * SECOND
START_NS = 1_760_000_000 * SECOND


class Machine:
    """A machine with a wall clock and a monotonic clock. Only the wall clock may be set."""

    def __init__(self) -> None:
        self.wall_ns, self.elapsed_ns = START_NS, 0
        self.clock = Clock(lambda: self.wall_ns, lambda: self.elapsed_ns)

    def after(self, elapsed_ns: int, step_ns: int = 0) -> int:
        """Let time pass, and then move the wall clock by `step_ns`.

        Return the tested clock minus the wall clock, in ns.
        """
        self.elapsed_ns += elapsed_ns
        self.wall_ns += elapsed_ns + step_ns
        return self.clock() - self.wall_ns


@given(st.lists(st.tuples(st.integers(0, HOUR), st.integers(-10 * HOUR, 10 * HOUR)), max_size=50))
def test_the_clock_is_never_behind_and_always_increases(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    times = [machine.clock()]
    for elapsed_ns, step_ns in steps:
        assert machine.after(elapsed_ns, step_ns) >= 0
        times.append(machine.clock())
    assert all(earlier < later for earlier, later in pairwise(times))


@given(st.lists(st.integers(1, HOUR), max_size=50))
def test_without_steps_the_clock_equals_the_wall_clock(pauses: list[int]) -> None:
    machine = Machine()
    assert [machine.after(pause_ns) for pause_ns in pauses] == [0] * len(pauses)


def test_a_step_forward_is_followed_at_once() -> None:
    """The step is 50 years. If a machine has no battery for its clock, the clock may make a step of 50 years after a
    boot."""
    assert Machine().after(SECOND, 50 * 365 * 24 * HOUR) == 0


@pytest.mark.parametrize("interval_ns", [SECOND // 10, 60 * SECOND])
def test_a_step_back_of_an_hour_is_compensated_in_two_hours(interval_ns: int, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    ahead_ns = [machine.after(interval_ns, -HOUR)]
    for _ in range(2 * HOUR // interval_ns):
        ahead_ns.append(machine.after(interval_ns))
    assert HOUR - interval_ns <= ahead_ns[0] <= HOUR
    assert ahead_ns[len(ahead_ns) // 2] == pytest.approx(HOUR / 2, abs=interval_ns)
    assert ahead_ns[-1] == 0
    assert ahead_ns[-3] > 0
    (message,) = caplog.messages
    assert message.startswith(
        f"the system clock was set back: exported timestamps are {ahead_ns[0] / SECOND:.0f} s ahead of the system clock"
    )


def test_threads_never_get_the_same_time() -> None:
    clock, times, lock = Clock(), set(), threading.Lock()

    def ask() -> None:
        mine = [clock() for _ in range(2000)]
        assert mine == sorted(mine)
        with lock:
            times.update(mine)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(times) == 8000
