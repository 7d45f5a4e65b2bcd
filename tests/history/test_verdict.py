# SPDX-License-Identifier: Apache-2.0
"""Tests the sentences of the verdict."""

from dataclasses import replace

import numpy as np
import pytest

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, Line
from otel_epping.history.statistics import line_statistics
from otel_epping.history.verdict import FAIR, GOOD, LOAD, NOT_LOAD, SLOW, UNKNOWN, Thresholds, Verdict, verdict
from otel_epping.otel import metric_table
from tests.support.histories import MS, SECOND, TIMESTAMP, octets, packets, slice_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

BEGIN_NS = 1_700_000_040 * SECOND  # a full minute
SLOW_LINE, GOOD_LINE, FEW = Line(subnet="203.0.113.0/24"), Line(subnet="192.0.2.0/24"), Line(subnet="198.51.100.0/24")
RETRANSMITTED = ColumnKey(metric_table.RETRANSMITTED.name, (("direction", "to"),))
CE, ECT = (ColumnKey(metric_table.SUBNET_ECN.name, (("direction", "to"), ("ecn", each))) for each in ("ce", "ect_0"))


def history_of(rtts_ms: dict[Line, list[int]], counts: dict[tuple[Line, ColumnKey], int] | None = None) -> History:
    history = History()
    traffic = {(line, octets("to")): 1_000 for line in rtts_ms} | {(line, packets("to")): 100 for line in rtts_ms}
    rtts_ns = {(line, TIMESTAMP): [each * MS for each in rtts] for line, rtts in rtts_ms.items() if rtts}
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + SECOND, traffic | (counts or {}), rtts_ns))
    return history


def sentence(history: History, thresholds: Thresholds | None = None) -> str:
    return verdict(history, thresholds).sentence


def test_nothing_was_measured() -> None:
    assert sentence(History()) == "No verdict: no RTT was measured."
    assert sentence(history_of({FEW: []})) == "No verdict: no RTT was measured."


def test_everything_is_on_the_overflow_point() -> None:
    history = history_of({Line(OVERFLOW): [10] * 50})
    assert sentence(history) == 'No verdict: all RTTs are in the line "all others": the number of networks was limited.'


def test_too_few_samples_give_no_verdict() -> None:
    history = history_of({FEW: [10, 500], GOOD_LINE: [10]})
    assert sentence(history) == "No verdict: none of 2 networks has 20 RTT samples. 198.51.100.0/24 has most: 2."
    assert verdict(history).slow == []


def test_no_network_is_slow() -> None:
    one = history_of({GOOD_LINE: [10] * 1_999 + [12]})
    assert sentence(one) == "The network is not slow: 192.0.2.0/24 adds 0.0 ms (p95 10 ms, 2,000 samples)."
    history = history_of({GOOD_LINE: [10] * 20, SLOW_LINE: [100] * 10 + [110] * 10, FEW: [7]})
    assert sentence(history) == (
        "None of 2 networks is slow. The slowest, 203.0.113.0/24, adds 5.0 ms (p95 110 ms, 20 samples). "
        "1 further network had fewer than 20 RTT samples."
    )


def test_slow_networks_are_named_in_the_order_of_impact() -> None:
    history = history_of(
        {GOOD_LINE: [10] * 20, SLOW_LINE: [10] * 10 + [110] * 10, FEW: [10] * 10 + [210] * 10},
        {(SLOW_LINE, octets("to")): 10_000, (SLOW_LINE, RETRANSMITTED): 3, (SLOW_LINE, CE): 1, (SLOW_LINE, ECT): 9},
    )
    found = verdict(history)
    assert found.sentence == (
        "Of 3 networks, 2 are slow: 203.0.113.0/24 adds 50 ms (p95 110 ms, 20 samples), 3.0% retransmitted, 10.0% "
        "marked by ECN; 198.51.100.0/24 adds 100 ms (p95 206 ms, 20 samples). There are too few data to tell whether "
        "load is the cause."
    )
    assert [each.cause for each in found.slow] == [UNKNOWN, UNKNOWN]
    assert (found.judged, found.uncertain, found.samples) == (3, 0, 60)
    strict = Thresholds(slow=0.075)
    assert sentence(history, strict).startswith("Of 3 networks, 1 is slow: 198.51.100.0/24 adds 100 ms")


