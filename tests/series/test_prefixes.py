# SPDX-License-Identifier: Apache-2.0
"""Checks where the counts of a subnet are exported: in its own series, in a covering prefix, or as overflow."""

from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network

import numpy as np
import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import FAMILY_NAMED
from otel_epping.otel import metric_table
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from otel_epping.series.prefixes import KEY, SubnetKeys
from tests.support.many_subnets import CLIENT, PACKETS, RTTS, Crowd, Receiver, emptied, network_of
from tests.support.prog_test_run import MS, Bench

pytestmark = pytest.mark.parallel


CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
CONFIG = EppingConfig(packet_clock=True, max_subnets=256, max_flows=256, sample_interval_ns=0)
RTT = metric_table.RTT.name


@pytest.fixture(scope="module")
def wide() -> Iterator[Bench]:
    with closing(Bench(CONFIG)) as bench:
        yield bench


@pytest.fixture
def bench(wide: Bench) -> Bench:
    return emptied(wide)


def receiver_of(bench: Bench, limits: Limits, temporality: AggregationTemporality = CUMULATIVE) -> Receiver:
    return Receiver(EppingMetricProducer(bench.collector, temporality, ExportSettings(limits=limits)))


def exported(receiver: Receiver) -> set[str]:
    """Return the subnets in the latest export, without the client's subnet."""
    return {subnet for subnet, _ in receiver.subnets} - {str(ip_network(f"{CLIENT}/24", strict=False))}


def names(*subnets: int) -> set[str]:
    return {str(network_of(subnet)) for subnet in subnets}


def test_the_busiest_subnets_are_exported_individually(bench: Bench) -> None:
    crowd, receiver = Crowd(bench), receiver_of(bench, Limits(max_series=3, roll_up=False))
    for subnet in range(8):
        for _ in range(1 + subnet):
            crowd.ping(subnet, 5 * MS)
    receiver.export()
    assert exported(receiver) == names(5, 6, 7)  # The client's subnet never answers, so it needs no series.
    receiver.check(crowd.truth)
    assert receiver.total(RTT, subnet=str(network_of(7)))[RTTS] == 8
    together = 2 * sum(1 + subnet for subnet in range(5))
    apart = sum(receiver.total(PACKETS, subnet=str(network_of(subnet)))["value"] for subnet in range(8))
    assert apart == sum(crowd.packets_of.values()) - together
    # A new subnet replaces an exported subnet only if the new subnet is at least twice as busy. The new series has only
    # the new counts.
    for _ in range(3):
        crowd.ping(4, 5 * MS)
    receiver.export()
    assert exported(receiver) == names(5, 6, 7)
    for _ in range(40):
        crowd.ping(4, 5 * MS)
    receiver.export()
    assert exported(receiver) == names(4, 6, 7)
    assert receiver.total(RTT, subnet=str(network_of(4)))[RTTS] == 40
    receiver.check(crowd.truth)


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_no_subnet_is_aggregated_before_its_individual_counts_are_delivered(
    bench: Bench, temporality: AggregationTemporality
) -> None:
    crowd, receiver = Crowd(bench), receiver_of(bench, Limits(max_series=1, roll_up=False), temporality)
    crowd.ping(1, MS)
    receiver.export(lambda: False)
    for _ in range(3):
        for _ in range(50):
            crowd.ping(2, MS)
        receiver.export(lambda: False)
    receiver.export()
    assert exported(receiver) == names(1)
    crowd.ping(2, MS)
    receiver.export()
    assert exported(receiver) == names(2)
    assert receiver.total(RTT, subnet=str(network_of(1)))[RTTS] == 1
    assert receiver.total(RTT, subnet=str(network_of(2)))[RTTS] == 1
    receiver.check(crowd.truth)


def test_all_other_subnets_are_exported_in_covering_prefixes(bench: Bench) -> None:
    crowd, receiver = Crowd(bench), receiver_of(bench, Limits(max_series=16, roll_up=True))
    for turn in range(4):
        for subnet in range(60):
            for _ in range(3 if subnet < 8 else 1):
                crowd.ping(subnet, MS * (1 + subnet))
        receiver.export()
        assert len(receiver.subnets) <= 16, turn
        receiver.check(crowd.truth)
    found = {ip_network(name): receiver.total(PACKETS, subnet=name)["value"] for name in exported(receiver)}
    assert names(*range(8)) <= exported(receiver)
    wide = [network for network in found if network.prefixlen < 24]
    # A quarter of the 16 series is reserved for covering prefixes: two with length 16, one with length 8 and one with
    # length 0.
    assert sorted(network.prefixlen for network in wide) == [0, 8, 16, 16]
    assert all(any(network.supernet_of(network_of(subnet)) for network in found) for subnet in range(60))  # type: ignore[arg-type]
    # No counts are on the overflow point. The histogram of a covering prefix has the RTTs of the subnets in the prefix.
    assert receiver.total(RTT, subnet="0.0.0.0/0")[RTTS] > 0
    assert sum(found.values()) == sum(crowd.packets_of.values())
    assert (receiver.producer._limiter.overflowed, receiver.producer._limiter.rolled_up) == (0, 60 - 12)


