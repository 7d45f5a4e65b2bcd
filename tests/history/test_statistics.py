# SPDX-License-Identifier: Apache-2.0
"""Tests the definitions of docs/statistics.md with small numbers."""

from typing import Any

import numpy as np
import pytest

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.load import latency_under_load
from otel_epping.history.statistics import LineStatistics, change, line_statistics
from otel_epping.otel import metric_table
from tests.support.histories import MS, SECOND, TIMESTAMP, octets, packets, slice_of

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

BEGIN_NS = 1_700_000_000 * SECOND
LINE, OTHER = Line(subnet="192.0.2.0/24"), Line(subnet="198.51.100.0/24")


def retransmitted(way: str) -> ColumnKey:
    return ColumnKey(metric_table.RETRANSMITTED.name, (("direction", way),))


def ecn(way: str, codepoint: str) -> ColumnKey:
    return ColumnKey(metric_table.SUBNET_ECN.name, (("direction", way), ("ecn", codepoint)))


def row_of(statistics: LineStatistics, history: History, line: Line) -> dict[str, Any]:
    number = history.numbering.lines.get(line)
    return {name: array[number] for name, array in statistics._asdict().items()}


def test_the_statistics_of_a_line() -> None:
    history = History()
    counts = {
        (LINE, octets("from")): 4_000,
        (LINE, octets("to", "udp")): 1_000,
        (LINE, packets("from")): 60,
        (LINE, packets("from", "tcp_other")): 20,
        (LINE, packets("to")): 10,
        (LINE, packets("to", "udp")): 5,
        (LINE, retransmitted("from")): 8,
        (LINE, ecn("from", "ce")): 1,
        (LINE, ecn("from", "ect_0")): 3,
        (LINE, ColumnKey(metric_table.ACTIVE_FLOWS.name)): 4,
    }
    rtts_ns = {(LINE, TIMESTAMP): [10 * MS] * 19, (LINE, "dns"): [50 * MS]}
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + 2 * SECOND, counts, rtts_ns))
    row = row_of(line_statistics(history.total()), history, LINE)
    assert (row["samples"], row["is_certain"]) == (20, True)
    assert row["p50"] == pytest.approx(0.010, rel=0.022)
    assert row["maximum"] == 0.050
    assert row["minimum"] == 0.010
    assert row["mean"] == pytest.approx(0.012)
    assert row["excess"] == pytest.approx(0.002)
    assert row["impact"] == pytest.approx(5_000 * 0.002 / 2)
    assert (row["bits_from"], row["bits_to"]) == (16_000, 4_000)
    assert (row["loss_from"], row["loss_to"]) == (0.1, 0)
    assert row["ce_from"] == 0.25
    assert np.isnan(row["ce_to"])
    assert row["coverage"] == 70 / 90
    assert (row["tcp_packets"], row["packets"], row["octets"], row["flows"]) == (90, 95, 5_000, 4)
    only_dns = row_of(line_statistics(history.total(), methods=["dns"]), history, LINE)
    assert (only_dns["samples"], only_dns["is_certain"], only_dns["minimum"]) == (1, False, 0.050)


def test_the_minimum_rtt_is_that_of_the_session() -> None:
    history = History()
    for second, rtt_ms in ((0, 10), (1, 30)):
        begin_ns = BEGIN_NS + second * SECOND
        counts, rtts_ns = {(LINE, octets("to")): 1_000}, {(LINE, TIMESTAMP): [rtt_ms * MS]}
        history.add(slice_of(history.numbering, begin_ns, begin_ns + SECOND, counts, rtts_ns))
    now = history.total(BEGIN_NS + SECOND)
    assert line_statistics(now).impact[0] == 0
    assert line_statistics(now, history.total().rtts()).impact[0] == pytest.approx(1_000 * 0.020)


def test_what_a_source_does_not_count_is_unknown() -> None:
    history = History()
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + SECOND, rtts_ns={(LINE, TIMESTAMP): [MS]}))
    row = row_of(line_statistics(history.total()), history, LINE)
    known = {"samples", "is_certain", "p50", "p95", "p99", "mean", "maximum", "minimum", "excess"}
    assert {name for name, value in row.items() if not np.isnan(value)} == known


