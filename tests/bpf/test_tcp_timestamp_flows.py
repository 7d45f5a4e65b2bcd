# SPDX-License-Identifier: Apache-2.0
"""Tests the sampling rules of bpf/tcp_timestamp.h: which packets belong to one flow, and which packets restart a
flow."""

import pytest

from otel_epping.kernel.attach.interfaces import Interface
from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, START_NS, UNKNOWN_ROW, Bench, Flow

pytestmark = pytest.mark.parallel


MAX_AGE = EppingConfig().max_age_ns


def test_a_syn_resets_the_timestamps_of_a_reused_port(every: Bench) -> None:
    flow = every.flow().begun(50_000)
    flow.client(1 * MS, 50_001)
    # There is no SYN. So the program regards packets of the new connection as late packets of the first connection,
    # because the TSvals of the new connection are lower.
    flow.client(2 * MS, 1000, flags="A", payload=b"")
    flow.client(3 * MS, 1001)
    assert flow.server(10 * MS, 5, tsecr=1001) is None
    flow.client(20 * MS, 1020, flags="S", payload=b"")
    # The SYN has a lower TSval than the last segment, so the SYN may be a late packet of the first connection.
    # Therefore the program only stores the TSval of the first segment after the SYN. The program times the second
    # segment after the SYN.
    flow.client(21 * MS, 1021)
    flow.client(22 * MS, 1022)
    assert flow.server(32 * MS, 8, tsecr=1022) == 10 * MS


def test_a_late_syn_does_not_cause_a_second_sample_of_a_tsval(every: Bench) -> None:
    flow = every.flow().begun(999)
    flow.client(1 * MS, 1001)
    flow.client(2 * MS, 1000, flags="S", payload=b"")
    flow.client(3 * MS, 1001)
    assert flow.server(4 * MS, 5, tsecr=1001) is None


def test_a_syn_discards_pending_rtt_samples(every: Bench) -> None:
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


def test_a_port_reused_without_a_syn_is_accepted_after_a_silence(every: Bench) -> None:
    flow = every.flow().begun(50_000)
    flow.client(1 * MS, 50_001)
    flow.client(1 * MS + MAX_AGE, 1000)
    flow.client(2 * MS + MAX_AGE, 1001)
    assert flow.server(10 * MS + MAX_AGE, 5, tsecr=1001) is None
    silent = every.flow().begun(50_000)
    silent.client(1 * MS, 50_001)
    silent.client(1 * MS + MAX_AGE + 1, 1000)  # the first TSval, which is not timed
    assert silent.server(2 * MS + MAX_AGE, 5, tsecr=1000) is None
    silent.client(3 * MS + MAX_AGE, 1001)
    assert silent.server(13 * MS + MAX_AGE, 6, tsecr=1001) == 10 * MS


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


def test_either_endpoint_may_have_the_lower_address(every: Bench) -> None:
    for client, server in [("10.200.1.1", "10.200.2.1"), ("10.200.4.1", "10.200.3.1"), ("10.200.5.1", "10.200.5.1")]:
        for ports in [(40_000, 443), (443, 40_000)]:
            flow = every.flow(client=client, server=server)
            flow.ports = ports
            flow.begun(1000).client(1 * MS, 1001)
            assert flow.server(4 * MS, 5000, tsecr=1001, flags="A", payload=b"") == 3 * MS
            flow.server(5 * MS, 5001)
            assert flow.client(7 * MS, 1002, tsecr=5001, flags="A", payload=b"") == 2 * MS


def test_the_same_flow_on_two_interfaces_counts_as_two_flows(every: Bench) -> None:
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


def test_an_interface_without_a_row_is_counted_in_the_unknown_row(every: Bench) -> None:
    with Namespace("unregistered") as namespace:
        namespace.ip("link add left index 987 type veth peer name right", "link set left up")
        with namespace.entered(), every.counting() as known, every.counting(UNKNOWN_ROW) as unknown:
            flow = every.flow(ifindex=987).begun(1000)
            flow.client(1 * MS, 1001)
            assert flow.server(3 * MS, 5, tsecr=1001) == 2 * MS
    assert known.changes == {}
    assert unknown["flows_created"] == 1
    assert unknown["rtt_begun"] == 1


def test_a_packet_received_and_sent_on_the_same_interface_belongs_to_two_flows(every: Bench) -> None:
    """A router with one interface receives and transmits each packet on that interface. The received and the
    transmitted packets belong to separate flows, and the program matches each flow separately."""
    flow = every.flow()
    data = flow.frame(0, "PA", 1001, 0, b"data")
    first = flow.frame(0, "A", 1000, 0, b"")
    reply = flow.frame(1, "PA", 5, 1001, b"data")
    with every.counting() as counted:
        for frame, at_ns in ((first, 0), (data, 1 * MS)):
            assert every.feed(frame, START_NS + at_ns, INGRESS) is None
            assert every.feed(frame, START_NS + at_ns + MS // 2, EGRESS) is None
    assert (counted["flows_created"], counted["rtt_begun"]) == (2, 2)
    # The reply is received 20 ms after the data was transmitted. The reply is transmitted 21 ms after the data was
    # received.
    came_in = every.feed(reply, START_NS + 1 * MS + MS // 2 + 20 * MS, INGRESS)
    went_out = every.feed(reply, START_NS + 1 * MS + 21 * MS, EGRESS)
    assert came_in
    assert went_out
    assert (came_in.ns, came_in.side) == (20 * MS, EXTERNAL)
    assert (went_out.ns, went_out.side) == (21 * MS, INTERNAL)
    assert came_in.subnet == went_out.subnet
