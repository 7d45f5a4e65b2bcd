# SPDX-License-Identifier: Apache-2.0
"""Tests which side is external. The source of a received packet is external, except on LAN interfaces. In captures, the
side is unknown."""

from collections.abc import Callable, Iterator

import pytest

from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.config import EppingConfig
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, LO, MS, START_NS, Bench, Flow, Rtt

pytestmark = pytest.mark.parallel


UNKNOWN = 2


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Iterator[Bench]:
    bench = bench_of(EppingConfig(packet_clock=True))
    yield bench
    bench.collector.attachments.register(LO)


def answered(flow: Flow, entry: str, back: str) -> Rtt | None:
    """Feed a flow that has no SYN. The second segment of the flow passes through the entry point `entry`. The reply
    passes through the entry point `back`. Return the RTT that the reply completes."""
    feed = flow.bench.feed
    feed(flow.frame(0, "A", 1000, 0, b""), START_NS, entry)
    feed(flow.frame(0, "PA", 1001, 0, b"data"), START_NS + MS, entry)
    return feed(flow.frame(1, "A", 5, 1001, b""), START_NS + 9 * MS, back)


@pytest.mark.parametrize(
    ("role", "entry", "side"),
    [
        (Role.WAN, EGRESS, EXTERNAL),
        (Role.WAN, INGRESS, INTERNAL),
        (Role.LAN, EGRESS, INTERNAL),
        (Role.LAN, INGRESS, EXTERNAL),
    ],
)
def test_the_side_of_the_subnet_that_replied(bench: Bench, role: Role, entry: str, side: int) -> None:
    bench.collector.attachments.register(LO, role)
    rtt = answered(bench.flow(), entry, INGRESS if entry == EGRESS else EGRESS)
    assert rtt is not None
    assert (rtt.ns, rtt.side) == (8 * MS, side)


@pytest.mark.parametrize("role", [Role.WAN, Role.LAN])
def test_a_reply_in_the_direction_of_the_request_belongs_to_another_flow(bench: Bench, role: Role) -> None:
    bench.collector.attachments.register(LO, role)
    assert answered(bench.flow(), INGRESS, INGRESS) is None


def test_in_a_capture_all_packets_are_received_and_no_side_is_known(bench: Bench) -> None:
    bench.collector.attachments.register(LO, Role.CAPTURE)
    rtt = answered(bench.flow(), INGRESS, INGRESS)
    assert rtt is not None
    assert (rtt.ns, rtt.side) == (8 * MS, UNKNOWN)
