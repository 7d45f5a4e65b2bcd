# SPDX-License-Identifier: Apache-2.0
"""Tests windows, baselines, groups and timelines of a session."""

import time
from dataclasses import replace
from random import Random
from statistics import median
from typing import Any

import numpy as np
import pytest

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import Line
from otel_epping.history.sources.live import LiveSource
from otel_epping.kernel.config import EppingConfig
from otel_epping.top import head
from otel_epping.top.session import BASELINE_NS, Session
from otel_epping.top.table import TableLines
from otel_epping.top.text import Glyphs
from otel_epping.top.timeline import TimelineCache
from otel_epping.top.view import View
from tests.support.many_subnets import IO, PACKETS, RTT_NS, RTTS, network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel
from tests.top.provider import SECOND, Provider

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

# The time that a redraw may take: 50 ms for 10,000 networks.
REDRAW_S = 0.05


def session_of(slices: int, networks: int = 6, seconds: float = 2.0) -> tuple[Session, Provider]:
    session = Session()
    provider = Provider(session.history.numbering, networks)
    for _ in range(slices):
        session.add(provider.slice(seconds))
    return session, provider


@pytest.mark.parametrize("window_s", [4.0, 10.0, 60.0, None])
def test_a_window_has_the_slices_of_its_time_while_slices_are_added(window_s: float | None) -> None:
    session, provider = session_of(0)
    for number in range(1, 50):
        session.add(provider.slice())
        window = session.window(window_s)
        if window_s is None or 2 * number <= window_s:
            assert window.seconds == 2 * number
        else:
            # A window that is a sixth too long is summed again. Slices older than a minute are merged to 10 s.
            assert window_s - 2 <= window.seconds <= max(window_s * 7 / 6, window_s + 10)
        assert window.rtts().counts.sum() == window.seconds / 2 * 6 * 30
        assert window.end_ns == session.end_ns


@pytest.mark.parametrize("window_s", [10.0, 60.0])
def test_a_window_contains_at_least_the_last_slice(window_s: float) -> None:
    session = Session(History())
    provider = Provider(session.history.numbering, 6)
    for _ in range(4):
        session.add(provider.slice(3_600.0))
    for end_ns in (None, session.end_ns, session.end_ns - 3_600 * SECOND):
        window = session.window(window_s, end_ns)
        assert window.seconds == 3_600
        assert window.end_ns <= (end_ns or session.end_ns)
        assert window.rtts().counts.sum() == 6 * 30


def test_a_frame_does_not_change_when_slices_are_added() -> None:
    session, provider = session_of(3)
    frame = session.frame(60.0)
    samples, packets = frame.rtts.counts.sum(), frame.total.counters.sum()
    session.add(provider.slice())
    session.frame(60.0)
    assert (frame.rtts.counts.sum(), frame.total.counters.sum()) == (samples, packets)


@pytest.mark.parametrize("group_by", ["subnet", "country"])
def test_a_frame_can_be_drawn_while_a_source_finds_new_lines(group_by: str) -> None:
    session, _ = session_of(1)
    frame = session.frame(60.0, group_by)
    numbering = session.history.numbering
    numbering.lines.find(Line(subnet="192.0.2.0/24"))
    numbering.columns.find(ColumnKey("another"))
    before = head.numbers(frame, View())
    assert before.startswith(f"{len(frame.lines) - 2} networks")
    assert len(TableLines(frame, View(), 200, Glyphs(is_ascii=False)).shown) == len(frame.lines)


def test_the_first_minute_is_the_baseline_of_later_windows() -> None:
    session, provider = session_of(5, seconds=10.0)
    assert session.baseline == (0, 0)
    session.add(provider.slice(10.0))
    assert session.baseline == (session.begin_ns, session.begin_ns + BASELINE_NS)
    assert np.isnan(session.frame(10.0).change_s).all() == (session.end_ns - session.begin_ns == BASELINE_NS)
    for _ in range(3):
        session.add(provider.slice(10.0))
    assert np.isnan(session.frame(60.0).change_s).all()  # the window overlaps with the baseline
    frame = session.frame(10.0)
    networks = frame.total.numbering.are_networks()
    assert not np.isnan(frame.change_s[networks]).any()
    assert np.isnan(frame.change_s[~networks]).all()


def test_a_chosen_baseline_is_compared_at_once() -> None:
    session, _ = session_of(2)
    session.set_baseline(session.window(None))
    changes = session.frame(None).change_s
    assert (changes[~np.isnan(changes)] == 0).all()
    assert np.count_nonzero(~np.isnan(changes)) == 6


@pytest.mark.parametrize("group_by", ["name", "asn", "country", "site"])
def test_groups_have_the_sums_of_their_networks(group_by: str) -> None:
    session, _ = session_of(4, networks=60)
    single, grouped = session.frame(None), session.frame(None, group_by)
    assert len(grouped.lines) < len(single.lines)
    assert grouped.statistics.samples.sum() == single.statistics.samples.sum()
    assert np.nansum(grouped.statistics.octets) == np.nansum(single.statistics.octets)
    assert np.nanmin(grouped.statistics.minimum) == np.nanmin(single.statistics.minimum)


