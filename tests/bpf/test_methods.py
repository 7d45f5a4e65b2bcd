# SPDX-License-Identifier: Apache-2.0
"""Tests methods that match requests with replies: which packets start, complete and invalidate an RTT sample."""

import struct
from collections.abc import Callable

import numpy as np
import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Padding, Raw

from otel_epping.errors import EppingError
from otel_epping.kernel import methods
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM
from tests.support.exchanges import EXCHANGES, Exchange, Hosts, tcp
from tests.support.packets import ETHER, QUIC_VERSIONS, quic
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, SECOND, START_NS, Bench, Rtt

pytestmark = pytest.mark.parallel


MAX_AGE_NS = EppingConfig().max_age_ns
SOURCE_PORT = 14 + 20  # the offset of the source port in a frame


def method_of(bench: Bench, rtt: Rtt) -> set[str]:
    """Returns the methods that have counted an RTT for the subnet of `rtt`."""
    return {
        methods.METHODS[int(bench.histograms["method"][row])].name
        for row in np.flatnonzero(bench.histograms["ended"]).tolist()
        if row != OVERFLOW_HISTOGRAM and bench.describe(int(bench.histograms["slot"][row]))[0] == rtt.subnet
    }


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.method)
class TestExchanges:
    def test_the_first_reply_counts_for_the_subnet_that_replied(
        self, bench: Bench, exchange: Exchange, version: int
    ) -> None:
        hosts = Hosts(bench, version)
        assert hosts.out(0, exchange.ask(version, 1)) is None
        rtt = hosts.back(7 * MS, exchange.answer(version, 1))
        assert rtt is not None
        assert (rtt.ns, rtt.side) == (7 * MS, EXTERNAL)
        assert method_of(bench, rtt) == {exchange.method}
        assert hosts.back(8 * MS, exchange.answer(version, 1)) is None

    def test_a_request_from_outside_is_timed_for_the_internal_subnet(
        self, bench: Bench, exchange: Exchange, version: int
    ) -> None:
        hosts = Hosts(bench, version)
        assert hosts.back(0, exchange.ask(version, 1)) is None
        rtt = hosts.out(3 * MS, exchange.answer(version, 1))
        assert rtt is not None
        assert (rtt.ns, rtt.side) == (3 * MS, INTERNAL)

    def test_a_reply_to_another_request_is_ignored(self, bench: Bench, exchange: Exchange, version: int) -> None:
        hosts, others = Hosts(bench, version), Hosts(bench, version)
        hosts.out(0, exchange.ask(version, 1))
        assert hosts.back(MS, exchange.answer(version, 2)) is None
        assert others.back(MS, exchange.answer(version, 1)) is None
        assert hosts.back(2 * MS, exchange.answer(version, 1)) is not None

    def test_several_requests_are_outstanding_at_the_same_time(
        self, bench: Bench, exchange: Exchange, version: int
    ) -> None:
        hosts = Hosts(bench, version)
        for number in range(1, 6):
            hosts.out(number * MS, exchange.ask(version, number))
        for number in (3, 1, 5, 2, 4):
            rtt = hosts.back(20 * MS, exchange.answer(version, number))
            assert rtt is not None
            assert rtt.ns == (20 - number) * MS

    def test_a_repeated_request_is_never_timed(self, bench: Bench, exchange: Exchange, version: int) -> None:
        hosts = Hosts(bench, version)
        hosts.out(0, exchange.ask(version, 1))
        with bench.counting() as counted:
            hosts.out(300 * MS, exchange.ask(version, 1))
            hosts.out(600 * MS, exchange.ask(version, 1))
            assert hosts.back(700 * MS, exchange.answer(version, 1)) is None
        assert counted["rtt_repeated"] == 1

    def test_a_late_reply_is_counted_as_expired(self, bench: Bench, exchange: Exchange, version: int) -> None:
        hosts = Hosts(bench, version)
        hosts.out(0, exchange.ask(version, 1))
        with bench.counting() as counted:
            assert hosts.back(MAX_AGE_NS + 1, exchange.answer(version, 1)) is None
        assert counted["rtt_expired"] == 1

    def test_the_same_request_after_expiry_is_a_new_request(
        self, bench: Bench, exchange: Exchange, version: int
    ) -> None:
        hosts = Hosts(bench, version)
        hosts.out(0, exchange.ask(version, 1))
        hosts.out(MAX_AGE_NS + 1, exchange.ask(version, 1))
        rtt = hosts.back(MAX_AGE_NS + 1 + MS, exchange.answer(version, 1))
        if (
            exchange.method == "tcp_handshake"
        ):  # a SYN with the same sequence number is a repetition, so it is never timed
            assert rtt is None
        else:
            assert rtt is not None
            assert rtt.ns == MS


