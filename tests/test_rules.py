# SPDX-License-Identifier: Apache-2.0
"""The sampling rules of bpf/tcp_timestamp.h, each with the case that is sampled beside the one that isn't."""

from collections.abc import Callable
from ipaddress import ip_network

import pytest
from testrun import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, START_NS, UNKNOWN_ROW, Bench, Flow, Rtt

from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.interfaces import Interface
from otel_epping.lab.namespaces import Namespace

# Defaults but for the clock, and smaller tables.
CONFIG = KernelConfig(packet_clock=True, max_subnets=1024, max_flows=4096)
EVERY = KernelConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0)
MAX_AGE = CONFIG.max_age_ns
INTERVAL = CONFIG.sample_interval_ns
WRAP = 1 << 32


@pytest.fixture
def bench(bench_of: Callable[[KernelConfig], Bench]) -> Bench:
    return bench_of(CONFIG)


@pytest.fixture
def every(bench_of: Callable[[KernelConfig], Bench]) -> Bench:
    """The bench that begins an RTT with every edge."""
    return bench_of(EVERY)


@pytest.mark.parametrize("version", [4, 6])
def test_an_rtt_is_the_time_from_a_tsval_to_its_echo(bench: Bench, version: int) -> None:
    flow = bench.flow(version).begun(1000)
    with bench.counting() as counted:
        assert flow.client(1 * MS, 1001) is None
        assert flow.server(21 * MS + 7, 5, tsecr=1001) == 20 * MS + 7
    assert counted["rtt_begun"] == 1


def test_both_directions_are_measured_each_for_the_subnet_and_side_that_answers(bench: Bench) -> None:
    flow = bench.flow().begun(1000)
    flow.server(0, 5000, tsecr=1000, flags="A", payload=b"")

    def feed(sender: int, entry: str, at_ns: int, tsval: int, tsecr: int) -> Rtt | None:
        return bench.feed(flow.frame(sender, "PA", tsval, tsecr, b"x"), START_NS + at_ns, entry)

    client, server = (ip_network(f"{address}/24", strict=False) for address in flow.addresses)
    assert feed(0, EGRESS, 1 * MS, 1001, 5000) is None
    assert feed(1, INGRESS, 31 * MS, 5031, 1001) == (30 * MS, server, EXTERNAL, bench.row)
    assert feed(0, EGRESS, 34 * MS, 1034, 5031) == (3 * MS, client, INTERNAL, bench.row)


def test_a_pure_ack_is_never_an_origin(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001, flags="A", payload=b"")
    assert flow.server(900 * MS, 5, tsecr=1001) is None
    # Nor is data that follows with the TSval of the ACK: the echo may be the ACK's.
    flow.client(901 * MS, 1901, flags="A", payload=b"")
    flow.client(902 * MS, 1901)
    assert flow.server(950 * MS, 6, tsecr=1901) is None
    flow.client(1000 * MS, 2000)
    assert flow.server(1030 * MS, 7, tsecr=2000) == 30 * MS


def test_a_pure_ack_is_a_reply(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001)
    assert flow.server(11 * MS, 5, tsecr=1001, flags="A", payload=b"") == 10 * MS


def test_fin_without_data_is_an_origin(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001, flags="FA", payload=b"")
    assert flow.server(11 * MS, 5, tsecr=1001, flags="A", payload=b"") == 10 * MS


def test_the_first_tsval_of_a_flow_joined_midway_waits_for_an_edge(every: Bench) -> None:
    flow = every.flow()
    flow.client(0, 1000)
    flow.client(1 * MS, 1000)
    assert flow.server(5 * MS, 5, tsecr=1000) is None
    flow.client(6 * MS, 1006)
    assert flow.server(16 * MS, 6, tsecr=1006) == 10 * MS