def test_limits_can_be_changed(bench: Bench) -> None:
    crowd, receiver = Crowd(bench), receiver_of(bench, Limits(max_series=16, roll_up=True))

    def lengths(limits: Limits) -> list[int]:
        receiver.producer.limits = limits
        for _ in range(2):  # the second export delivers counts that are still pending after the first export
            for subnet in range(40):
                crowd.ping(subnet, MS)
            receiver.export()
            receiver.check(crowd.truth)
        return sorted(ip_network(name).prefixlen for name, _ in receiver.subnets)

    assert lengths(Limits(max_series=16, roll_up=True)) == [0, 8, 16, 16] + 12 * [24]
    assert lengths(Limits(max_series=5, roll_up=True)) == [0] + 4 * [24]
    assert lengths(Limits(max_series=5, roll_up=False)) == 5 * [24]
    assert lengths(Limits(max_series=9, roll_up=True)) == [0, 16] + 7 * [24]
    assert lengths(Limits(None, roll_up=False)) == 40 * [24]


def test_subnets_below_the_limit_are_exported_individually_again(bench: Bench) -> None:
    bench.collector.change_idle_timeout(10**9)
    crowd, receiver = Crowd(bench), receiver_of(bench, Limits(max_series=8, roll_up=True))
    for subnet in range(20):
        crowd.ping(subnet, MS)
    receiver.export()
    assert any(ip_network(name).prefixlen < 24 for name in exported(receiver))
    for _ in range(8):
        crowd.sleep(2)
        crowd.ping(3, MS)
        crowd.ping(4, MS)
        receiver.export()
    crowd.ping(3, MS)
    crowd.ping(4, MS)
    receiver.export()
    assert exported(receiver) == names(3, 4)
    receiver.check(crowd.truth)


def test_a_subnet_with_enough_rtts_of_any_method_is_exported_individually(bench: Bench) -> None:
    crowd, receiver = Crowd(bench), receiver_of(bench, Limits(None, 4, roll_up=False))
    for _ in range(3):
        crowd.ping(1, MS)
        crowd.ping(2, MS)
    receiver.export()
    assert exported(receiver) == set()
    crowd.talk(1, MS)
    receiver.export()
    assert exported(receiver) == names(1)
    receiver.check(crowd.truth)
    # Earlier counts were exported on the overflow point. The earlier counts stay on the overflow point.
    assert receiver.total(RTT, subnet=str(network_of(1)))[RTTS] == 1
    assert receiver.total(RTT)[RTTS] == 7


def test_covering_prefixes_are_shorter_prefixes_of_the_same_address() -> None:
    key = np.zeros((), KEY)
    key["details"] = 7
    for family, address, expected in (
        (4, "10.11.12.0", ["10.11.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]),
        (6, "2001:db8:1234::", ["2001:db8::/32", "2001::/16", "::/0"]),
    ):
        network = ip_network(address)
        packed = (b"" if family == 6 else bytes(10) + b"\xff\xff") + network.network_address.packed
        key["prefix"]["half"], key["family"] = np.frombuffer(packed, np.uint64), family
        keys = SubnetKeys(CONFIG)
        for (level, found), text in zip(keys.covering(key.tobytes()), expected, strict=True):
            wide = ip_network(text)
            record = keys.record(found)
            address_bits = record["prefix"]["half"].tobytes()[12 if family == 4 else 0 :]
            assert address_bits == wide.network_address.packed
            assert {4: 24, 6: 48}[family] - int(record["shorter"]) == wide.prefixlen
            assert not record["details"]
            assert keys.is_covering(found), level
    # If the prefix of a subnet is short, the subnet has fewer covering prefixes.
    few = SubnetKeys(EppingConfig(prefix_v4=8, prefix_v6=0))
    assert [level for level, _ in few.covering(key.tobytes())] == []
    key["family"] = 4
    assert [level for level, _ in few.covering(key.tobytes())] == [2]
    key["family"] = FAMILY_NAMED
    assert [level for level, _ in few.covering(key.tobytes())] == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_series": 0}, "max_series is 0"),
        ({"min_samples": -1}, "min_samples is -1"),
    ],
)
def test_invalid_limits_are_errors(wrong: dict[str, int], words: str) -> None:
    with pytest.raises(EppingError, match=words):
        Limits(**wrong)  # type: ignore[arg-type]


def test_an_idle_timeout_out_of_range_is_an_error(bench: Bench) -> None:
    with pytest.raises(EppingError, match="idle_timeout_ns is -1"):
        bench.collector.change_idle_timeout(-1)
    with pytest.raises(EppingError, match="idle_timeout_ns is -1"):
        EppingCollector(CONFIG, -1)
