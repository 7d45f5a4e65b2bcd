# SPDX-License-Identifier: Apache-2.0
"""Compares the sums of a history, over any time and grouping, with plain sums of the same counts and RTTs."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import LIVE_AGES, Age, History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.total import Total
from otel_epping.kernel.buckets import index_of
from otel_epping.otel import agent_metrics, metric_table
from tests.support.histories import MS, SECOND, TIMESTAMP, octets, packets, slice_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

BEGIN_NS = 1_700_000_000 * SECOND
FLOWS = ColumnKey(metric_table.ACTIVE_FLOWS.name)
RETIRED = ColumnKey(agent_metrics.SUBNET_RETIRED.name)
LINES = [
    Line(
        subnet="192.0.2.0/24", as_number=64500, country="DE", tags=(("site", "a"),), interface="eth0", side="external"
    ),
    Line(subnet="198.51.100.0/24", as_number=64500, interface="eth0", side="external"),
    Line(
        subnet="192.0.2.0/24", as_number=64500, country="DE", tags=(("site", "a"),), interface="eth1", side="internal"
    ),
    Line(name="one", tags=(("site", "a"), ("plan", "x")), country="DE", interface="eth0", side="external"),
    Line(OVERFLOW),
    Line(UNANSWERED),
]
COLUMNS = [octets("from"), octets("to"), packets("from", "udp"), ColumnKey(metric_table.SUBNET_BYTES.name)]
METHODS = [TIMESTAMP, "dns", ""]
COUNTS = st.dictionaries(st.tuples(st.sampled_from(LINES), st.sampled_from(COLUMNS)), st.integers(0, 2**50), max_size=6)
RTTS = st.dictionaries(
    st.tuples(st.sampled_from(LINES), st.sampled_from(METHODS)),
    st.lists(st.integers(1_000, 64 * 10**9), min_size=1, max_size=5),
    max_size=4,
)


class Plain(NamedTuple):
    """A slice as plain numbers."""

    begin_s: int
    length_s: int
    counts: dict[tuple[Line, ColumnKey], int]
    rtts_ns: dict[tuple[Line, str], list[int]]
    scale: int

    @property
    def middle_ns(self) -> int:
        return BEGIN_NS + self.begin_s * SECOND + self.length_s * SECOND // 2


SLICES = st.lists(
    st.builds(Plain, st.integers(0, 400), st.integers(0, 30), COUNTS, RTTS, st.sampled_from([4, 4, 3, 0])), max_size=8
)


def history_of(slices: list[Plain], **options: Any) -> History:
    history = History(**options)
    for each in slices:
        begin_ns = BEGIN_NS + each.begin_s * SECOND
        end_ns = begin_ns + each.length_s * SECOND
        history.add(
            slice_of(
                history.numbering, begin_ns, end_ns, each.counts, each.rtts_ns, scale=each.scale, agent={RETIRED: 2}
            )
        )
    return history


def check(total: Total, slices: list[Plain], group: Any = lambda line: line) -> None:
    """Check that a total is equal to the sum of slices in which lines are grouped."""
    lines = total.numbering.lines
    for key in COLUMNS:
        found = total.sum(key.metric, **dict(key.attributes))
        expected: Counter[Line] = Counter()
        for each in slices:
            for (line, column), count in each.counts.items():
                if column.matches(key.metric, dict(key.attributes)):
                    expected[group(line)] += count
        counts = {} if found is None else dict(zip(lines, found.tolist(), strict=True))
        assert {line: n for line, n in counts.items() if n} == {line: n for line, n in expected.items() if n}
    for methods in (None, [TIMESTAMP], ["dns", ""]):
        rtts = total.rtts(methods)
        by_line: dict[Line, list[tuple[int, int]]] = {}
        for each in slices:
            for (line, method), rtts_ns in each.rtts_ns.items():
                if methods is None or method in methods:
                    by_line.setdefault(group(line), []).extend((rtt_ns, each.scale) for rtt_ns in rtts_ns)
        assert {lines[number] for number in np.flatnonzero(rtts.counts).tolist()} == by_line.keys()
        for line, measured in by_line.items():
            number, scale = lines.get(line), min(scale for _, scale in measured)
            assert number is not None
            all_ns = [rtt_ns for rtt_ns, _ in measured]
            assert rtts.scales[number] == scale
            assert (rtts.sum_ns[number], rtts.min_ns[number], rtts.max_ns[number]) == (
                sum(all_ns),
                min(all_ns),
                max(all_ns),
            )
            first, run = rtts.buckets.run(number)
            buckets = {first + place: n for place, n in enumerate(run.tolist()) if n}
            assert buckets == Counter(index_of(rtt_ns, scale) for rtt_ns in all_ns)
    assert total.agent_sum(RETIRED.metric) == (2 * len(slices) or None)


@given(SLICES)
@settings(deadline=None, max_examples=40)
def test_the_total_is_the_sum_of_all_slices(slices: list[Plain]) -> None:
    history = history_of(slices)
    check(history.total(), slices)
    check(history.total(begin_ns=0), slices)
    seconds = {second for each in slices for second in range(each.begin_s, each.begin_s + each.length_s)}
    assert history.total().seconds == len(seconds)


@given(SLICES, st.integers(0, 400), st.integers(0, 400))
@settings(deadline=None, max_examples=40)
def test_a_range_of_time_has_the_slices_whose_middle_is_in_the_range(
    slices: list[Plain], begin_s: int, end_s: int
) -> None:
    begin_ns, end_ns = BEGIN_NS + begin_s * SECOND, BEGIN_NS + end_s * SECOND
    inside = [each for each in slices if begin_ns <= each.middle_ns < end_ns]
    check(history_of(slices).total(begin_ns, end_ns), inside)


@given(SLICES, st.sampled_from([1, 10, 60]))
@settings(deadline=None, max_examples=40)
def test_periods_have_their_slices_even_after_coarsening(slices: list[Plain], step_s: int) -> None:
    history = history_of(slices)
    periods: dict[int, list[Plain]] = {}
    for each in slices:
        periods.setdefault(each.middle_ns // (step_s * SECOND), []).append(each)
    totals = list(history.over_time(step_s * SECOND))
    assert len(totals) == len(periods)
    for total, period in zip(totals, sorted(periods), strict=True):
        check(total, periods[period])
    history.coarsen(step_s * SECOND)
    assert len(history) == len(periods)
    assert history.nbytes == sum(each.nbytes for period in history.periods(None) for each in period)
    check(history.total(begin_ns=0), slices)
    for total, period in zip(history.over_time(), sorted(periods), strict=True):
        check(total, periods[period])


@given(SLICES)
@settings(deadline=None, max_examples=40)
def test_merging_with_age_changes_no_sum(slices: list[Plain]) -> None:
    history = history_of(slices, ages=(Age(20 * SECOND, 10 * SECOND), Age(100 * SECOND, 60 * SECOND)))
    check(history.total(), slices)
    check(history.total(begin_ns=0), slices)
    assert history.nbytes == sum(each.nbytes for period in history.periods(None) for each in period)


@pytest.mark.parametrize("group_by", ["subnet", "name", "asn", "country", "site", "plan"])
@given(SLICES)
@settings(deadline=None, max_examples=15)
def test_groups_have_the_sums_of_their_lines(group_by: str, slices: list[Plain]) -> None:
    history = history_of(slices)
    grouped = history.group(lambda line: line.grouped(group_by))
    check(grouped.total(), slices, lambda line: line.grouped(group_by))
    check(grouped.total(begin_ns=0), slices, lambda line: line.grouped(group_by))
    check(history.total(), slices)


def test_an_empty_history() -> None:
    history = History()
    total = history.total()
    assert (len(history), history.begin_ns, history.end_ns, history.lines) == (0, 0, 0, [])
    assert (total.seconds, total.sum("epping.network.io"), total.agent_sum("x"), total.methods) == (0, None, None, [])
    assert len(total.rtts().counts) == 0
    assert not list(history.over_time(SECOND))
    assert len(history.group(lambda line: line)) == 0


def test_the_number_of_slices_stays_small() -> None:
    history, line = History(ages=LIVE_AGES), LINES[0]
    for second in range(3_000):
        begin_ns = BEGIN_NS + second * SECOND
        history.add(
            slice_of(history.numbering, begin_ns, begin_ns + SECOND, {(line, COLUMNS[0]): 3}, {(line, TIMESTAMP): [MS]})
        )
    assert len(history) < 60 + 25 + 46
    number = history.numbering.lines.get(line)
    octets = history.total(begin_ns=0).sum(COLUMNS[0].metric)
    assert octets is not None
    assert octets[number] == 9_000
    assert history.total(begin_ns=0).seconds == 3_000


def test_the_active_flows_are_the_latest_number_of_each_line() -> None:
    history, (one, two) = History(), LINES[:2]

    def add(second: int, counts: dict[tuple[Line, ColumnKey], int]) -> None:
        begin_ns = BEGIN_NS + second * SECOND
        history.add(slice_of(history.numbering, begin_ns, begin_ns + SECOND, counts))

    add(0, {(one, FLOWS): 5, (two, FLOWS): 7})
    add(2, {(one, FLOWS): 0, (one, COLUMNS[0]): 1})
    add(1, {(one, FLOWS): 9, (two, FLOWS): 8})
    for total in (history.total(), history.total(begin_ns=0)):
        assert flows_of(total) == [0, 8]
    assert [flows_of(total) for total in history.over_time(SECOND)] == [[5, 7], [9, 8], [0, 0]]
    grouped = history.group(lambda line: line.grouped("asn"))
    assert flows_of(history.total()) == [0, 8]
    assert [flows_of(total) for total in grouped.over_time(SECOND)] == [[12], [17], [0]]
    history.coarsen(60 * SECOND)
    assert flows_of(next(history.over_time())) == [0, 8]


def flows_of(total: Total) -> list[int]:
    flows = total.sum(FLOWS.metric)
    assert flows is not None
    return [int(each) for each in flows]


def test_a_slice_that_ends_before_it_begins_covers_no_time() -> None:
    history = History()
    history.add(slice_of(history.numbering, BEGIN_NS + SECOND, BEGIN_NS, {(LINES[0], COLUMNS[0]): 1}))
    assert history.total().seconds == 0
    assert history.end_ns == BEGIN_NS + SECOND


def test_columns_and_lines_that_appear_later_are_zero_before() -> None:
    history = History()
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + SECOND, {(LINES[0], COLUMNS[0]): 1}))
    assert history.total().sum(COLUMNS[1].metric, ecn="ce") is None
    more = {(LINES[1], COLUMNS[1]): 2}
    history.add(slice_of(history.numbering, BEGIN_NS + SECOND, BEGIN_NS + 2 * SECOND, more, {(LINES[1], "dns"): [MS]}))
    first, second = history.over_time()
    for total, expected in ((first, [0, 0]), (second, [0, 2]), (history.total(), [0, 2])):
        found = total.sum(COLUMNS[1].metric, direction="to")
        assert found is not None
        assert found.tolist() == expected
    assert history.total().present().tolist() == [True, True]
    assert first.present().tolist() == [True, False]
    assert history.total().rtts().counts.tolist() == [0, 1]