def test_aggregates_have_no_directions() -> None:
    history = History()
    plain = ColumnKey(metric_table.SUBNET_BYTES.name)
    counts = {(Line(OVERFLOW), plain): 1_000, (Line(UNANSWERED), plain): 10, (LINE, octets("from")): 1}
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + SECOND, counts))
    statistics = line_statistics(history.total())
    for line, expected in ((Line(OVERFLOW), 1_000), (Line(UNANSWERED), 10)):
        row = row_of(statistics, history, line)
        assert row["octets"] == expected
        assert np.isnan([row["bits_from"], row["bits_to"], row["loss_from"], row["coverage"], row["p50"]]).all()


def test_no_slices_and_no_time() -> None:
    assert all(len(each) == 0 for each in line_statistics(History().total()))
    history = History()
    counts = {(LINE, octets("from")): 1_000}
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS, counts, {(LINE, TIMESTAMP): [MS]}))
    row = row_of(line_statistics(history.total()), history, LINE)
    assert np.isnan([row["bits_from"], row["impact"]]).all()
    assert row["octets"] == 1_000


def test_a_change_needs_enough_samples_before_and_after() -> None:
    history = History()
    for second, rtts in ((0, {LINE: [10 * MS] * 20, OTHER: [10 * MS] * 19}), (1, {LINE: [20 * MS] * 20, OTHER: [MS]})):
        begin_ns = BEGIN_NS + second * SECOND
        rtts_ns = {(line, TIMESTAMP): each for line, each in rtts.items()}
        history.add(slice_of(history.numbering, begin_ns, begin_ns + SECOND, {}, rtts_ns))
    before, after = history.over_time()
    found = change(after.rtts(), before.rtts())
    assert found[0] == pytest.approx(0.010)
    assert np.isnan(found[1])


# ---- latency under load


def load_history(minutes: int, rtts: int = 20, length_s: int = 60) -> History:
    """Return a history in which every tenth minute is busy and has longer RTTs. In the first minute, there is no
    traffic."""
    history = History()
    for minute in range(minutes + 1):
        begin_ns = BEGIN_NS // (60 * SECOND) * 60 * SECOND + minute * length_s * SECOND
        is_busy = minute % 10 == 5
        counts = {(LINE, octets("from")): 0 if minute == 0 else 1_000_000 if is_busy else 1_000 + minute}
        rtts_ns = {(LINE, TIMESTAMP): [(50 if is_busy else 10 + minute % 2) * MS] * rtts, (OTHER, TIMESTAMP): [MS]}
        history.add(slice_of(history.numbering, begin_ns, begin_ns + length_s * SECOND, counts, rtts_ns))
    return history


def test_latency_under_load() -> None:
    found = latency_under_load(load_history(40))
    assert (found.periods[0], found.samples[0], found.period_ns) == (40, 80, 60 * SECOND)
    assert found.busy[0] == pytest.approx(0.050)
    # The minutes 1 to 4 are the quietest tenth. In these minutes, half of the RTTs are 10 ms and half are 11 ms.
    assert found.quiet[0] == pytest.approx(0.011, rel=0.022)
    assert found.added[0] == pytest.approx(0.039, rel=0.01)
    assert np.isnan(found.added[1])  # the other line has no traffic


@pytest.mark.parametrize(("minutes", "rtts"), [(19, 20), (40, 4)])
def test_latency_under_load_is_unknown(minutes: int, rtts: int) -> None:
    assert np.isnan(latency_under_load(load_history(minutes, rtts), 60 * SECOND).added).all()


def test_short_histories_have_short_periods() -> None:
    assert latency_under_load(load_history(40, length_s=5)).period_ns == 10 * SECOND
    found = latency_under_load(load_history(40, length_s=1))
    assert (found.period_ns, found.periods[0]) == (SECOND, 40)
    assert found.added[0] == pytest.approx(0.039, rel=0.01)


def test_latency_under_load_of_an_empty_history() -> None:
    assert len(latency_under_load(History()).added) == 0