class TestHandshake:
    def accepted(self, bench: Bench) -> Hosts:
        hosts = Hosts(bench)
        hosts.out(0, tcp("S", 40_000, 443, 1000, 0))
        assert hosts.back(10 * MS, tcp("SA", 443, 40_000, 5000, 1001)) is not None
        return hosts

    def test_the_ack_of_a_syn_ack_times_the_internal_side(self, bench: Bench) -> None:
        hosts = self.accepted(bench)
        rtt = hosts.out(12 * MS, tcp("A", 40_000, 443, 1001, 5001))
        assert rtt is not None
        assert (rtt.ns, rtt.side) == (2 * MS, INTERNAL)
        assert hosts.out(13 * MS, tcp("A", 40_000, 443, 1001, 5001)) is None

    def test_an_ack_of_a_higher_number_gives_no_rtt(self, bench: Bench) -> None:
        hosts = self.accepted(bench)
        with bench.counting() as counted:
            assert hosts.out(12 * MS, tcp("A", 40_000, 443, 1001, 6001)) is None
        assert counted["rtt_superseded"] == 1

    def test_a_retransmitted_syn_ack_is_never_timed(self, bench: Bench) -> None:
        hosts = self.accepted(bench)
        with bench.counting() as counted:
            hosts.back(40 * MS, tcp("SA", 443, 40_000, 5000, 1001))
            assert hosts.out(41 * MS, tcp("A", 40_000, 443, 1001, 5001)) is None
        assert counted["rtt_repeated"] == 1

    def test_a_reset_completes_no_rtt(self, bench: Bench) -> None:
        hosts = Hosts(bench)
        hosts.out(0, tcp("S", 40_000, 443, 1000, 0))
        assert hosts.back(MS, tcp("RA", 443, 40_000, 0, 1001)) is None

    def test_a_flood_of_syns_evicts_no_flow(self, bench_of: Callable[[EppingConfig], Bench]) -> None:
        bench = bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, max_subnets=16, max_flows=256))
        flow = bench.flow().begun(1000)
        assert flow.client(1 * SECOND, 2000) is None
        feeder = bench.feeders[INGRESS]
        feeder.set(bytes(ETHER / IP(src="198.18.0.1", dst="198.19.0.1") / tcp("S", 0, 80, 0, 0)))
        for port in range(20_000):
            struct.pack_into("!H", feeder.data, SOURCE_PORT, 1024 + port)
            feeder.run(START_NS + SECOND)
        assert flow.server(1 * SECOND + 9 * MS, 1, tsecr=2000) == 9 * MS


class TestQuic:
    @pytest.mark.parametrize("version", QUIC_VERSIONS)
    @pytest.mark.parametrize("reply", [0, 2, 3], ids=["Initial", "Handshake", "Retry"])
    def test_the_first_reply_of_any_type_completes_the_rtt(self, bench: Bench, version: int, reply: int) -> None:
        hosts = Hosts(bench)
        hosts.out(0, UDP(sport=40_000, dport=443) / quic(0, version))
        rtt = hosts.back(5 * MS, UDP(sport=443, dport=40_000) / quic(reply, version))
        assert rtt is not None
        assert rtt.ns == 5 * MS

    def test_a_client_hello_in_two_packets_is_one_request(self, bench: Bench) -> None:
        hosts = Hosts(bench)
        hosts.out(0, UDP(sport=40_000, dport=443) / quic(0))
        hosts.out(MS, UDP(sport=40_000, dport=443) / quic(0))
        rtt = hosts.back(5 * MS, UDP(sport=443, dport=40_000) / quic(0))
        assert rtt is not None
        assert rtt.ns == 5 * MS

    @pytest.mark.parametrize(
        "payload",
        [
            Raw(b"\x40" + bytes(1199)),  # a short header
            Raw(struct.pack("!BI", 0xC0, 0) + bytes(1195)),  # Version Negotiation
            Raw(struct.pack("!BI", 0xC0, 0xFF00001D) + bytes(1195)),  # the version number of a draft
            Raw(struct.pack("!BI", 0x80, 1) + bytes(1195)),  # the fixed bit is 0
            quic(2),  # a Handshake packet starts no RTT sample
            Raw(b"\xc0\x00\x00"),
        ],
        ids=["short header", "negotiation", "draft", "fixed bit", "Handshake", "cut short"],
    )
    def test_payloads_that_start_no_rtt(self, bench: Bench, payload: Packet) -> None:
        hosts = Hosts(bench)
        with bench.counting() as counted:
            hosts.out(0, UDP(sport=40_000, dport=443) / payload)
        assert counted["rtt_begun"] == 0
        assert hosts.back(MS, UDP(sport=443, dport=40_000) / quic(2)) is None


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.method)
def test_only_the_enabled_method_measures(bench_of: Callable[[EppingConfig], Bench], exchange: Exchange) -> None:
    alone = bench_of(EppingConfig(packet_clock=True, methods=(exchange.method,), max_subnets=1024, max_flows=1024))
    for other in EXCHANGES:
        hosts = Hosts(alone)
        hosts.out(0, other.ask(4, 1))
        assert (hosts.back(MS, other.answer(4, 1)) is not None) == (other is exchange)


