# SPDX-License-Identifier: Apache-2.0
"""Tests which TCP segments without timestamps give an RTT, and which segments give no RTT. Also tests the metrics of
flows."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from otel_epping.kernel.config import EppingConfig
from tests.support.packets import ETHER
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, SECOND, START_NS, Bench

pytestmark = pytest.mark.parallel


CLIENT_ISN, SERVER_ISN = 0xFFFFFFF0, 5_000  # the client's sequence numbers wrap around soon
FLOW_IDLE_NS = 300 * SECOND


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, methods=("tcp_sequence",)))


@dataclass
class Connection:
    """Segments between the internal client 10.x.y.1 and the server 11.x.y.2. Sequence numbers are relative to the first
    data byte.

    `client()` and `server()` return the RTT in ns that the sent segment completes, or None.
    """

    bench: Bench
    client_address: str
    server_address: str
    timestamps: bool = False

    def frame(self, sender: int, flags: str, seq: int, ack: int, length: int, window: int) -> Packet:
        ends, ports = (self.client_address, self.server_address), (40_000, 443)
        isns = CLIENT_ISN + 1, SERVER_ISN + 1
        segment = TCP(
            sport=ports[sender],
            dport=ports[1 - sender],
            flags=flags,
            seq=(isns[sender] + seq) % 2**32,
            ack=(isns[1 - sender] + ack) % 2**32 if "A" in flags else 0,
            window=window,
            options=[("NOP", None), ("NOP", None), ("Timestamp", (1, 1))] if self.timestamps else [],
        )
        return ETHER / IP(src=ends[sender], dst=ends[1 - sender]) / segment / bytes(length)

    def send(self, sender: int, at_ns: int, flags: str, seq: int, ack: int, length: int, window: int) -> int | None:
        frame = self.frame(sender, flags, seq, ack, length, window)
        rtt = self.bench.feed(frame, START_NS + at_ns, (EGRESS, INGRESS)[sender])
        return rtt and rtt.ns

    def client(
        self, at_ns: int, seq: int = 0, ack: int = 0, length: int = 0, flags: str = "A", window: int = 500
    ) -> int | None:
        return self.send(0, at_ns, flags, seq, ack, length, window)

    def server(
        self, at_ns: int, seq: int = 0, ack: int = 0, length: int = 0, flags: str = "A", window: int = 500
    ) -> int | None:
        return self.send(1, at_ns, flags, seq, ack, length, window)

    def opened(self) -> "Connection":
        """Feed a handshake that starts at 0 ms and ends at 2 ms, and return the connection."""
        assert self.client(0, -1, flags="S") is None
        assert self.server(1 * MS, -1, 0, flags="SA") is None
        assert self.client(2 * MS) is None
        return self

    def row(self, end: int) -> int:
        """Return the row of a reading for the subnet of the client (0) or the server (1)."""
        subnet = ipaddress.IPv4Network(((self.client_address, self.server_address)[end], 24), strict=False)
        row = self.bench.slot_of(subnet, (INTERNAL, EXTERNAL)[end])
        assert row, "the subnet has no slot"
        return row

    def counters(self, end: int) -> Any:
        """Return the counters of the subnet of the client (0) or the server (1), as a record of a reading."""
        return self.bench.collector.reader().read().counters[self.row(end)]


_connections = 0


@pytest.fixture
def connection(bench: Bench) -> Connection:
    """A connection between two subnets that no other test uses."""
    global _connections
    _connections += 1
    return Connection(bench, f"10.77.{_connections}.1", f"11.77.{_connections}.2")


def test_a_segment_and_the_acknowledgement_of_its_end(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=100)
    assert connection.server(17 * MS, ack=100) == 7 * MS
    assert connection.server(18 * MS, ack=100) is None, "the segment was matched twice"
    connection.server(20 * MS, ack=100, length=50)
    assert connection.client(23 * MS, 100, ack=50, length=10) == 3 * MS
    assert connection.server(30 * MS, 50, ack=110) == 7 * MS


def test_the_first_segment_after_the_handshake_is_timed(connection: Connection) -> None:
    connection.opened()
    connection.client(3 * MS, 0, length=1)
    assert connection.server(9 * MS, ack=1) == 6 * MS


def test_a_flow_joined_midway_is_timed_from_its_second_segment_on(connection: Connection) -> None:
    connection.client(0, 0, length=10)
    assert connection.server(1 * MS, ack=10) is None
    connection.client(2 * MS, 10, length=10)
    assert connection.server(4 * MS, ack=20) == 2 * MS


def test_an_ack_of_the_other_host_gives_the_next_sequence_number(connection: Connection) -> None:
    connection.client(0, 0, ack=5, length=10)
    connection.server(1 * MS, 5, ack=10, length=10)
    assert connection.client(4 * MS, 10, ack=15) == 3 * MS


def test_a_pure_acknowledgement_shows_a_gap(connection: Connection) -> None:
    """Data that fills the gap may be a retransmission of data that the program did not see. So the ACK of data that
    fills the gap gives no RTT."""
    connection.opened()
    connection.client(10 * MS, 10)
    connection.client(200 * MS, 0, length=10)
    assert connection.server(201 * MS, ack=10) is None
    assert connection.counters(0)["retransmitted"].tolist() == [1, 0]


def test_data_that_was_acknowledged_before_it_was_seen_is_not_timed(connection: Connection) -> None:
    connection.opened()
    connection.server(10 * MS, ack=10)
    connection.client(11 * MS, 0, length=10)
    assert connection.server(12 * MS, ack=10) is None
    assert connection.counters(0)["retransmitted"].tolist() == [1, 0]


def test_only_one_segment_is_timed_at_a_time(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    connection.client(11 * MS, 10, length=10)
    assert connection.server(15 * MS, ack=10) == 5 * MS
    assert connection.server(16 * MS, ack=20) is None


def test_an_ack_of_more_data_gives_no_rtt_and_later_segments_are_timed(connection: Connection) -> None:
    """Each ACK acknowledges a pair of segments. Only the second segment of a pair can give an RTT, so the program must
    sometimes start a sample at the second segment of a pair."""
    connection.opened()
    rtts = []
    for pair in range(4):
        at_ns, seq = (10 + 10 * pair) * MS, 20 * pair
        connection.client(at_ns, seq, length=10)
        connection.client(at_ns + MS, seq + 10, length=10)
        rtts.append(connection.server(at_ns + 6 * MS, ack=seq + 20))
    assert rtts == [None, 5 * MS, None, 5 * MS] or rtts == [None, 5 * MS, 5 * MS, 5 * MS], rtts


@pytest.mark.parametrize("again", [(0, 10), (0, 30), (5, 10)], ids=["same", "longer", "part"])
def test_retransmitted_data_is_not_timed(connection: Connection, again: tuple[int, int]) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    with connection.bench.counting() as counted:
        connection.client(500 * MS, again[0], length=again[1])
    assert counted["rtt_repeated"] == 1
    assert connection.server(505 * MS, ack=10) is None
    assert connection.server(506 * MS, ack=30) is None


def test_duplicate_and_selective_acknowledgements_give_no_rtt(connection: Connection) -> None:
    """The first of three segments is lost after it passed the interface. The receiver acknowledges the second and the
    third segment only after the retransmission of the first segment."""
    connection.opened()
    for number in range(3):
        connection.client((10 + number) * MS, 10 * number, length=10)
    for number in range(3):
        assert connection.server((20 + number) * MS, ack=0) is None
    connection.client(30 * MS, 0, length=10)
    assert connection.server(40 * MS, ack=30) is None


def test_nothing_is_timed_after_a_gap(connection: Connection) -> None:
    """A segment is lost before it reaches the interface. The receiver acknowledges later segments only after the gap is
    filled, so these acknowledgements must give no RTT."""
    connection.opened()
    connection.client(10 * MS, 10, length=10)
    connection.client(200 * MS, 0, length=10)
    assert connection.server(205 * MS, ack=20) is None
    connection.client(210 * MS, 20, length=10)
    assert connection.server(214 * MS, ack=30) == 4 * MS


def test_sequence_numbers_wrap_around(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=8)
    connection.server(11 * MS, ack=8)
    connection.client(20 * MS, 8, length=100)  # beyond 2^32
    assert connection.server(29 * MS, ack=108) == 9 * MS


def test_a_zero_window_probe_and_a_keep_alive_are_not_timed(connection: Connection) -> None:
    connection.opened()
    connection.server(5 * MS, window=0)
    connection.client(10 * MS, 0, length=1)
    assert connection.server(300 * MS, ack=1) is None
    connection.client(310 * MS, 1, length=10)
    connection.server(311 * MS, ack=11)
    connection.client(400 * MS, 10, length=1)
    assert connection.server(401 * MS, ack=11) is None
    assert connection.counters(0)["retransmitted"].tolist() == [0, 0]


def test_a_fin_is_timed_and_a_rst_is_not(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, flags="FA")
    assert connection.server(13 * MS, ack=1) == 3 * MS
    connection.server(14 * MS, 0, ack=1, length=10)
    assert connection.client(15 * MS, 1, ack=10, flags="RA") is None


def test_a_segment_whose_tsval_is_not_new_is_measured(bench_of: Callable[[EppingConfig], Bench]) -> None:
    """The SYN and the first data segment have the same TSval. In bpf/test_oddities.py, there are other conversations in
    which a TSval is repeated."""
    both = ("tcp_timestamp", "tcp_sequence")
    bench = bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, methods=both))
    connection = Connection(bench, "10.99.1.1", "11.99.1.2", timestamps=True)
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    assert connection.server(12 * MS, ack=10) == 2 * MS


def test_a_reused_port_without_timestamps_is_measured(connection: Connection) -> None:
    connection.timestamps = True
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    connection.timestamps = False
    connection.client(SECOND, 999, flags="S")
    connection.server(SECOND + MS, 999, 1000, flags="SA")
    connection.client(SECOND + 2 * MS, 1000, 1000, length=10)
    assert connection.server(SECOND + 9 * MS, 1000, 1010) == 7 * MS


def test_an_unacknowledged_segment_expires_and_makes_room(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    with connection.bench.counting() as counted:
        connection.client(11 * SECOND, 10, length=10)
    assert counted["rtt_expired"] == 1
    assert connection.server(11 * SECOND + MS, ack=20) == MS


# ---- metrics of flows


@pytest.mark.parametrize("timestamps", [False, True])
def test_retransmitted_segments(connection: Connection, timestamps: bool) -> None:
    connection.timestamps = timestamps
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    connection.client(300 * MS, 0, length=10)
    connection.server(305 * MS, ack=10, length=20)
    connection.server(900 * MS, ack=10, length=20)
    client, server = connection.counters(0), connection.counters(1)
    assert client["retransmitted"].tolist() == server["retransmitted"].tolist() == [1, 1]
    assert client["out_of_order"].tolist() == [0, 0]


def test_out_of_order_segments(connection: Connection) -> None:
    """A segment that fills a gap within one round-trip time is out of order. A segment that fills a
    gap after a longer time is a retransmission."""
    connection.opened()
    connection.client(10 * MS, 10, length=10)
    connection.client(11 * MS, 0, length=10)
    connection.client(20 * MS, 30, length=10)
    connection.client(23 * MS, 20, length=10)
    client = connection.counters(0)
    assert (client["out_of_order"].tolist(), client["retransmitted"].tolist()) == ([1, 0], [1, 0])


def test_a_repeated_fin_counts_as_retransmitted(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, flags="FA")
    connection.client(300 * MS, 0, flags="FA")
    assert connection.counters(0)["retransmitted"].tolist() == [1, 0]


def test_a_repeated_syn_after_data_does_not_restart_the_flow(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=100)
    connection.client(300 * MS, -1, flags="S")
    connection.server(301 * MS, -1, 0, flags="SA")
    connection.client(400 * MS, 0, length=100)
    assert connection.server(410 * MS, ack=100) is None
    assert connection.counters(0)["retransmitted"].tolist() == [2, 1], "the SYN-ACK is a retransmission, too"


def test_a_fast_retransmission_after_duplicate_acknowledgements(connection: Connection) -> None:
    """A fast retransmission may come less than one round-trip time after the segment with the highest number."""
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    for number in range(1, 4):
        connection.client(10 * MS + number, 10 * number, length=10)
    connection.server(10 * MS + 10, ack=0)
    for number in range(2):
        connection.server(10 * MS + 11 + number, ack=0)
    connection.client(10 * MS + 20, 0, length=10)
    client = connection.counters(0)
    assert (client["retransmitted"].tolist(), client["out_of_order"].tolist()) == ([1, 0], [0, 0])


@pytest.mark.parametrize("methods", [("tcp_sequence",), ("tcp_sequence", "tcp_handshake")])
def test_the_handshake_sets_the_time_limit_of_out_of_order_segments(
    bench_of: Callable[[EppingConfig], Bench], connection: Connection, methods: tuple[str, ...]
) -> None:
    """The time limit is the RTT of the handshake. If the program did not measure the RTT of the handshake, the time
    limit is 3 ms."""
    connection.bench = bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, methods=methods))
    bench = connection.bench
    for entry, sender, at_ns, flags, seq, ack in ((EGRESS, 0, 0, "S", -1, 0), (INGRESS, 1, 40 * MS, "SA", -1, 0)):
        bench.feeders[entry].set(bytes(connection.frame(sender, flags, seq, ack, 0, 500)))
        bench.feeders[entry].run(START_NS + at_ns)
    bench.feeders[EGRESS].set(bytes(connection.frame(0, "A", 0, 0, 0, 500)))
    bench.feeders[EGRESS].run(START_NS + 50 * MS)
    connection.client(60 * MS, 10, length=10)
    connection.client(90 * MS, 0, length=10)
    client = connection.counters(0)
    expected = ([0, 0], [1, 0]) if len(methods) > 1 else ([1, 0], [0, 0])
    assert (client["retransmitted"].tolist(), client["out_of_order"].tolist()) == expected


def test_acknowledged_data_counts_as_retransmitted_at_any_time(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, length=10)
    connection.client(10 * MS, 10, length=10)
    connection.server(11 * MS, ack=20)
    connection.client(11 * MS, 0, length=10)
    assert connection.counters(0)["retransmitted"].tolist() == [1, 0]


def test_zero_windows_are_counted_except_in_a_rst(connection: Connection) -> None:
    connection.opened()
    connection.server(10 * MS, window=0)
    connection.server(11 * MS, window=0)
    connection.server(12 * MS, window=0, flags="RA")
    client, server = connection.counters(0), connection.counters(1)
    assert (client["zero_window"].tolist(), server["zero_window"].tolist()) == ([0, 2], [2, 0])
    assert client["retransmitted"].tolist() == [0, 0]


def flows(connection: Connection) -> tuple[list[int], list[int], int, int]:
    """Return four numbers or lists of numbers: flows opened [by a SYN, without a SYN], flows closed [by FIN, by RST],
    flows closed by silence, and active flows. Check that both subnets have the same numbers."""
    reading = connection.bench.collector.reader().read()
    ends = []
    for row in (connection.row(0), connection.row(1)):
        record = reading.counters[row]
        silence, active = int(record["silence"]), int(reading.active[row])
        ends.append((record["opened"].tolist(), record["closed"].tolist(), silence, active))
    assert ends[0] == ends[1]
    return ends[0]


def test_used_entries_of_the_flow_table_are_counted(bench: Bench, connection: Connection) -> None:
    before = bench.collector.reader().read().flows
    connection.opened()
    connection.client(10 * MS, 0, flags="RA")  # the closed flow keeps its entry until another flow needs the entry
    assert bench.collector.reader().read().flows == before + 1


def test_a_flow_opens_by_syn_and_closes_by_the_fin_of_both_hosts(connection: Connection) -> None:
    connection.opened()
    assert flows(connection) == ([1, 0], [0, 0], 0, 1)
    connection.client(10 * MS, 0, flags="FA")
    assert flows(connection) == ([1, 0], [0, 0], 0, 1)
    connection.client(11 * MS, 0, flags="FA")
    connection.server(12 * MS, 0, 1, flags="FA")
    connection.client(13 * MS, 1, 1)
    assert flows(connection) == ([1, 0], [1, 0], 0, 0)


def test_a_syn_alone_opens_nothing_and_a_repeated_syn_ack_opens_once(connection: Connection) -> None:
    connection.client(0, -1, flags="S")
    connection.server(1 * MS, -1, 0, flags="SA")
    connection.server(2 * SECOND, -1, 0, flags="SA")
    assert flows(connection) == ([1, 0], [0, 0], 0, 1)


def test_a_repeated_rst_closes_a_flow_once(connection: Connection) -> None:
    connection.client(0, 0, length=10)
    connection.server(1 * MS, 0, 10, flags="RA")
    connection.server(2 * MS, 0, 10, flags="RA")
    assert flows(connection) == ([0, 1], [0, 1], 0, 0)


def test_a_reused_port_opens_a_new_flow(connection: Connection) -> None:
    connection.opened()
    connection.client(10 * MS, 0, flags="RA")
    connection.client(20 * MS, 999, flags="S")
    connection.server(21 * MS, 999, 1000, flags="SA")
    assert flows(connection) == ([2, 0], [0, 1], 0, 1)


def test_silence_closes_a_flow_and_a_later_packet_opens_it_midway(connection: Connection) -> None:
    connection.opened()
    connection.client(FLOW_IDLE_NS + 10 * MS, 0, length=10)
    assert flows(connection) == ([1, 1], [0, 0], 1, 1)


def test_a_silent_flow_is_found_without_another_packet(bench: Bench, connection: Connection) -> None:
    """With the packet clock, the reader takes the time of the latest packet of any flow as the current time."""
    connection.opened()
    Connection(bench, "10.78.0.1", "11.78.0.2").client(2 * FLOW_IDLE_NS, 0, length=10)
    assert flows(connection) == ([1, 0], [0, 0], 1, 0)
