# SPDX-License-Identifier: Apache-2.0
"""The state of one hook in the hook monitor (hook_monitor.py): packet counts, earlier attempts, and the fault."""

from collections import deque

# The minimum duration of a fault, in seconds. Health probes run only every few seconds, and must notice each fault.
_HOLD_S = 3.0
_WINDOW = 4  # Number of checks in the window. One check is made each second.
# Network cards report their counters up to a second late. So the monitor ignores the packets that the kernel counts in
# the first 2 s after our program last counted a packet.
_LATE_S = 2.0
# If a reason for missing packets is known, the hook has a fault when at least FEW packets are missing in a window.
FEW = 3
# Up to a tenth of the packets may seem to be missing without a fault, because the kernel's counters and our counters
# are not read at the same time.
_SHARE = 10
_FIRST_WAIT_S, _MAX_WAIT_S, _RESET_S = 2.0, 60.0, 600.0


class Backoff:
    """Exponential backoff: the first attempt is made at once, and later attempts after 2 s, 4 s, ... up to 60 s.

    After 10 minutes without an attempt, the backoff starts from the beginning.

    count   the number of attempts since the backoff started
    wait_s  the waiting time in seconds after the latest attempt
    """

    def __init__(self) -> None:
        self.count = 0
        self.wait_s = 0.0
        self._last_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Returns true if another attempt may be made now."""
        if now_s - self._last_s > _RESET_S:
            self.count, self.wait_s = 0, 0.0
        return not self.count or now_s - self._last_s >= self.wait_s

    def record(self, now_s: float) -> None:
        """Records an attempt."""
        self.count += 1
        self._last_s = now_s
        self.wait_s = min(_FIRST_WAIT_S * 2 ** (self.count - 1), _MAX_WAIT_S)


class HookState:
    """The state of one direction of an interface.

    kernel_packets  number of packets that the kernel counted between the latest two checks
    our_packets     number of packets that our program counted between the latest two checks
    others          description of the programs that run before our program, if our program cannot be moved to the
                    front; otherwise ''
    overtaken_s     time at which the monitor found that another program was attached; None if there is no such program
    fault           description of the fault; '' without a fault
    refusal         description of the error if the program could not be attached again; otherwise ''
    is_blind        true if the fault is that our program does not see packets
    reattaching     the attempts to attach the program again
    moving          the attempts to move the program to the front
    """

    def __init__(self, name: str, direction: str, ifindex: int, number: int, now_s: float) -> None:
        self.name, self.direction, self.ifindex, self.number = name, direction, ifindex, number
        self.where = f"{name} {direction}"
        self.kernel_packets, self.our_packets = 0, 0
        self.others, self.fault, self.refusal, self.is_blind = "", "", "", False
        self.overtaken_s: float | None = None
        self.reattaching, self.moving = Backoff(), Backoff()
        self._totals: tuple[int, int] | None = None
        self._window: deque[tuple[float, int, int]] = deque(maxlen=_WINDOW)
        self._latest_packet_s = now_s  # time at which our program last counted a packet
        self._hold_until_s = 0.0
        self._misses_some_when_first = False

    def count(self, kernel_total: int, our_total: int, now_s: float) -> None:
        """Updates the packet counts at a check. If a counter was reset, its increase is taken as 0."""
        kernel_before, ours_before = self._totals or (kernel_total, our_total)
        self._totals = kernel_total, our_total
        self.kernel_packets, self.our_packets = max(kernel_total - kernel_before, 0), max(our_total - ours_before, 0)
        if self.our_packets:
            self._latest_packet_s = now_s
        self._window.append((now_s, self.kernel_packets, self.our_packets))

    @property
    def misses_packets(self) -> bool:
        """True if more packets are missing in the window than the delay of the kernel's counters can explain.

        If our program missed packets even when it was first on the hook, `misses_packets` is true only if all packets
        are missing.
        """
        ours = sum(ours for _, _, ours in self._window)
        return self._misses_some and not (ours and self._misses_some_when_first)

    @property
    def _misses_some(self) -> bool:
        kernel = sum(kernel for _, kernel, _ in self._window)
        ours = sum(ours for _, _, ours in self._window)
        return kernel - ours >= max(FEW, kernel / _SHARE)

    def note_first(self) -> None:
        """Records that our program is first on the hook.

        If packets are missing while our program is first, no other program on the hook hides the missing packets. For
        example, an XDP program may drop packets.
        """
        if any(kernel for _, kernel, _ in self._window):
            self._misses_some_when_first = self._misses_some

    @property
    def unseen(self) -> int:
        """The number of packets that the kernel counted in the window since our program last counted a packet.

        Packets within 2 s after the last counted packet are left out, because network cards report their counters up to
        a second late.
        """
        return sum(kernel for at_s, kernel, _ in self._window if at_s - self._latest_packet_s > _LATE_S)

    def fail(self, fault: str, *, is_blind: bool = False) -> None:
        """Sets a fault. The fault lasts until its cause is gone."""
        self.fault, self.is_blind = fault, is_blind

    def hold_fault(self, fault: str, now_s: float) -> None:
        """Sets a fault for 3 s, although its cause is gone. Discards the packet counts of the window."""
        self.fail(fault)
        self._hold_until_s = now_s + _HOLD_S
        self._window.clear()

    def is_over(self, now_s: float) -> bool:
        """Returns true if the fault has ended. A fault caused by unseen packets ends when packets are seen again."""
        if self.is_blind:
            return self.our_packets > 0 and not (self.others and self.misses_packets)
        return now_s >= self._hold_until_s
