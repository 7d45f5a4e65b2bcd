# SPDX-License-Identifier: Apache-2.0
"""What the monitor of the hooks (hook_monitor.py) knows of one hook: counts of packets, tries, and the fault."""

from collections import deque

# How long a fault lasts at least: probes ask every few seconds, and are to see that packets were missed.
_HOLD_S = 3.0
_WINDOW = 4  # looks
# Cards report their counters up to a second late: what they report just after our count stopped is no sign.
_LATE_S = 2.0
# With a reason to suspect, this number of packets missing in a window is no chance.
FEW = 3
# A tenth of the packets may be missing, for the kernel's counters and ours are not read at the same moment.
_SHARE = 10
_SHORTEST_WAIT_S, _LONGEST_WAIT_S, _FORGOTTEN_S = 2.0, 60.0, 600.0


class Tries:
    """When something may be tried again: the first time at once, then after twice as long each time; `count` tries
    were made within some minutes, and the next one comes `wait_s` after the latest.
    """

    def __init__(self) -> None:
        self.count = 0
        self.wait_s = 0.0
        self._last_s = 0.0

    def may(self, now_s: float) -> bool:
        """Whether it is time for a try."""
        if now_s - self._last_s > _FORGOTTEN_S:
            self.count, self.wait_s = 0, 0.0
        return not self.count or now_s - self._last_s >= self.wait_s

    def took(self, now_s: float) -> None:
        """Counts a try."""
        self.count += 1
        self._last_s = now_s
        self.wait_s = min(_SHORTEST_WAIT_S * 2 ** (self.count - 1), _LONGEST_WAIT_S)


class HookState:
    """One direction of an interface: counts at the latest look, and what is known of the hook.

    gained, counted  packets that the kernel and we counted since the look before
    others           who is known to run before us, and stays there
    overtaken_s      when somebody else was found to have come to the hook; None if nobody has
    fault            what is wrong, in words; '' if nothing is
    refusal          why the program could not be attached again
    is_blind         whether the fault is that packets are not seen
    """

    def __init__(self, name: str, direction: str, ifindex: int, number: int, now_s: float) -> None:
        self.name, self.direction, self.ifindex, self.number = name, direction, ifindex, number
        self.where = f"{name} {direction}"
        self.gained, self.counted = 0, 0
        self.others, self.fault, self.refusal, self.is_blind = "", "", "", False
        self.overtaken_s: float | None = None
        self.attaching, self.moving = Tries(), Tries()
        self._totals: tuple[int, int] | None = None
        self._window: deque[tuple[float, int, int]] = deque(maxlen=_WINDOW)
        self._rose_s = now_s  # when our count rose last
        self._hold_until_s = 0.0
        self._always_misses_some = False

    def count(self, kernel: int, seen: int, now_s: float) -> None:
        """Takes in the totals at a look. Of counters that began anew there is no difference."""
        kernel_before, seen_before = self._totals or (kernel, seen)
        self._totals = kernel, seen
        self.gained, self.counted = max(kernel - kernel_before, 0), max(seen - seen_before, 0)
        if self.counted:
            self._rose_s = now_s
        self._window.append((now_s, self.gained, self.counted))

    @property
    def is_short(self) -> bool:
        """Whether packets are missing in the window: more than the time between two counters explains, or all packets
        where some are missing at all times.
        """
        counted = sum(counted for _, _, counted in self._window)
        return self._misses_some and not (counted and self._always_misses_some)

    @property
    def _misses_some(self) -> bool:
        gained = sum(gained for _, gained, _ in self._window)
        counted = sum(counted for _, _, counted in self._window)
        return gained - counted >= max(FEW, gained / _SHARE)

    def know_first(self) -> None:
        """We are first on the hook: what is missing now is hidden by no other program there, but dropped by an XDP
        program, for example.
        """
        if any(gained for _, gained, _ in self._window):
            self._always_misses_some = self._misses_some

    @property
    def unseen(self) -> int:
        """Packets in the window since our count stands still, without what a card may have reported late."""
        return sum(gained for at_s, gained, _ in self._window if at_s - self._rose_s > _LATE_S)

    def fail(self, fault: str, *, is_blind: bool = False) -> None:
        """Has a fault until its cause is gone."""
        self.fault, self.is_blind = fault, is_blind

    def hold(self, fault: str, now_s: float) -> None:
        """Has a fault for some seconds, though its cause is gone. What was missing until now explains nothing later."""
        self.fail(fault)
        self._hold_until_s = now_s + _HOLD_S
        self._window.clear()

    def is_over(self, now_s: float) -> bool:
        """Whether the fault is over. Blindness is over when packets are seen."""
        if self.is_blind:
            return self.counted > 0 and not (self.others and self.is_short)
        return now_s >= self._hold_until_s
