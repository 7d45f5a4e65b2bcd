# SPDX-License-Identifier: Apache-2.0
"""Tests slices of a running collector with readings made by SyntheticKernel."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.sources.live import LiveSource
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel import metric_table
from tests.series.test_synthetic import EVENT, apply
from tests.support.many_subnets import IO, PACKETS, RTT_NS, RTTS, network_of
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

MS = 1_000_000
CONFIG = EppingConfig(max_subnets=8)


def start(rows: int = 12) -> tuple[SyntheticKernel, LiveSource, History]:
    kernel = SyntheticKernel(CONFIG, rows)
    history = History()
    collector: Any = SyntheticCollector(kernel)
    return kernel, LiveSource(collector, history.numbering), history


def test_a_slice_has_the_counts_since_the_previous_slice() -> None:
    kernel, source, history = start()
    kernel.packet(1, 101)
    kernel.rtt(1, 0, 5 * MS)
    history.add(source.take())
    kernel.rtt(1, 0, 7 * MS)
    kernel.rtt(1, 3, 9 * MS)
    kernel.packet(1, 100)
    history.add(source.take())
    line = history.numbering.lines.get(Line(subnet=str(network_of(1)), network_type="ipv4", side="external"))
    assert line is not None
    first, second = history.over_time()
    assert [each.rtts().counts[line] for each in (first, second, history.total())] == [1, 2, 3]
    io = [each.sum(metric_table.SUBNET_BYTES.name, direction="from") for each in (first, second, history.total())]
    assert [each[line] for each in io if each is not None] == [101, 0, 101]
    assert history.total().rtts(["icmp_echo"]).sum_ns[line] == 9 * MS
    assert history.total().rtts().min_ns[line] == 5 * MS
    assert history.total().methods == ["tcp_timestamp", "icmp_echo"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(EVENT, max_size=25), max_size=8))
def test_the_sum_of_all_slices_is_what_was_counted(steps: list[list[Any]]) -> None:
    kernel, source, history = start()
    history.add(source.take())
    for events in steps:
        apply(kernel, events, set())
        history.add(source.take())
    history.add(source.take())
    history.add(source.take())
    total = history.total()
    rtts = total.rtts()
    assert rtts.counts.sum() == kernel.truth[RTTS]
    assert rtts.sum_ns.sum() == kernel.truth[RTT_NS]
    packets, octets = total.sum(metric_table.SUBNET_PACKETS.name), total.sum(metric_table.SUBNET_BYTES.name)
    assert (0 if packets is None else packets.sum()) == kernel.truth[PACKETS]
    assert (0 if octets is None else octets.sum()) == kernel.truth[IO]
    kinds = {line.kind for line in history.lines}
    assert {OVERFLOW, UNANSWERED} <= kinds
