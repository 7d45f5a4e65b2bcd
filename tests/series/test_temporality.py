# SPDX-License-Identifier: Apache-2.0
"""Tests TemporalityTracker with random sequences of packets, exports and failures.

Each test also adds up the counts by simple addition, and compares the sums with those of TemporalityTracker.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.count_table import CounterTable
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, OVERFLOW_SLOT, SHARED_SLOTS, RttTable
from otel_epping.series.details import DetailsNumbers
from otel_epping.series.projection import SeriesReading
from otel_epping.series.temporality import TemporalityTracker, Unsent
from tests.support.readings import dense, runs_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


STARTED_NS = 1_000
TICK_NS = 10
BUCKETS = 12
COUNTERS = 5


class Kernel:
    """Simulates the counts of the kernel program.

    The first two rows are shared rows. A row has one histogram for RTTs of an even number of ns, and one for RTTs of an
    odd number of ns. Row 0 has one histogram.
    """

    def __init__(self) -> None:
        self.now_ns = STARTED_NS
        self.created_ns = [0] * SHARED_SLOTS
        self.rtts_ns: list[list[int]] = [[] for _ in self.created_ns]  # the RTTs since the last reading
        self.counters: Counts = np.zeros((SHARED_SLOTS, COUNTERS), np.uint64)
        self.histograms = {(OVERFLOW_SLOT, 0): OVERFLOW_HISTOGRAM}
        self.histogram_rtts_ns: list[list[int]] = [[]]  # the RTTs since the start
        self.new = [0]  # the first RTT of each histogram since the last reading

    def add_row(self) -> None:
        self.created_ns.append(self.now_ns)
        self.rtts_ns.append([])
        self.counters = np.concatenate([self.counters, np.zeros((1, COUNTERS), np.uint64)])

    def packet(self, row: int, octets: int) -> None:
        self.counters[row, octets % COUNTERS] += np.uint64(octets)

    def rtt(self, row: int, rtt_ns: int) -> None:
        pair = row, rtt_ns % 2 if row != OVERFLOW_SLOT else 0
        number = self.histograms.setdefault(pair, len(self.histograms))
        if number == len(self.histogram_rtts_ns):
            self.histogram_rtts_ns.append([])
            self.new.append(0)
        self.histogram_rtts_ns[number].append(rtt_ns)
        self.rtts_ns[row].append(rtt_ns)

    def buckets(self) -> Counts:
        """Return the buckets of all rows, shape (rows, buckets)."""
        found: Counts = np.zeros((len(self.created_ns), BUCKETS), np.uint64)
        for (row, _), number in self.histograms.items():
            found[row] += buckets_of(self.histogram_rtts_ns[number])
        return found

    def sums_ns(self) -> list[int]:
        """Return the sum of the RTTs of each row."""
        found = [0] * len(self.created_ns)
        for (row, _), number in self.histograms.items():
            found[row] += sum(self.histogram_rtts_ns[number])
        return found

    def _rtts(self) -> RttTable:
        new = [rtts[begin:] for rtts, begin in zip(self.histogram_rtts_ns, self.new, strict=True)]
        self.new = [len(rtts) for rtts in self.histogram_rtts_ns]
        return RttTable(
            rows=np.array([row for row, _ in self.histograms], np.int64),
            methods=np.array([method for _, method in self.histograms], np.int64),
            generation=np.arange(len(self.histograms)).astype(np.bool_).astype(np.uint32),
            buckets=runs_of(np.array([buckets_of(rtts) for rtts in self.histogram_rtts_ns], np.uint64)),
            sum_ns=np.array([sum(rtts) for rtts in self.histogram_rtts_ns], np.uint64),
            min_ns=np.array([min(rtts, default=NO_MIN_NS) for rtts in new], np.uint64),
            max_ns=np.array([max(rtts, default=0) for rtts in new], np.uint64),
        )

    def read(self) -> SeriesReading:
        self.now_ns += TICK_NS
        self.rtts_ns = [[] for _ in self.rtts_ns]
        return SeriesReading(
            time_ns=self.now_ns,
            names={},
            slots=np.zeros(len(self.created_ns), np.uint8),
            created_ns=np.array(self.created_ns, np.int64),
            generation=np.array(self.created_ns, np.int64).astype(np.bool_).astype(np.uint32),
            rtts=self._rtts(),
            counts=CounterTable(self.counters.copy()),
            active=np.zeros(len(self.created_ns), np.uint64),
            details=DetailsNumbers(),
        )


def buckets_of(rtts_ns: list[int]) -> Counts:
    return np.bincount(np.array(rtts_ns, np.int64) % BUCKETS, minlength=BUCKETS).astype(np.uint64)


def tracker_of(*, delta: bool) -> TemporalityTracker:
    return TemporalityTracker(delta=delta, started_ns=STARTED_NS, counters=COUNTERS)


class RttsOfRow(NamedTuple):
    """The pending RTTs of a row."""

    buckets: Counts
    sum_ns: int
    min_ns: int
    max_ns: int


def rtts_of(pending: Unsent, row: int) -> RttsOfRow:
    """Add up the pending histograms of a row."""
    rtts = pending.rtts
    of_row = np.flatnonzero(rtts.rows == row)
    return RttsOfRow(
        dense(rtts.buckets.select(of_row), BUCKETS).sum(axis=0),
        int(rtts.sum_ns[of_row].sum()),
        min(rtts.min_ns[of_row].tolist(), default=NO_MIN_NS),
        max(rtts.max_ns[of_row].tolist(), default=0),
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


# One step has four elements: the number of new rows; packets as (row, octets, RTT or
# None); the number of parts into which the export is split; for each part, true if the part arrives.
ROW = st.integers(0, 7)
PACKETS = st.lists(st.tuples(ROW, st.integers(1, 1500), st.none() | st.integers(1, 10**6)), max_size=12)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        PACKETS,
        st.integers(1, 4),
        st.lists(st.booleans(), min_size=4, max_size=4),
    ),
    min_size=1,
    max_size=12,
)
Step = tuple[int, list[tuple[int, int, int | None]], int, list[bool]]


def count(kernel: Kernel, step: Step) -> None:
    """Add the new rows and packets of a step to the simulated counts."""
    new_rows, packets, *_ = step
    for _ in range(new_rows):
        kernel.add_row()
    for row, octets, rtt_ns in packets:
        kernel.packet(row % len(kernel.created_ns), octets)
        if rtt_ns:
            kernel.rtt(row % len(kernel.created_ns), rtt_ns)


def receive(received: Received, tracker: TemporalityTracker, row: int) -> None:
    """Add a delta point of a row to the received counts. Check that the point continues the previous point."""
    pending = tracker.pending(np.array([row]))
    start_ns, now_ns = int(pending.start_ns[0]), tracker.reading.time_ns
    assert received.until_ns <= start_ns < now_ns, "points do not overlap or go back in time"
    rtts = rtts_of(pending, row)
    assert (rtts.buckets < 2**40).all(), "no count is negative"
    assert (pending.counters < 2**40).all(), "no count is negative"
    received.buckets += rtts.buckets
    received.sum_ns += rtts.sum_ns
    received.counters += pending.counters[0]
    received.from_ns = received.from_ns or start_ns
    received.until_ns = now_ns
    if rtts.buckets.any():
        assert 0 < rtts.min_ns <= rtts.sum_ns / int(rtts.buckets.sum()) <= rtts.max_ns
    received.min_ns = min(received.min_ns, rtts.min_ns)
    received.max_ns = max(received.max_ns, rtts.max_ns)


@settings(deadline=None)
@given(STEPS)
def test_exported_and_pending_deltas_add_up_to_the_total(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), tracker_of(delta=True)
    receiver: dict[int, Received] = {}
    for step in steps:
        count(kernel, step)
        tracker.update(kernel.read())
        rows = tracker.rows()
        for part, delivered in zip(np.array_split(rows, step[2]), step[3], strict=False):
            if delivered:
                for row in part.tolist():
                    receive(receiver.setdefault(row, Received()), tracker, row)
                tracker.acknowledge(part)
        every = np.arange(len(kernel.created_ns))
        pending = tracker.pending(every)
        for row in every.tolist():
            received, rtts = receiver.get(row, Received()), rtts_of(pending, row)
            assert (received.buckets + rtts.buckets == kernel.buckets()[row]).all()
            assert received.sum_ns + rtts.sum_ns == kernel.sums_ns()[row]
            assert (received.counters + pending.counters[row] == kernel.counters[row]).all()
        silent = np.setdiff1d(every, rows)
        assert not pending.counters[silent].any(), "a row that is not exported has no pending counts"


@settings(deadline=None)
@given(STEPS)
def test_delta_intervals_of_a_row_have_no_gap_or_overlap(steps: list[Step]) -> None:
    """A point starts at the last reading after which no count of the row was pending.

    The first point of a row starts when the row is created.
    """
    kernel, tracker = Kernel(), tracker_of(delta=True)
    start_ns: dict[int, int] = {}
    for step in steps:
        count(kernel, step)
        tracker.update(kernel.read())
        rows = tracker.rows()
        for row, created_ns in enumerate(kernel.created_ns):
            start_ns.setdefault(row, created_ns or STARTED_NS)
        assert tracker.pending(rows).start_ns.tolist() == [start_ns[row] for row in rows.tolist()]
        unsent = set(rows.tolist())
        for part, delivered in zip(np.array_split(rows, step[2]), step[3], strict=False):
            if delivered:
                tracker.acknowledge(part)
                unsent -= set(part.tolist())
        start_ns |= {row: tracker.reading.time_ns for row in start_ns if row not in unsent}


@settings(deadline=None)
@given(STEPS)
def test_delta_intervals_of_a_histogram_have_no_gap_or_overlap(steps: list[Step]) -> None:
    """The first point of a histogram starts at the previous reading, or when the row is created, whichever is later."""
    kernel, tracker = Kernel(), tracker_of(delta=True)
    start_ns: dict[tuple[int, int], int] = {}
    previous_ns = STARTED_NS
    for step in steps:
        count(kernel, step)
        tracker.update(kernel.read())
        for row, method in kernel.histograms:
            start_ns.setdefault((row, method), max(kernel.created_ns[row], previous_ns))
        rows = tracker.rows()
        rtts = tracker.pending(rows).rtts
        pairs = list(zip(rtts.rows.tolist(), rtts.methods.tolist(), strict=True))
        assert rtts.start_ns.tolist() == [start_ns[pair] for pair in pairs]
        unsent = set(pairs)
        for part, delivered in zip(np.array_split(rows, step[2]), step[3], strict=False):
            if delivered:
                tracker.acknowledge(part)
                unsent -= {pair for pair in unsent if pair[0] in part}
        previous_ns = tracker.reading.time_ns
        start_ns |= {pair: previous_ns for pair in start_ns if pair not in unsent}


@settings(deadline=None)
@given(STEPS)
def test_delta_extremes_are_those_of_the_exported_rtts(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), tracker_of(delta=True)
    unsent: dict[int, list[int]] = {}
    for step in steps:
        count(kernel, step)
        for row, rtts_ns in enumerate(kernel.rtts_ns):
            unsent.setdefault(row, []).extend(rtts_ns)
        tracker.update(kernel.read())
        rows = tracker.rows()
        pending = tracker.pending(rows)
        for row in rows.tolist():
            rtts = rtts_of(pending, row)
            assert rtts.min_ns == min(unsent[row], default=NO_MIN_NS)
            assert rtts.max_ns == max(unsent[row], default=0)
            assert rtts.sum_ns == sum(unsent[row])
        for part, delivered in zip(np.array_split(rows, step[2]), step[3], strict=False):
            if delivered:
                tracker.acknowledge(part)
                unsent |= {row: [] for row in part.tolist()}


@settings(deadline=None)
@given(STEPS)
def test_cumulative_exports_do_not_depend_on_acknowledgements(steps: list[Step]) -> None:
    kernel, tracker = Kernel(), tracker_of(delta=False)
    rtts_ns: dict[int, list[int]] = {}
    for step in steps:
        count(kernel, step)
        for row, new in enumerate(kernel.rtts_ns):
            rtts_ns.setdefault(row, []).extend(new)
        tracker.update(kernel.read())
        rows = tracker.rows()
        assert rows.tolist() == np.flatnonzero(kernel.counters.any(axis=1)).tolist()
        pending = tracker.pending(rows)
        assert (pending.counters == kernel.counters[rows]).all()
        assert pending.start_ns.tolist() == [kernel.created_ns[row] or STARTED_NS for row in rows.tolist()]
        for row in rows.tolist():
            rtts = rtts_of(pending, row)
            assert (rtts.buckets == kernel.buckets()[row]).all()
            assert rtts.sum_ns == kernel.sums_ns()[row]
            assert rtts.min_ns == min(rtts_ns[row], default=NO_MIN_NS)
            assert rtts.max_ns == max(rtts_ns[row], default=0)
        if step[3][0]:
            tracker.acknowledge(rows)


# ---- the counters of one packet are not read at the same time, so an event may be split over two readings


ROW_2 = 2


def delivered(tracker: TemporalityTracker, kernel: Kernel, received: Received) -> list[int]:
    """Take a reading and deliver it. Add the exported counts of row 2 to `received`."""
    tracker.update(kernel.read())
    rows: list[int] = tracker.rows().tolist()
    if ROW_2 in rows:
        pending = tracker.pending(np.array([ROW_2]))
        rtts = rtts_of(pending, ROW_2)
        received.buckets += rtts.buckets
        received.sum_ns += rtts.sum_ns
        received.min_ns = min(received.min_ns, rtts.min_ns)
        received.max_ns = max(received.max_ns, rtts.max_ns)
        received.counters += pending.counters[0]
    tracker.acknowledge(tracker.rows())
    return rows


@pytest.fixture
def row() -> tuple[Kernel, TemporalityTracker, Received]:
    kernel = Kernel()
    kernel.add_row()
    return kernel, tracker_of(delta=True), Received()


def test_an_rtt_read_after_its_packet_is_in_the_next_point(row: tuple[Kernel, TemporalityTracker, Received]) -> None:
    """Histograms and counters are read in parallel.

    So a packet may be in one reading, and the RTT of the packet in the next reading.
    """
    kernel, tracker, received = row
    kernel.packet(ROW_2, 100)
    assert delivered(tracker, kernel, received) == [ROW_2]
    kernel.rtt(ROW_2, 5_000)
    assert delivered(tracker, kernel, received) == [ROW_2]
    assert int(received.buckets.sum()) == 1
    assert received.sum_ns == received.min_ns == received.max_ns == 5_000


def test_an_rtt_read_before_its_packet_is_exported_first(
    row: tuple[Kernel, TemporalityTracker, Received],
) -> None:
    kernel, tracker, received = row
    kernel.rtt(ROW_2, 5_000)
    assert delivered(tracker, kernel, received) == [ROW_2]
    kernel.packet(ROW_2, 100)
    assert delivered(tracker, kernel, received) == [ROW_2]
    assert (int(received.buckets.sum()), received.sum_ns, int(received.counters.sum())) == (1, 5_000, 100)


def test_an_rtt_read_after_its_packet_keeps_its_extremes(
    row: tuple[Kernel, TemporalityTracker, Received],
) -> None:
    kernel, tracker, received = row
    kernel.packet(ROW_2, 100)
    delivered(tracker, kernel, received)
    kernel.rtt(ROW_2, 5_000)
    delivered(tracker, kernel, received)
    kernel.packet(ROW_2, 100)
    kernel.rtt(ROW_2, 9_000)
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
    tracker = tracker_of(delta=delta)
    kernel.add_row()
    created_ns, kernel.created_ns[ROW_2] = kernel.created_ns[ROW_2], 0
    kernel.packet(ROW_2, 100)
    tracker.update(kernel.read())
    assert tracker.rows().tolist() == [], "the subnet of the row is not known yet"
    kernel.created_ns[ROW_2] = created_ns
    tracker.update(kernel.read())
    assert tracker.rows().tolist() == [ROW_2]
    assert tracker.pending(tracker.rows()).start_ns.tolist() == [created_ns]