def test_unknown_and_missing_methods_are_rejected() -> None:
    with pytest.raises(EppingError, match=r"no method 'ping': choose among tcp_timestamp, .*quic_handshake"):
        EppingConfig(methods=("dns", "ping"))
    with pytest.raises(EppingError, match="no method is enabled"):
        EppingConfig(methods=())


def begun(bench: Bench, frame: Packet, kind: str) -> int:
    """Returns how many RTT samples a transmitted packet starts. Checks that the packet is counted once, as `kind`."""
    with bench.counting() as counted:
        assert bench.feed(frame, START_NS, EGRESS) is None
    assert counted[f"transmitted {kind}"] == (1, len(bytes(frame)))
    return int(counted["rtt_begun"])


class TestWhatIsNoQuestion:
    """Packets that earlier versions of the program timed by mistake. The fuzzer (tests/long/fuzz) found the packets."""

    QUERY = bytes(DNS(id=0x1234, qd=DNSQR(qname="example.org")))
    NETWORKS = ETHER / IP(src="10.251.0.1", dst="10.251.1.1"), ETHER / IPv6(src="2001:dbc::1", dst="2001:dbd::1")

    @pytest.mark.parametrize("network", NETWORKS, ids=["IPv4", "IPv6"])
    @pytest.mark.parametrize("size", range(9))
    def test_a_payload_shorter_than_8_bytes_is_not_a_query(self, bench: Bench, size: int, network: Packet) -> None:
        frame = network / UDP(sport=5000 + size, dport=53) / self.QUERY[:size]
        assert begun(bench, frame, "udp") == (size == 8)

    @pytest.mark.parametrize("network", NETWORKS, ids=["IPv4", "IPv6"])
    @pytest.mark.parametrize("size", [0, 4, 7])
    def test_padding_is_no_payload(self, bench: Bench, size: int, network: Packet) -> None:
        """Ethernet pads short frames, and the padding is not always zeros."""
        for port, data in ((53, self.QUERY), (443, bytes(quic(0)))):
            assert begun(bench, network / UDP(sport=5353, dport=port) / data[:size] / Padding(data[size:]), "udp") == 0

    @pytest.mark.parametrize("size", [1, 4, 7])
    def test_padding_is_no_echo_request(self, bench: Bench, size: int) -> None:
        for network, (protocol, kind) in zip(self.NETWORKS, ((1, 8), (58, 128)), strict=True):
            echo = struct.pack("!BBHHH", kind, 0, 0, 7, 1)
            cut = Raw(echo[:size]) / Padding(echo[size:] + bytes(18))
            assert begun(bench, with_protocol(network, protocol) / cut, "icmp") == 0

    @pytest.mark.parametrize("kind", [8, 128], ids=["request of ICMP", "request of ICMPv6"])
    def test_each_ip_version_accepts_only_its_own_icmp(self, bench: Bench, kind: int) -> None:
        echo = Raw(struct.pack("!BBHHH", kind, 0, 0, 7, kind) + bytes(18))
        for network, right in zip(self.NETWORKS, ((1, 8), (58, 128)), strict=True):
            for protocol in (1, 58):
                frame = with_protocol(network, protocol) / echo
                assert begun(bench, frame, "icmp") == ((protocol, kind) == right)


def with_protocol(network: Packet, protocol: int) -> Packet:
    """Returns an Ethernet header and an IP header. The IP header has the protocol number `protocol`."""
    network = network.copy()
    network.lastlayer().setfieldval("proto" if network.lastlayer().version == 4 else "nh", protocol)
    return network
