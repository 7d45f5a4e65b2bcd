# SPDX-License-Identifier: Apache-2.0
"""Tests the sampling rules of bpf/tcp_timestamp.h: which packets start an RTT sample, and which similar packets start
no sample."""

from collections.abc import Callable

import pytest

from otel_epping.kernel.config import EppingConfig
from tests.support.prog_test_run import MS, Bench

pytestmark = pytest.mark.parallel


WRAP = 1 << 32


def test_a_pure_ack_is_never_an_origin(bench_of: Callable[[EppingConfig], Bench]) -> None:
    """The method tcp_sequence measures data that has the same TSval as an earlier ACK (see bpf/test_oddities.py)."""
    methods = ("tcp_timestamp",)
    flow = bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, methods=methods)).flow().begun(1000)
    flow.client(1 * MS, 1001, flags="A", payload=b"")
    assert flow.server(900 * MS, 5, tsecr=1001) is None
    # Data after the ACK has the TSval of the ACK. The data starts no sample, because the echo may be a reply to the
    # ACK.
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


def test_the_first_tsval_of_a_flow_joined_midway_is_not_timed(every: Bench) -> None:
    flow = every.flow()
    flow.client(0, 1000)
    flow.client(1 * MS, 1000)
    assert flow.server(5 * MS, 5, tsecr=1000) is None
    flow.client(6 * MS, 1006)
    assert flow.server(16 * MS, 6, tsecr=1006) == 10 * MS


def test_a_retransmission_with_the_same_tsval_is_never_timed(every: Bench) -> None:
    """Karn's rule applies: the echo may be a reply to the first transmission or to the retransmission."""
    flow = every.flow().begun(1000)
    flow.client(10 * MS, 1010)
    with every.counting() as counted:
        flow.client(13 * MS, 1010)
        assert flow.server(30 * MS, 5, tsecr=1010) is None
    assert counted["rtt_repeated"] == 1


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
    assert counted["rtt_begun"] == 1 + 1  # a sample of the client, and a sample for the second TSval of the server


@pytest.mark.parametrize("before", [WRAP - 1, WRAP - 5, (1 << 31) - 1, 1 << 31])
def test_tsval_wraps_around(every: Bench, before: int) -> None:
    flow = every.flow().begun(before)
    with every.counting() as counted:
        flow.client(10 * MS, (before + 10) % WRAP)
        flow.client(11 * MS, (before + 5) % WRAP)  # an older TSval, which may be a greater number
    assert counted["rtt_begun"] == 1
    assert flow.server(20 * MS, 5, tsecr=(before + 10) % WRAP) == 10 * MS


def test_tsval_zero_has_no_special_meaning(every: Bench) -> None:
    flow = every.flow().begun(WRAP - 1)
    flow.client(10 * MS, 0)
    assert flow.server(20 * MS, 0, tsecr=0) == 10 * MS
    assert flow.server(21 * MS, 0, tsecr=0) is None
    joined = every.flow().begun(0)
    joined.client(10 * MS, 1)
    assert joined.server(20 * MS, 0, tsecr=1) == 10 * MS


def test_a_syn_starts_no_sample_and_no_flow(every: Bench) -> None:
    flow = every.flow()
    with every.counting() as counted:
        flow.client(0, 1000, flags="S", payload=b"")
        flow.client(1 * MS, 1001, flags="S", payload=b"")
    assert counted["flows_created"] == 0
    with every.counting() as counted:
        assert flow.server(20 * MS, 5000, tsecr=1001, flags="SA", payload=b"") is None
    assert counted["flows_created"] == 1
    with every.counting() as counted:
        assert (
            flow.client(30 * MS, 1030, tsecr=5000, flags="A", payload=b"") is None
        )  # the SYN-ACK has not started a sample
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


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_a_rst_starts_and_completes_no_sample_and_starts_no_flow(every: Bench, flags: str) -> None:
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
    assert flow.server(6 * MS, 5, tsecr=1001) == 5 * MS  # the RST has not completed the sample
    flow.client(7 * MS, 1007, flags=flags)
    assert flow.server(8 * MS, 6, tsecr=1007) is None
    flow.client(9 * MS, 1007)  # the TSval of the RST was not stored
    assert flow.server(10 * MS, 7, tsecr=1007) == 1 * MS