def test_a_retransmission_with_the_same_tsval_keeps_the_time_of_the_first(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    flow.client(13 * MS, 1010)
    assert flow.server(30 * MS, 5, tsecr=1010) == 20 * MS


def test_a_retransmission_with_a_new_tsval_is_a_new_sample(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    flow.client(210 * MS, 1210)
    with every.counting() as counted:
        assert flow.server(240 * MS, 5, tsecr=1210) == 30 * MS
    assert counted["rtt_superseded"] == 1


def test_an_older_tsval_that_arrives_late_is_no_origin(every: Bench) -> None:
    flow = every.flow().begun(1000)
    with every.counting() as counted:
        flow.client(10 * MS, 1010)
        flow.client(11 * MS, 1005)
        assert flow.server(20 * MS, 5, tsecr=1005) is None
        assert flow.server(30 * MS, 6, tsecr=1010) == 20 * MS
    assert counted["rtt_begun"] == 1 + 1  # the client's, and the server's second TSval


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


def test_an_echo_of_an_earlier_tsval_leaves_later_ones_waiting(every: Bench) -> None:
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


def test_an_echo_of_what_was_never_sent_matches_nothing_and_forgets_nothing(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    with every.counting() as counted:
        assert flow.server(20 * MS, 5, tsecr=1011) is None
        assert flow.server(21 * MS, 6, tsecr=(1010 + (1 << 31) - 1) % WRAP) is None
    assert counted["rtt_superseded"] == 0
    assert flow.server(30 * MS, 7, tsecr=1010) == 20 * MS


@pytest.mark.parametrize("before", [WRAP - 1, WRAP - 5, (1 << 31) - 1, 1 << 31])
def test_tsval_wraps_around(every: Bench, before: int) -> None:
    flow = every.flow().begun(before)
    with every.counting() as counted:
        flow.client(10 * MS, (before + 10) % WRAP)
        flow.client(11 * MS, (before + 5) % WRAP)  # older, though the number may be greater
    assert counted["rtt_begun"] == 1
    assert flow.server(20 * MS, 5, tsecr=(before + 10) % WRAP) == 10 * MS


def test_tsval_zero_is_a_tsval_like_any_other(every: Bench) -> None:
    flow = every.flow().begun(WRAP - 1)
    flow.client(10 * MS, 0)
    assert flow.server(20 * MS, 0, tsecr=0) == 10 * MS
    assert flow.server(21 * MS, 0, tsecr=0) is None
    joined = every.flow().begun(0)
    joined.client(10 * MS, 1)
    assert joined.server(20 * MS, 0, tsecr=1) == 10 * MS


def test_what_waited_longer_than_the_maximum_age_never_matches(bench: Bench) -> None:
    flow = bench.flow().begun(1000)
    flow.client(0, 1001)
    assert flow.server(MAX_AGE, 5, tsecr=1001) == MAX_AGE
    late = bench.flow().begun(1000)
    late.client(0, 1001)
    with bench.counting() as counted:
        assert late.server(MAX_AGE + 1, 5, tsecr=1001) is None
    assert counted["rtt_expired"] == 1
    assert counted["rtt_clamped 1"] == 0


def test_what_waited_longer_than_the_maximum_age_makes_room(every: Bench) -> None:
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


def test_four_wait_and_the_fifth_does_not_take_their_place(every: Bench) -> None:
    flow = every.flow().begun(1000)
    with every.counting() as counted:
        for sample in range(1, 6):
            flow.client(sample * MS, 1000 + sample)
    assert (counted["rtt_begun"], counted["rtt_not_begun"]) == (4, 1)
    rtts = [flow.server(100 * MS + sample, sample, tsecr=1000 + sample) for sample in range(1, 6)]
    assert rtts == [100 * MS + sample - sample * MS for sample in range(1, 5)] + [None]
    # A place that is free again is used again.
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

    # The other direction, and another flow, have intervals of their own.
    flow = bench.flow().begun(1000)
    other = bench.flow().begun(1000)
    flow.server(0, 5000, tsecr=1000, flags="A", payload=b"")
    flow.client(1 * MS, 1001)
    other.client(1 * MS, 1001)
    assert flow.server(2 * MS, 5002, tsecr=1001) == 1 * MS
    assert flow.client(3 * MS, 1003, tsecr=5002) == 1 * MS
    assert other.server(3 * MS, 5003, tsecr=1001) == 2 * MS


def test_an_interval_of_zero_takes_every_edge(every: Bench) -> None:
    flow = every.flow().begun(1000)
    rtts = []
    for sample in range(1, 11):
        flow.client(sample * 10, 1000 + sample)
        rtts.append(flow.server(sample * 10 + 1000 * sample, sample, tsecr=1000 + sample))
    assert rtts == [1000 * sample for sample in range(1, 11)]


def test_a_syn_is_no_origin_and_begins_no_flow(every: Bench) -> None:
    flow = every.flow()
    with every.counting() as counted:
        flow.client(0, 1000, flags="S", payload=b"")
        flow.client(1 * MS, 1001, flags="S", payload=b"")
    assert counted["flows_created"] == 0
    with every.counting() as counted:
        assert flow.server(20 * MS, 5000, tsecr=1001, flags="SA", payload=b"") is None
    assert counted["flows_created"] == 1
    with every.counting() as counted:
        assert flow.client(30 * MS, 1030, tsecr=5000, flags="A", payload=b"") is None  # nor is the SYN-ACK an origin
        flow.client(31 * MS, 1031, tsecr=5000)
        assert flow.server(41 * MS, 5041, tsecr=1031) == 10 * MS
    assert counted["flows_created"] == 0


def test_the_first_data_after_a_handshake_is_an_origin(every: Bench) -> None:
    flow = every.flow()
    flow.client(0, 1000, flags="S", payload=b"")
    flow.server(20 * MS, 5000, tsecr=1000, flags="SA", payload=b"")
    flow.client(20 * MS, 1020, tsecr=5000, flags="A", payload=b"")
    flow.client(21 * MS, 1021, tsecr=5000)
    assert flow.server(41 * MS, 5021, tsecr=1021) == 20 * MS
    assert flow.client(42 * MS, 1042, tsecr=5021) == 1 * MS


def test_syn_with_data_is_no_origin(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001, flags="S", payload=b"fast open")
    assert flow.server(11 * MS, 5, tsecr=1001, flags="SA", payload=b"") is None
    flow.client(12 * MS, 1012)
    assert flow.server(22 * MS, 6, tsecr=1012) == 10 * MS


def test_a_syn_begins_the_timestamps_of_a_reused_port_anew(every: Bench) -> None:
    flow = every.flow().begun(50_000)
    flow.client(1 * MS, 50_001)
    # Without a SYN the lower TSvals of the new connection are old ones of the first.
    flow.client(2 * MS, 1000, flags="A", payload=b"")
    flow.client(3 * MS, 1001)
    assert flow.server(10 * MS, 5, tsecr=1001) is None
    flow.client(20 * MS, 1020, flags="S", payload=b"")
    flow.client(22 * MS, 1022)
    assert flow.server(32 * MS, 8, tsecr=1022) == 10 * MS


def test_a_syn_forgets_what_waited(every: Bench) -> None:
    def waiting() -> Flow:
        flow = every.flow().begun(1000)
        for sample in range(1, 5):
            flow.client(sample * MS, 1000 + sample)
        return flow

    assert waiting().server(20 * MS, 5, tsecr=1001) == 19 * MS
    flow = waiting()
    flow.client(10 * MS, 2000, flags="S", payload=b"")
    assert flow.server(20 * MS, 5, tsecr=1001) is None
    with every.counting() as counted:
        flow.client(21 * MS, 2021)
    assert (counted["rtt_begun"], counted["rtt_not_begun"]) == (1, 0)


def test_a_port_reused_without_a_syn_is_believed_after_a_silence(every: Bench) -> None:
    flow = every.flow().begun(50_000)
    flow.client(1 * MS, 50_001)
    flow.client(1 * MS + MAX_AGE, 1000)
    flow.client(2 * MS + MAX_AGE, 1001)
    assert flow.server(10 * MS + MAX_AGE, 5, tsecr=1001) is None
    silent = every.flow().begun(50_000)
    silent.client(1 * MS, 50_001)
    silent.client(1 * MS + MAX_AGE + 1, 1000)  # the first TSval, which waits for an edge
    assert silent.server(2 * MS + MAX_AGE, 5, tsecr=1000) is None
    silent.client(3 * MS + MAX_AGE, 1001)
    assert silent.server(13 * MS + MAX_AGE, 6, tsecr=1001) == 10 * MS


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_a_rst_is_neither_origin_nor_match_nor_flow(every: Bench, flags: str) -> None:
    unknown = every.flow()
    with every.counting() as counted:
        unknown.client(0, 1000, flags=flags, payload=b"")
    assert counted["flows_created"] == 0
    with every.counting() as counted:
        unknown.client(0, 1000)
    assert counted["flows_created"] == 1

    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001)
    assert flow.server(5 * MS, 4, tsecr=1001, flags=flags) is None
    assert flow.server(6 * MS, 5, tsecr=1001) == 5 * MS  # it has matched nothing
    flow.client(7 * MS, 1007, flags=flags)
    assert flow.server(8 * MS, 6, tsecr=1007) is None
    flow.client(9 * MS, 1007)  # the RST was no edge
    assert flow.server(10 * MS, 7, tsecr=1007) == 1 * MS


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


def test_flows_differ_in_each_address_and_port(every: Bench) -> None:
    flow = every.flow().begun(1000)
    flow.client(1 * MS, 1001)
    (client, server), (client_port, server_port) = flow.addresses, flow.ports
    for addresses, ports in [
        ((client + 1, server), flow.ports),
        ((client, server + 1), flow.ports),
        (flow.addresses, (client_port + 1, server_port)),
        (flow.addresses, (client_port, server_port + 1)),
        (flow.addresses, (server_port, client_port)),
    ]:
        stranger = Flow(every, 1, str(addresses[0]), str(addresses[1]))
        stranger.ports = ports
        assert stranger.server(2 * MS, 5, tsecr=1001) is None
    assert flow.server(3 * MS, 5, tsecr=1001) == 2 * MS


def test_it_does_not_matter_which_endpoint_has_the_lower_address(every: Bench) -> None:
    for client, server in [("10.200.1.1", "10.200.2.1"), ("10.200.4.1", "10.200.3.1"), ("10.200.5.1", "10.200.5.1")]:
        for ports in [(40_000, 443), (443, 40_000)]:
            flow = every.flow(client=client, server=server)
            flow.ports = ports
            flow.begun(1000).client(1 * MS, 1001)
            assert flow.server(4 * MS, 5000, tsecr=1001, flags="A", payload=b"") == 3 * MS
            flow.server(5 * MS, 5001)
            assert flow.client(7 * MS, 1002, tsecr=5001, flags="A", payload=b"") == 2 * MS


def test_the_same_flow_on_two_interfaces_is_two_flows(every: Bench) -> None:
    with Namespace("two interfaces") as namespace:
        namespace.ip("link add left index 4321 type veth peer name right", "link set left up")
        row = every.register(Interface("left", 4321, 14))
        here = every.flow().begun(1000)
        with namespace.entered():
            there = Flow(every, 4321, *map(str, here.addresses))
            with every.counting(row) as counted:
                there.begun(1000)
            assert counted["flows_created"] == 1
            here.client(1 * MS, 1001)
            there.client(2 * MS, 1001)
            frame = here.frame(1, "PA", 5, 1001, b"data")
            at_left = every.feed(frame, START_NS + 12 * MS, INGRESS, 4321)
            at_lo = every.feed(frame, START_NS + 14 * MS, INGRESS)
        assert at_left
        assert at_lo
        assert (at_left.ns, at_left.interface) == (10 * MS, row)
        assert (at_lo.ns, at_lo.interface) == (13 * MS, every.row)
        assert at_left.subnet == at_lo.subnet
    assert row not in (every.row, UNKNOWN_ROW)


def test_an_interface_without_a_row_is_counted_by_the_nameless_one(every: Bench) -> None:
    with Namespace("unregistered") as namespace:
        namespace.ip("link add left index 987 type veth peer name right", "link set left up")
        with namespace.entered(), every.counting() as known, every.counting(UNKNOWN_ROW) as unknown:
            flow = every.flow(ifindex=987).begun(1000)
            flow.client(1 * MS, 1001)
            assert flow.server(3 * MS, 5, tsecr=1001) == 2 * MS
    assert known.changes == {}
    assert unknown["flows_created"] == 1
    assert unknown["rtt_begun"] == 1


def test_a_packet_that_comes_in_and_leaves_by_the_same_interface_is_two_flows(every: Bench) -> None:
    """A router on a stick sees each packet twice: coming in and going out. Each way is matched by itself."""
    flow = every.flow()
    data = flow.frame(0, "PA", 1001, 0, b"data")
    first = flow.frame(0, "A", 1000, 0, b"")
    reply = flow.frame(1, "PA", 5, 1001, b"data")
    with every.counting() as counted:
        for frame, at_ns in ((first, 0), (data, 1 * MS)):
            assert every.feed(frame, START_NS + at_ns, INGRESS) is None
            assert every.feed(frame, START_NS + at_ns + MS // 2, EGRESS) is None
    assert (counted["flows_created"], counted["rtt_begun"]) == (2, 2)
    # The reply comes in 20 ms after the data went out; and goes out 21 ms after the data came in.
    came_in = every.feed(reply, START_NS + 1 * MS + MS // 2 + 20 * MS, INGRESS)
    went_out = every.feed(reply, START_NS + 1 * MS + 21 * MS, EGRESS)
    assert came_in
    assert went_out
    assert (came_in.ns, came_in.side) == (20 * MS, EXTERNAL)
    assert (went_out.ns, went_out.side) == (21 * MS, INTERNAL)
    assert came_in.subnet == went_out.subnet


def test_every_rtt_begun_is_accounted_for(every: Bench) -> None:
    """Begun = counted + expired + superseded, once nothing waits any more."""
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
