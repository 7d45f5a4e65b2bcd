# SPDX-License-Identifier: Apache-2.0
"""Tests TemporalityTracker with random sequences of packets, exports and failures.

Each test also adds up the counts by simple addition, and compares the sums with those of TemporalityTracker.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import OVERFLOW_SLOT, Reading
from otel_epping.series.temporality import TemporalityTracker
from tests.support.readings import dense, runs_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


STARTED_NS = 1_000
TICK_NS = 10
BUCKETS = 12
COUNTERS = 5
COUNTER_DTYPE = np.dtype([("packets", "u8", (2,)), ("bytes", "u8", (2,)), ("silence", "u8")])
INTERFACE_DTYPE = np.dtype([("packets", "u8", (2,)), ("flows", "u8")])


class Kernel:
    """Simulates the counts of the kernel program."""

    def __init__(self) -> None:
        self.now_ns = STARTED_NS
        self.created_ns = [0]
        self.rtts_ns: list[list[int]] = [[]]  # the RTTs since the last reading
        self.buckets: Counts = np.zeros((1, BUCKETS), np.uint64)
        self.sum_ns: Counts = np.zeros(1, np.uint64)
        self.counters: Counts = np.zeros((1, COUNTERS), np.uint64)
        self.interfaces = np.zeros((1, 3), np.uint64)
        self.interfaces_since_ns = [STARTED_NS]

    def add_row(self) -> None:
        self.created_ns.append(self.now_ns)
        self.rtts_ns.append([])
        self.buckets = np.concatenate([self.buckets, np.zeros((1, BUCKETS), np.uint64)])
        self.sum_ns = np.append(self.sum_ns, np.uint64(0))
        self.counters = np.concatenate([self.counters, np.zeros((1, COUNTERS), np.uint64)])

    def add_interface(self) -> None:
        self.interfaces = np.concatenate([self.interfaces, np.zeros((1, 3), np.uint64)])
        self.interfaces_since_ns.append(self.now_ns)

    def packet(self, row: int, octets: int) -> None:
        self.counters[row, octets % COUNTERS] += np.uint64(octets)
        self.interfaces[-1, octets % 3] += np.uint64(1)

    def rtt(self, row: int, rtt_ns: int) -> None:
        self.buckets[row, rtt_ns % BUCKETS] += np.uint64(1)
        self.sum_ns[row] += np.uint64(rtt_ns)
        self.rtts_ns[row].append(rtt_ns)

    def read(self) -> Reading:
        self.now_ns += TICK_NS
        least = np.array([min(rtts, default=NO_MIN_NS) for rtts in self.rtts_ns], np.uint64)
        greatest = np.array([max(rtts, default=0) for rtts in self.rtts_ns], np.uint64)
        self.rtts_ns = [[] for _ in self.rtts_ns]
        return Reading(
            time_ns=self.now_ns,
            slots=np.zeros(len(self.created_ns), np.uint8),
            created_ns=np.array(self.created_ns, np.int64),
            generation=np.array(self.created_ns, np.int64).astype(np.bool_).astype(np.uint32),
            buckets=runs_of(self.buckets),
            sum_ns=self.sum_ns.copy(),
            min_ns=least,
            max_ns=greatest,
            counters=self.counters.copy().view(COUNTER_DTYPE)[:, 0],
            active=np.zeros(len(self.created_ns), np.uint64),
            flows=0,
            flows_evicted=0,
            names={number: str(number) for number in range(len(self.interfaces))},
            interfaces=self.interfaces.copy().view(INTERFACE_DTYPE)[:, 0],
            interfaces_since_ns=np.array(self.interfaces_since_ns, np.int64),
            gone=frozenset(),
        )


@dataclass
class Received:
    """The sum of all points that a receiver has received for one row."""

    buckets: Counts = field(default_factory=lambda: np.zeros(BUCKETS, np.uint64))
    sum_ns: int = 0
    counters: Counts = field(default_factory=lambda: np.zeros(COUNTERS, np.uint64))
    until_ns: int = 0
    from_ns: int = 0
    min_ns: int = NO_MIN_NS
    max_ns: int = 0


# One step has five elements: the number of new rows; true if an interface appears; packets as (row, octets, RTT or
# None); the number of parts into which the export is split; for each part, true if the part arrives.
ROW = st.integers(0, 7)
PACKETS = st.lists(st.tuples(ROW, st.integers(1, 1500), st.none() | st.integers(1, 10**6)), max_size=12)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.booleans(),
        PACKETS,
        st.integers(1, 4),
        st.lists(st.booleans(), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=12,
)
Step = tuple[int, bool, list[tuple[int, int, int | None]], int, list[bool]]


def count(kernel: Kernel, step: Step) -> None:
    """Add the new rows, interfaces and packets of a step to the simulated counts."""
    new_rows, new_interface, packets, *_ = step
    for _ in range(new_rows):
        kernel.add_row()
    if new_interface:
        kernel.add_interface()
    for row, octets, rtt_ns in packets:
        kernel.packet(row % len(kernel.created_ns), octets)
        if rtt_ns:
            kernel.rtt(row % len(kernel.created_ns), rtt_ns)


def receive(received: Received, tracker: TemporalityTracker, row: int) -> None:
    """Add a delta point of a row to the received counts. Check that the point continues the previous point."""
    pending = tracker.pending(np.array([row]))
    start_ns, now_ns = int(pending.start_ns[0]), tracker.reading.time_ns
    assert received.until_ns <= start_ns < now_ns, "points do not overlap or go back in time"
    buckets = dense(pending.buckets, BUCKETS)[0]
    assert (buckets < 2**40).all(), "no count is negative"
    assert (pending.counters < 2**40).all(), "no count is negative"
    received.buckets += buckets
    received.sum_ns += int(pending.sum_ns[0])
    received.counters += pending.counters[0]
    received.from_ns = received.from_ns or start_ns
    received.until_ns = now_ns
    if buckets.any():
        assert 0 < int(pending.min_ns[0]) <= int(pending.max_ns[0])
        mean_ns = int(pending.sum_ns[0]) / int(buckets.sum())
        assert int(pending.min_ns[0]) <= mean_ns <= int(pending.max_ns[0])
    received.min_ns = min(received.min_ns, int(pending.min_ns[0]))
    received.max_ns = max(received.max_ns, int(pending.max_ns[0]))


@settings(deadline=None)
@given(STEPS)
def test_exported_and_pending_deltas_add_up_to_the_total(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), TemporalityTracker(delta=True, started_ns=STARTED_NS)
    receiver: dict[int, Received] = {}
    for step in steps:
        count(kernel, step)
        tracker.update(kernel.read())
        rows = tracker.rows()
        for part, delivered in zip(np.array_split(rows, step[3]), step[4], strict=False):
            if delivered:
                for row in part.tolist():
                    receive(receiver.setdefault(row, Received()), tracker, row)
                tracker.acknowledge(part)
        every = np.arange(len(kernel.created_ns))
        pending = tracker.pending(every)
        buckets = dense(pending.buckets, BUCKETS)
        for row in every.tolist():
            received = receiver.get(row, Received())
            assert (received.buckets + buckets[row] == kernel.buckets[row]).all()
            assert received.sum_ns + int(pending.sum_ns[row]) == int(kernel.sum_ns[row])
            assert (received.counters + pending.counters[row] == kernel.counters[row]).all()
        silent = np.setdiff1d(every, rows)
        assert not pending.counters[silent].any(), "a row that is not exported has no pending counts"


@settings(deadline=None)
@given(STEPS)
def test_delta_intervals_of_a_row_have_no_gap_or_overlap(steps: list[Step]) -> None:
    """A point starts at the last reading after which no count of the row was pending.

    The first point of a row starts when the row is created.
    """
    kernel, tracker = Kernel(), TemporalityTracker(delta=True, started_ns=STARTED_NS)
    start_ns: dict[int, int] = {}
    for step in steps:
        count(kernel, step)
        tracker.update(kernel.read())
        rows = tracker.rows()
        start_ns[OVERFLOW_SLOT] = start_ns.get(OVERFLOW_SLOT, STARTED_NS)
        for row, created_ns in enumerate(kernel.created_ns[1:], 1):
            start_ns.setdefault(row, created_ns)
        assert tracker.pending(rows).start_ns.tolist() == [start_ns[row] for row in rows.tolist()]
        unsent = set(rows.tolist())
        for part, delivered in zip(np.array_split(rows, step[3]), step[4], strict=False):
            if delivered:
                tracker.acknowledge(part)
                unsent -= set(part.tolist())
        start_ns |= {row: tracker.reading.time_ns for row in start_ns if row not in unsent}


@settings(deadline=None)
@given(STEPS)
def test_delta_extremes_are_those_of_the_exported_rtts(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), TemporalityTracker(delta=True, started_ns=STARTED_NS)
    unsent: dict[int, list[int]] = {}
    for step in steps:
        count(kernel, step)
        for row, rtts_ns in enumerate(kernel.rtts_ns):
            unsent.setdefault(row, []).extend(rtts_ns)
        tracker.update(kernel.read())
        rows = tracker.rows()
        pending = tracker.pending(rows)
        for i, row in enumerate(rows.tolist()):
            assert int(pending.min_ns[i]) == min(unsent[row], default=NO_MIN_NS)
            assert int(pending.max_ns[i]) == max(unsent[row], default=0)
            assert int(pending.sum_ns[i]) == sum(unsent[row])
        for part, delivered in zip(np.array_split(rows, step[3]), step[4], strict=False):
            if delivered:
                tracker.acknowledge(part)
                unsent |= {row: [] for row in part.tolist()}


@settings(deadline=None)
@given(STEPS)
def test_cumulative_exports_do_not_depend_on_acknowledgements(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), TemporalityTracker(delta=False, started_ns=STARTED_NS)
    rtts_ns: dict[int, list[int]] = {}
    for step in steps:
        count(kernel, step)
        for row, new in enumerate(kernel.rtts_ns):
            rtts_ns.setdefault(row, []).extend(new)
        tracker.update(kernel.read())
        rows = tracker.rows()
        assert rows.tolist() == np.flatnonzero(kernel.counters.any(axis=1)).tolist()
        pending = tracker.pending(rows)
        assert (dense(pending.buckets, BUCKETS) == kernel.buckets[rows]).all()
        assert (pending.sum_ns == kernel.sum_ns[rows]).all()
        assert (pending.counters == kernel.counters[rows]).all()
        counters, start_ns = tracker.pending_interfaces()
        assert (counters == kernel.interfaces).all()
        assert start_ns.tolist() == kernel.interfaces_since_ns
        starts = [STARTED_NS, *kernel.created_ns[1:]]
        assert pending.start_ns.tolist() == [starts[row] for row in rows.tolist()]
        assert pending.min_ns.tolist() == [min(rtts_ns[row], default=NO_MIN_NS) for row in rows.tolist()]
        assert pending.max_ns.tolist() == [max(rtts_ns[row], default=0) for row in rows.tolist()]
        if step[4][0]:
            tracker.acknowledge(rows)
            tracker.acknowledge_interfaces()


@settings(deadline=None)
@given(STEPS)
def test_interfaces_are_exported_like_rows(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), TemporalityTracker(delta=True, started_ns=STARTED_NS)
    received: Counts = np.zeros((64, 3), np.uint64)
    received_ns: list[int] = []
    for step in steps:
        count(kernel, step)
        tracker.update(kernel.read())
        pending, start_ns = tracker.pending_interfaces()
        assert start_ns.tolist() == received_ns + kernel.interfaces_since_ns[len(received_ns) :]
        assert (received[: len(pending)] + pending == kernel.interfaces).all()
        if step[4][0]:
            received[: len(pending)] += pending
            tracker.acknowledge_interfaces()
            received_ns = [tracker.reading.time_ns] * len(pending)


# ---- the counters of one packet are not read at the same time, so an event may be split over two readings


def delivered(tracker: TemporalityTracker, kernel: Kernel, received: Received, row: int = 1) -> list[int]:
    """Take a reading and deliver it. Add the exported counts of `row` to `received`.

    Sums, minima and maxima are added only if the point has RTTs in buckets.
    """
    tracker.update(kernel.read())
    rows: list[int] = tracker.rows().tolist()
    if row in rows:
        pending = tracker.pending(np.array([row]))
        if pending.buckets.counts.any():
            received.buckets += dense(pending.buckets, BUCKETS)[0]
            received.sum_ns += int(pending.sum_ns[0])
            received.min_ns = min(received.min_ns, int(pending.min_ns[0]))
            received.max_ns = max(received.max_ns, int(pending.max_ns[0]))
        received.counters += pending.counters[0]
    tracker.acknowledge(tracker.rows())
    return rows


@pytest.fixture
def row() -> tuple[Kernel, TemporalityTracker, Received]:
    kernel = Kernel()
    kernel.add_row()
    return kernel, TemporalityTracker(delta=True, started_ns=STARTED_NS), Received()


def test_an_rtt_read_after_its_packet_is_in_the_next_point(row: tuple[Kernel, TemporalityTracker, Received]) -> None:
    """Histograms and counters are read in parallel.

    So a packet may be in one reading, and the RTT of the packet in the next reading.
    """
    kernel, tracker, received = row
    kernel.packet(1, 100)
    assert delivered(tracker, kernel, received) == [1]
    kernel.rtt(1, 5_000)
    assert delivered(tracker, kernel, received) == [1]
    assert int(received.buckets.sum()) == 1
    assert received.sum_ns == received.min_ns == received.max_ns == 5_000


def test_an_rtt_read_before_its_packet_is_exported_first(
    row: tuple[Kernel, TemporalityTracker, Received],
) -> None:
    kernel, tracker, received = row
    kernel.rtt(1, 5_000)
    assert delivered(tracker, kernel, received) == [1]
    kernel.packet(1, 100)
    assert delivered(tracker, kernel, received) == [1]
    assert (int(received.buckets.sum()), received.sum_ns, int(received.counters.sum())) == (1, 5_000, 100)


def test_an_rtt_read_after_its_packet_keeps_its_extremes(
    row: tuple[Kernel, TemporalityTracker, Received],
) -> None:
    kernel, tracker, received = row
    kernel.packet(1, 100)
    delivered(tracker, kernel, received)
    kernel.rtt(1, 5_000)
    delivered(tracker, kernel, received)
    kernel.packet(1, 100)
    kernel.rtt(1, 9_000)
    delivered(tracker, kernel, received)
    assert (int(received.buckets.sum()), received.sum_ns) == (2, 14_000)
    assert (received.min_ns, received.max_ns) == (5_000, 9_000)


@pytest.mark.parametrize("delta", [False, True])
def test_a_row_is_exported_once_its_slot_is_known(delta: bool) -> None:
    """A slot may come into use between the reading of its key and the reading of its counters.

    If the slot comes into use between the two readings, its row is exported only after the next reading, which contains
    the key.
    """
    kernel: Any = Kernel()
    tracker = TemporalityTracker(delta=delta, started_ns=STARTED_NS)
    kernel.add_row()
    created_ns, kernel.created_ns[1] = kernel.created_ns[1], 0
    kernel.packet(1, 100)
    tracker.update(kernel.read())
    assert tracker.rows().tolist() == [], "the subnet of the row is not known yet"
    kernel.created_ns[1] = created_ns
    tracker.update(kernel.read())
    assert tracker.rows().tolist() == [1]
    assert tracker.pending(tracker.rows()).start_ns.tolist() == [created_ns]
