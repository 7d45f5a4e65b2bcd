# SPDX-License-Identifier: Apache-2.0
"""Tests the sampling rules of bpf/tcp_timestamp.h: which echo completes an RTT sample, and how many samples can be
pending."""

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from otel_epping.kernel.config import EppingConfig
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, START_NS, Bench, Flow, Rtt

pytestmark = pytest.mark.parallel


# The default configuration, but with the packet clock and with smaller tables.
CONFIG = EppingConfig(packet_clock=True, max_subnets=1024, max_flows=4096)
MAX_AGE = CONFIG.max_age_ns
INTERVAL = CONFIG.sample_interval_ns
WRAP = 1 << 32


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(CONFIG)


@pytest.mark.parametrize("version", [4, 6])
def test_an_rtt_is_the_time_from_a_tsval_to_its_echo(bench: Bench, version: int) -> None:
    flow = bench.flow(version).begun(1000)
    with bench.counting() as counted:
        assert flow.client(1 * MS, 1001) is None
        assert flow.server(21 * MS + 7, 5, tsecr=1001) == 20 * MS + 7
    assert counted["rtt_begun"] == 1


def test_each_direction_is_measured_for_the_subnet_and_side_that_replied(bench: Bench) -> None:
    flow = bench.flow().begun(1000)
    flow.server(0, 5000, tsecr=1000, flags="A", payload=b"")

    def feed(sender: int, entry: str, at_ns: int, tsval: int, tsecr: int) -> Rtt | None:
        return bench.feed(flow.frame(sender, "PA", tsval, tsecr, b"x"), START_NS + at_ns, entry)

    client, server = (ip_network(f"{address}/24", strict=False) for address in flow.addresses)
    assert feed(0, EGRESS, 1 * MS, 1001, 5000) is None
    assert feed(1, INGRESS, 31 * MS, 5031, 1001) == (30 * MS, server, EXTERNAL, bench.row)
    assert feed(0, EGRESS, 34 * MS, 1034, 5031) == (3 * MS, client, INTERNAL, bench.row)


def test_an_older_echo_does_not_match_after_a_newer_one(every: Bench) -> None:
    def sent() -> Flow:
        flow = every.flow().begun(1000)
        flow.client(10 * MS, 1010)
        flow.client(20 * MS, 1020)
        return flow

    in_order = sent()
    assert in_order.server(40 * MS, 5, tsecr=1010) == 30 * MS
    assert in_order.server(41 * MS, 6, tsecr=1020) == 21 * MS
    reordered = sent()
    with every.counting() as counted:
        assert reordered.server(41 * MS, 6, tsecr=1020) == 21 * MS
        assert reordered.server(42 * MS, 5, tsecr=1010) is None
    assert counted["rtt_superseded"] == 1