def test_a_line_without_packets_is_old() -> None:
    session, provider = session_of(1)
    session.add(provider.slice(active=5))
    age_s = session.frame(None).age_s
    assert [age_s[session.history.numbering.lines.find(provider.line(number))] for number in (4, 5)] == [0, 2]


def test_only_methods_that_were_chosen_are_counted() -> None:
    session, _ = session_of(1)
    assert session.frame(None, methods=["tcp_timestamp"]).statistics.samples.sum() == 6 * 30
    assert session.frame(None, methods=["dns"]).statistics.samples.sum() == 0


def test_a_timeline_has_the_values_of_each_slice() -> None:
    session, provider = session_of(3)
    cache = TimelineCache()
    first = cache.timeline(session, "subnet", None)
    session.add(provider.slice(active=2))
    timeline = cache.timeline(session, "subnet", None)
    assert np.array_equal(timeline.p95[:3], first.p95, equal_nan=True)
    assert (timeline.samples.sum(axis=1) == [180, 180, 180, 60]).all()
    line = session.history.numbering.lines.find(provider.line(5))
    assert np.isnan(timeline.p95[3, line])
    assert timeline.columns(8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    until = cache.timeline(session, "country", None, session.begin_ns + 4 * SECOND)
    assert (until.samples.sum(axis=1) == [180, 180]).all()


def test_the_number_of_lines_is_limited_and_all_sums_stay_exact() -> None:
    kernel, random = SyntheticKernel(EppingConfig(max_subnets=8), rows=8), Random(1)
    collector: Any = SyntheticCollector(kernel)
    session = Session(max_lines=16)
    feed: Any = LiveSource(collector, session.history.numbering)
    cache = TimelineCache()
    known = set()
    for step in range(300):
        kernel.now_ns += SECOND
        for subnet in (1, 10 + step // 2):
            kernel.packet(subnet, random.randrange(40, 1500))
            kernel.rtt(subnet, random.randrange(3), random.randrange(10**6, 10**9))
        kernel.retire(8 + step // 2)
        session.take(feed)
        if step == 70:
            session.set_baseline(session.window(None))
        lines = session.history.lines
        known |= {line.subnet for line in lines}
        assert len(lines) <= 16 + 2
        timeline = cache.timeline(session, "subnet", None)
        frame = session.frame(None)
        for samples in (frame.statistics.samples, timeline.samples):
            assert np.nansum(samples) == kernel.truth[RTTS]
        assert frame.rtts.sum_ns.sum() == kernel.truth[RTT_NS]
        assert np.nansum(frame.statistics.packets) == kernel.truth[PACKETS]
        assert np.nansum(frame.statistics.octets) == kernel.truth[IO]
        assert frame.seen_ns.max() == session.end_ns
        busy = lines.index(Line(subnet=str(network_of(1)), network_type="ipv4", side="external"))
        assert frame.statistics.is_certain[busy] == (frame.statistics.samples[busy] >= 20)
    assert len(known) == 152  # with the lines of all others and of subnets that never answered
    assert frame.statistics.samples[busy] == 300
    assert np.count_nonzero(~np.isnan(frame.change_s)) >= 1


def test_a_gap_is_empty_in_the_timeline() -> None:
    session, provider = session_of(1)
    provider.now_ns += 4 * SECOND
    session.add(provider.slice())
    assert TimelineCache().timeline(session, "subnet", None).columns(4).tolist() == [0, -1, -1, 1]


def test_10_000_networks_are_redrawn_in_50_ms() -> None:
    session, provider = session_of(5, networks=10_000)
    times_s = []
    for _ in range(5):
        session.add(provider.slice())
        frame = session.frame(60.0)
        began_s = time.thread_time()
        table = TableLines(frame, View(), 200, Glyphs(is_ascii=False))
        table.heading()
        for row in range(50):
            table.row(row)
        times_s.append(time.thread_time() - began_s)
    assert median(times_s) < REDRAW_S
    assert len(table.shown) == 10_002


def test_the_verdict_does_not_depend_on_busy_networks_without_delay() -> None:
    session, provider = session_of(0, networks=3)
    provider._least_s[:] = 0.0001, 0.0001, 0.05  # RTTs are about 6 % longer on average
    for _ in range(3):
        session.add(provider.slice())
    frame = session.frame(None)
    impact = frame.statistics.impact.copy()
    impact[session.history.numbering.lines.find(provider.line(0))] = 1e9
    busy = replace(frame, statistics=frame.statistics._replace(impact=impact))
    assert head.verdict(busy, View()).startswith(f"Worst: {provider.line(2).label}: mean ")
    session, provider = session_of(0, networks=3)
    provider._least_s[:] = 0.0001
    session.add(provider.slice())
    assert head.verdict(session.frame(None), View()).startswith("No network is slow")