def test_lines_with_the_same_label_are_told_apart() -> None:
    lines = [Line(subnet="192.0.2.0/24", interface=name, side="external") for name in ("eth0", "eth1")]
    text = sentence(history_of({lines[0]: [10] * 20, lines[1]: [10] * 10 + [90] * 10}))
    assert "192.0.2.0/24 (eth1, external) adds 40 ms" in text


def load_verdict(busy_ms: int, idle_ms: int) -> Verdict:
    """Return the verdict about a network. The RTTs are 10 ms or `busy_ms` in busy minutes, and 10 ms or `idle_ms` in
    other minutes.
    """
    history = History()
    for minute in range(30):
        begin_ns = BEGIN_NS + minute * 60 * SECOND
        is_busy = minute % 3 == 0
        rtts_ns = {(SLOW_LINE, TIMESTAMP): [10 * MS] * 5 + [(busy_ms if is_busy else idle_ms) * MS] * 20}
        counts = {(SLOW_LINE, octets("to")): 1_000_000 if is_busy else 1_000}
        history.add(slice_of(history.numbering, begin_ns, begin_ns + 60 * SECOND, counts, rtts_ns))
    return verdict(history)


def test_load_is_the_cause_or_not() -> None:
    under_load, always = load_verdict(300, 20), load_verdict(100, 100)
    assert [each.cause for each in under_load.slow] == [LOAD]
    assert under_load.sentence.endswith(", because of load: 20 ms when quiet, 300 ms when busy.")
    assert [each.cause for each in always.slow] == [NOT_LOAD]
    assert always.sentence.endswith("samples), not because of load.")


def test_a_source_with_rtts_only() -> None:
    history = History()
    rtts_ns = {
        (line, TIMESTAMP): [10 * MS] * 10 + [more * MS] * 10 for line, more in ((GOOD_LINE, 80), (SLOW_LINE, 90))
    }
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + SECOND, {}, rtts_ns | {(FEW, TIMESTAMP): [MS]}))
    assert sentence(history) == (
        "Of 2 networks, 2 are slow: 203.0.113.0/24 adds 40 ms (p95 90 ms, 20 samples); 192.0.2.0/24 adds 35 ms (p95 79 "
        "ms, 20 samples). There are too few data to tell whether load is the cause. 1 further network had fewer than "
        "20 RTT samples."
    )


def test_without_minima_the_minimum_rtt_is_in_the_lowest_bucket() -> None:
    numbering = History().numbering
    rtts_ns = {(SLOW_LINE, TIMESTAMP): [10 * MS] * 10 + [90 * MS] * 10}
    known = slice_of(numbering, BEGIN_NS, BEGIN_NS + SECOND, {}, rtts_ns)
    none = np.zeros(1, np.uint64)
    history = History(numbering)
    history.add(replace(known, rtts=replace(known.rtts, min_ns=none, max_ns=none)))
    statistics = line_statistics(history.total())
    assert statistics.minimum[0] == pytest.approx(0.010, rel=0.022)
    assert statistics.maximum[0] == pytest.approx(0.090, rel=0.022)
    assert verdict(history).slow[0].excess == pytest.approx(0.040, rel=0.022)


@pytest.mark.parametrize(("excess", "rating"), [(0.014, GOOD), (0.015, FAIR), (0.030, SLOW), (float("nan"), UNKNOWN)])
def test_ratings(excess: float, rating: str) -> None:
    assert Thresholds().rating(excess) == rating