def test_an_echo_of_an_earlier_tsval_keeps_later_samples_pending(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    flow.client(20 * MS, 1020)
    assert flow.server(25 * MS, 5, tsecr=1000) is None
    assert flow.server(40 * MS, 6, tsecr=1010) == 30 * MS
    assert flow.server(50 * MS, 7, tsecr=1020) == 30 * MS


def test_a_tsval_matches_once(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    assert flow.server(30 * MS, 5, tsecr=1010) == 20 * MS
    assert flow.server(31 * MS, 6, tsecr=1010) is None


def test_an_echo_of_a_tsval_that_was_never_sent_changes_nothing(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    with every.counting() as counted:
        assert flow.server(20 * MS, 5, tsecr=1011) is None
        assert flow.server(21 * MS, 6, tsecr=(1010 + (1 << 31) - 1) % WRAP) is None
    assert counted["rtt_superseded"] == 0
    assert flow.server(30 * MS, 7, tsecr=1010) == 20 * MS


def test_a_sample_older_than_the_maximum_age_never_matches(bench: Bench) -> None:
    flow = bench.flow().begun(1000)
    flow.client(0, 1001)
    assert flow.server(MAX_AGE, 5, tsecr=1001) == MAX_AGE
    late = bench.flow().begun(1000)
    late.client(0, 1001)
    with bench.counting() as counted:
        assert late.server(MAX_AGE + 1, 5, tsecr=1001) is None
    assert counted["rtt_expired"] == 1
    assert counted["rtt_clamped 1"] == 0


def test_a_sample_older_than_the_maximum_age_is_replaced(every: Bench) -> None:
    flow = every.flow().begun(1000)
    for sample in range(4):
        flow.client(sample * MS, 1001 + sample)
    with every.counting() as counted:
        flow.client(MAX_AGE, 2000)
    assert counted.changes.keys() == {"transmitted tcp", "ecn 0", "rtt_not_begun"}
    with every.counting() as counted:
        flow.client(MAX_AGE + 1, 2001)
    assert counted["rtt_expired"] == 1
    assert counted["rtt_begun"] == 1
    assert flow.server(MAX_AGE + 2 * MS, 5, tsecr=2001) == 2 * MS - 1


def test_four_samples_are_pending_and_a_fifth_is_not_started(every: Bench) -> None:
    flow = every.flow().begun(1000)
    with every.counting() as counted:
        for sample in range(1, 6):
            flow.client(sample * MS, 1000 + sample)
    assert (counted["rtt_begun"], counted["rtt_not_begun"]) == (4, 1)
    rtts = [flow.server(100 * MS + sample, sample, tsecr=1000 + sample) for sample in range(1, 6)]
    assert rtts == [100 * MS + sample - sample * MS for sample in range(1, 5)] + [None]
    # A completed sample frees its place, so another sample can use the place.
    flow.client(200 * MS, 1200)
    assert flow.server(210 * MS, 10, tsecr=1200) == 10 * MS


def test_one_sample_in_an_interval_for_each_flow_and_direction(bench: Bench) -> None:
    flow = bench.flow().begun(1000)
    flow.server(0, 5000, tsecr=1000, flags="A", payload=b"")
    flow.client(1 * MS, 1001)
    assert flow.server(2 * MS, 5002, tsecr=1001) == 1 * MS
    flow.client(1 * MS + INTERVAL - 1, 1100)
    assert flow.server(INTERVAL + 2 * MS, 5102, tsecr=1100) is None
    flow.client(1 * MS + INTERVAL, 1101)
    assert flow.server(INTERVAL + 2 * MS, 5102, tsecr=1101) == 1 * MS

    # The sample interval applies to each direction of each flow separately.
    flow = bench.flow().begun(1000)
    other = bench.flow().begun(1000)
    flow.server(0, 5000, tsecr=1000, flags="A", payload=b"")
    flow.client(1 * MS, 1001)
    other.client(1 * MS, 1001)
    assert flow.server(2 * MS, 5002, tsecr=1001) == 1 * MS
    assert flow.client(3 * MS, 1003, tsecr=5002) == 1 * MS
    assert other.server(3 * MS, 5003, tsecr=1001) == 2 * MS


def test_with_interval_zero_every_edge_starts_a_sample(every: Bench) -> None:
    flow = every.flow().begun(1000)
    rtts = []
    for sample in range(1, 11):
        flow.client(sample * 10, 1000 + sample)
        rtts.append(flow.server(sample * 10 + 1000 * sample, sample, tsecr=1000 + sample))
    assert rtts == [1000 * sample for sample in range(1, 11)]


def test_tsecr_counts_only_with_ack(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001)
    assert flow.server(5 * MS, 5, tsecr=1001, flags="P") is None
    assert flow.server(6 * MS, 6, tsecr=1001, flags="PA") == 5 * MS


def test_a_segment_without_timestamp_is_neither_origin_nor_reply(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001)
    assert flow.server(2 * MS, None) is None
    assert flow.server(3 * MS, 5, tsecr=1001) == 2 * MS


def test_every_started_sample_is_accounted_for(every: Bench) -> None:
    """If no sample is pending, started samples = counted RTTs + expired samples + superseded samples."""
    flow = every.flow().begun(1000)
    with every.counting() as counted:
        for sample in range(1, 5):
            flow.client(sample * MS, 1000 + sample)
        rtts = [flow.server(10 * MS, 1, tsecr=1002, flags="A", payload=b"")]  # supersedes 1001
        rtts.append(flow.server(MAX_AGE + 3 * MS + 1, 2, tsecr=1003, flags="A", payload=b""))  # expired
        rtts.append(flow.server(MAX_AGE + 3 * MS + 2, 2, tsecr=1004, flags="A", payload=b""))
    assert rtts == [8 * MS, None, MAX_AGE - MS + 2]
    causes = {name: counted[name] for name in ("rtt_begun", "rtt_expired", "rtt_superseded")}
    assert causes == {"rtt_begun": 4, "rtt_expired": 1, "rtt_superseded": 1}
