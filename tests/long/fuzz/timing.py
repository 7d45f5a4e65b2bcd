# SPDX-License-Identifier: Apache-2.0
"""Chooses the method that times an endpoint's segments: timestamps or sequence numbers.

Implements the rules of docs/methods.md.
"""

from collections import Counter
from enum import IntEnum

from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz.flows import Half, Segment, later
from tests.long.fuzz.meaning import Meaning

STILL_NS = 250_000_000


class Fault(IntEnum):
    """The reason why the segments of an endpoint cannot be timed by timestamps."""

    MISSING = 0
    STILL = 1
    UNECHOED = 2


class Timing:
    """Switches an endpoint between timestamps and sequence numbers, if both methods are enabled."""

    def __init__(self, config: EppingConfig, counters: Counter[str]) -> None:
        self.counters = counters
        self.hands_over = {"tcp_timestamp", "tcp_sequence"} <= set(config.methods)
        self.always_by_sequence = "tcp_timestamp" not in config.methods

    def by_sequence(self, half: Half) -> bool:
        """Returns true if the segments of this endpoint are timed by sequence numbers."""
        return half.newest is None if self.hands_over else self.always_by_sequence

    def begin(self, half: Half, meaning: Meaning) -> None:
        """Resets the state of an endpoint when it sends a SYN, because a SYN starts a connection."""
        self.abandon(half)
        half.handed_over = half.advanced = half.unechoed = half.leaves_one_out = False
        if not meaning.timestamp:
            half.newest = None

    def abandon(self, half: Half) -> None:
        """Discards all pending RTT samples of an endpoint, because no reply will complete these samples."""
        self.counters["rtt_abandoned"] += sum(waiting is not None for waiting in (*half.waiting, half.timed))
        half.waiting, half.timed = [None] * 4, None

    def hand_over(self, half: Half, fault: Fault) -> None:
        """Switches to sequence numbers."""
        self.abandon(half)
        self.counters[f"timestamp_fault {fault.value}"] += 1
        half.newest = None
        half.handed_over, half.advanced, half.leaves_one_out = True, False, False
        half.unechoed = fault is Fault.UNECHOED

    def check_clock(self, half: Half, meaning: Meaning, segment: Segment) -> None:
        """If a segment continues the earlier data, checks that the endpoint's TSval has changed within STILL_NS."""
        if not self.hands_over or half.waits or segment is not Segment.NEXT:
            return
        if meaning.timestamp is None or half.newest is None or later(meaning.timestamp[0], half.newest):
            return
        if half.begun_ns is None or half.advanced_ns - half.begun_ns > STILL_NS:
            self.hand_over(half, Fault.STILL)

    def doubt(self, half: Half, meaning: Meaning) -> None:
        """Discards the pending sample of the TSval that a retransmitted segment repeats (Karn's rule, RFC 6298 section
        3).
        """
        if not meaning.timestamp or half.newest is None:
            return
        for place, waiting in enumerate(half.waiting):
            if waiting is not None and waiting[0] == meaning.timestamp[0]:
                half.waiting[place] = None
                self.counters["rtt_repeated"] += 1

    def miss_echo(self, half: Half, meaning: Meaning) -> None:
        """Handles an acknowledgement that echoes no pending TSval.

        Tolerates the first acknowledgement that echoes no pending TSval, because the acknowledgement may echo an older
        TSval. After the second one, switches to sequence numbers.
        """
        if not self.hands_over or later(half.awaited, meaning.acknowledged):
            return
        if later(meaning.acknowledged, half.following or 0):
            return  # the acknowledged segment was not seen, so its TSval may be unknown
        if meaning.timestamp and later(meaning.timestamp[1], half.tsval):
            return
        if not meaning.timestamp or not meaning.timestamp[1] or half.unechoed:
            self.hand_over(half, Fault.UNECHOED)
        else:
            half.unechoed, half.awaited = True, ((half.following or 0) + 1) % (1 << 32)

    def takes_back(self, half: Half, tsval: int, is_answered: bool, now_ns: int) -> bool:
        """Returns true if the endpoint's segments are timed by timestamps again, starting with this segment.

        The segment must have a new TSval. If the endpoint was switched to sequence numbers because echoes were
        missing, an echo must come first.
        """
        is_new, half.tsval = later(tsval, half.tsval), tsval
        if not is_new or not is_answered:
            return False
        if half.unechoed:
            half.awaited, half.advanced = tsval, True
            return False
        if half.waits:  # the new segment is timed instead of the pending segment
            self.abandon(half)
            half.begun_ns = None
        self._work_again(half, now_ns)
        return True

    def hand_back(self, half: Half, tsecr: int, now_ns: int) -> None:
        """Switches back to timestamps when the echoes work again."""
        if half.advanced and not half.waits and not later(half.awaited, tsecr) and not later(tsecr, half.tsval):
            self._work_again(half, now_ns)

    def _work_again(self, half: Half, now_ns: int) -> None:
        half.handed_over = half.advanced = half.unechoed = half.leaves_one_out = False
        half.newest, half.newest_ns = half.tsval, now_ns
