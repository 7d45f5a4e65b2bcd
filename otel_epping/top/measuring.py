# SPDX-License-Identifier: Apache-2.0
"""The thread that reads the counts and computes frames. The screen reacts to keys while this thread reads."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from otel_epping.history.sources.watching import WatchedInterfaces
from otel_epping.series.grouping import SUBNET
from otel_epping.top.frame import Frame
from otel_epping.top.reasons import reasons
from otel_epping.top.session import Session
from otel_epping.top.timeline import Timeline, TimelineCache

_log = logging.getLogger(__name__)

# The time between two readings grows with the CPU time of a reading, so that the thread uses at most this share of a
# CPU. The time grows to at most _MAX_INTERVAL_S. The time is never shorter than the delay that the user sets.
_MAX_SHARE, _MAX_INTERVAL_S = 0.04, 10.0


@dataclass(frozen=True)
class FrameRequest:
    """A request of the screen for an update.

    window_s   the duration of the window in seconds; None is the whole session
    group_by   the attribute by which networks are grouped
    methods    the methods whose RTTs are used; None stands for all methods
    has_time   true if the screen needs a timeline
    end_ns     the end of the window, for captures; None is the end of the capture
    baseline   a number that changes when the window becomes the baseline
    """

    window_s: float | None
    group_by: str = SUBNET
    methods: tuple[str, ...] | None = None
    has_time: bool = False
    end_ns: int | None = None
    baseline: int = 0


@dataclass(frozen=True)
class Update:
    """The answer to a request: the content of the screen.

    frame      the numbers
    request    the answered request
    timeline   the timeline, if it was requested
    name       the interfaces or the captures
    is_live    true for interfaces
    reasons    sentences that explain why there are no RTTs; empty if there are RTTs
    faults     the faults of interfaces and hooks, one sentence each
    notes      remarks about captures
    baseline   the begin and the end of the baseline, Unix time, ns; (0, 0) without a baseline
    session    the begin and the end of the session, Unix time, ns
    ends_ns    the ends of the intervals of a capture, Unix time, ns; empty for interfaces
    interval_s time between two readings, in seconds
    spent_s    CPU time of the latest reading and its frame, in seconds
    """

    frame: Frame
    request: FrameRequest
    timeline: Timeline | None
    name: str
    is_live: bool
    reasons: Sequence[str]
    faults: Sequence[str]
    notes: Sequence[str]
    baseline: tuple[int, int]
    session: tuple[int, int]
    ends_ns: Sequence[int] = ()
    interval_s: float = 0.0
    spent_s: float = 0.0


class Measuring(threading.Thread):
    """Takes slices from a feed, and passes updates to `show`. Without a feed, only answers requests.

    `failed` is called with an exception that ends the thread.
    """

    def __init__(
        self,
        session: Session,
        feed: WatchedInterfaces | None,
        name: str,
        delay_s: float,
        request: FrameRequest,
        show: Callable[[Update], object],
        failed: Callable[[Exception], object],
    ) -> None:
        super().__init__(name="top-measuring", daemon=True)
        self._session, self._feed, self._source = session, feed, name
        self._delay_s, self._request = delay_s, request
        self._show, self._failed = show, failed
        self._wake, self._is_ended = threading.Event(), False
        self._timelines = TimelineCache()
        self._baseline = 0
        self._spent_s = 0.0
        self._others: Sequence[tuple[str, float]] = ()

    def ask(self, request: FrameRequest) -> None:
        """Requests an update without waiting. The thread uses the request for all updates until the next request."""
        self._request = request
        self._wake.set()

    def end(self) -> None:
        """Ends the thread, and waits until it has ended."""
        self._is_ended = True
        self._wake.set()
        self.join()

    def run(self) -> None:
        """Takes slices and answers requests until end() is called."""
        try:
            self._answer()
            due_s = time.monotonic() + self._delay_s
            while not self._is_ended:
                is_due = self._feed.wait(due_s, self._wake.wait) if self._feed else not self._wake.wait()
                self._wake.clear()
                if self._is_ended:
                    return
                if is_due and self._feed:
                    self._take(self._feed)
                    due_s = time.monotonic() + self.interval_s
                else:
                    self._answer()
        except Exception as error:
            self._failed(error)

    @property
    def interval_s(self) -> float:
        """Time between two readings in seconds."""
        return max(self._delay_s, min(self._spent_s / _MAX_SHARE, _MAX_INTERVAL_S))

    def _take(self, feed: WatchedInterfaces) -> None:
        began_s = time.thread_time()
        self._session.take(feed)
        if not self._session.history.total().rtts().sum_ns.any():
            self._others = feed.other_traffic()
        self._answer()
        self._spent_s = time.thread_time() - began_s

    def _answer(self) -> None:
        request, session = self._request, self._session
        if request.baseline != self._baseline:
            self._baseline = request.baseline
            session.set_baseline(session.window(request.window_s, request.end_ns))
        frame = session.frame(request.window_s, request.group_by, request.methods, request.end_ns)
        timeline = None
        if request.has_time:
            timeline = self._timelines.timeline(session, request.group_by, request.methods, request.end_ns)
        faults = self._feed.faults if self._feed else ()
        name = self._feed.name if self._feed else self._source
        self._show(
            Update(
                frame,
                request,
                timeline,
                name,
                self._feed is not None,
                reasons(frame, name, faults, self._others, session.history.causes, is_live=self._feed is not None),
                faults,
                session.history.notes,
                session.baseline,
                (session.begin_ns, session.end_ns),
                () if self._feed else [end for _, end in session.history.intervals],
                self.interval_s,
                self._spent_s,
            )
        )
