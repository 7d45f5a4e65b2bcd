# SPDX-License-Identifier: Apache-2.0
"""Tests the look-up of named networks in the kernel program. The expected names come from `ipaddress`."""

import dataclasses
import ipaddress
import random
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read import named_networks
from tests.support.named import Address, Counts, Oracle, Prefix, echo, feed, networks_of
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, MS, START_NS, Bench, Flow

pytestmark = pytest.mark.parallel

LENGTHS = [(24, 48), (32, 64), (16, 56), (0, 0), (24, 65), (32, 128), (20, 33)]
Packet = tuple[Address, Address, bool]


@pytest.fixture(autouse=True)
def no_grace_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test runs are synchronous. So no CPU uses the old trie after a change."""
    monkeypatch.setattr(named_networks, "GRACE_NS", 0)


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[tuple[int, int], Bench]]:
    made = {
        (v4, v6): Bench(
            EppingConfig(packet_clock=True, max_subnets=8192, prefix_v4=v4, prefix_v6=v6, named_networks=True)
        )
        for v4, v6 in LENGTHS
    }
    yield made
    for bench in made.values():
        bench.close()


def expected(oracle: Oracle, packets: list[Packet], entry: str) -> Counter[tuple[str, int, str]]:
    source_side, destination_side = (EXTERNAL, INTERNAL) if entry == INGRESS else (INTERNAL, EXTERNAL)
    counts: Counter[tuple[str, int, str]] = Counter()
    for source, destination, _ in packets:
        counts[oracle(source), source_side, "from"] += 1
        counts[oracle(destination), destination_side, "to"] += 1
    return counts


# Addresses that differ in few bits, so that many prefixes contain each other.
def numbers(version: int) -> st.SearchStrategy[int]:
    bits = st.lists(st.integers(0, 127 if version == 6 else 31), max_size=4)
    base = 0x20010DB8 << 96 if version == 6 else 0x0A000000
    return bits.map(lambda positions: base ^ sum(1 << bit for bit in set(positions)))


def addresses(version: int) -> st.SearchStrategy[Address]:
    return numbers(version).map(ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)


def prefixes(version: int) -> st.SearchStrategy[Prefix]:
    common = [0, 8, 16, 23, 24, 25, 28, 31, 32] if version == 4 else [0, 32, 47, 48, 49, 56, 63, 64, 65, 96, 127, 128]
    lengths = st.sampled_from(common) | st.integers(0, max(common))
    return st.tuples(addresses(version), lengths).map(lambda pair: ipaddress.ip_network(pair, strict=False))


NAMES = st.dictionaries(prefixes(4) | prefixes(6), st.sampled_from("abcdefgh"), max_size=30)
PACKETS = st.lists(
    st.tuples(addresses(4), addresses(4), st.booleans()) | st.tuples(addresses(6), addresses(6), st.booleans()),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("lengths", LENGTHS)
@given(names=NAMES, packets=PACKETS, seed=st.integers(0, 1000))
@settings(deadline=None)
def test_the_longest_prefix_decides(
    benches: dict[tuple[int, int], Bench],
    lengths: tuple[int, int],
    names: dict[Prefix, str],
    packets: list[Packet],
    seed: int,
) -> None:
    """Packets of random addresses and of the first and last address of each prefix, each packet twice."""
    bench = benches[lengths]
    bench.collector.change_networks(networks_of(names))
    for prefix in names:
        ends = prefix[0], prefix[-1]
        packets = [*packets, (ends[0], ends[1], False), (ends[1], ends[0], True)]
    packets = packets * 2
    random.Random(seed).shuffle(packets)
    counts, oracle = Counts(bench), Oracle(names, bench.config)
    for entry in (INGRESS, EGRESS):
        feed(bench, packets, START_NS, entry)
        assert counts.new() == expected(oracle, packets, entry)


def random_names(rng: random.Random, count: int) -> dict[Prefix, str]:
    """Return overlapping prefixes of both families, with 1 to 4 prefixes per name on average."""
    names: dict[Prefix, str] = {}
    while len(names) < count:
        if rng.random() < 0.5:
            prefix: Prefix = ipaddress.ip_network(
                (rng.choice([10, 100, 198]) << 24 | rng.getrandbits(24), rng.randint(9, 32)), strict=False
            )
        else:
            number = 0x20010DB8 << 96 | rng.getrandbits(18) << 78 | rng.getrandbits(78)
            prefix = ipaddress.ip_network((ipaddress.IPv6Address(number), rng.randint(33, 128)), strict=False)
        names[prefix] = f"n{rng.randrange(count // 2)}"
    return names


def test_100_000_prefixes() -> None:
    rng = random.Random(20)
    names = random_names(rng, 100_000)
    config = EppingConfig(packet_clock=True, max_subnets=131_072, named_networks=True)
    bench = Bench(config)
    bench.collector.change_networks(networks_of(names))
    packets: list[Packet] = []
    for prefix in rng.sample(sorted(names, key=str), 1500):
        other = prefix[rng.randrange(prefix.num_addresses)]
        spread = ipaddress.ip_address(int(other) ^ 1 << rng.randrange(8))
        packets += [(prefix[0], other, False), (other, prefix[-1], True), (spread, other, False)]
    counts, oracle = Counts(bench), Oracle(names, config)
    for entry in (INGRESS, EGRESS, INGRESS):
        feed(bench, packets, START_NS, entry)
        assert counts.new() == expected(oracle, packets, entry)
    bench.close()


def sums_of(bench: Bench, owner: Callable[[int], str]) -> dict[tuple[str, int], npt.NDArray[np.int64]]:
    """Return the sum of the RTTs and all buckets, for each owner and method."""
    found: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
    for row in np.flatnonzero(bench.histograms["ended"]).tolist():
        record = bench.histograms[row]
        counts = np.append(bench.buckets_of(row).astype(np.int64), np.int64(record["sum_ns"]))
        key = owner(int(record["slot"])), int(record["method"])
        found[key] = found[key] + counts if key in found else counts
    return found


def test_the_histogram_of_a_network_is_the_sum_of_its_addresses() -> None:
    """The same packets twice: once with names, and once with a subnet for each address."""
    rng = random.Random(7)
    names: dict[Prefix, str] = {
        ipaddress.ip_network(prefix): name
        for prefix, name in {
            "10.0.0.0/8": "big", "10.1.2.0/24": "branch", "10.1.2.16/28": "big", "10.1.2.17/32": "host",
            "198.51.100.0/22": "isp", "2001:db8::/32": "isp", "2001:db8:1::/48": "branch", "2001:db8:1:2::/64": "host",
            "2001:db8:1:2::7/128": "big",
        }.items()
    }  # fmt: skip
    common = EppingConfig(packet_clock=True, max_subnets=4096, max_flows=4096, sample_interval_ns=0)
    with_names = dataclasses.replace(common, named_networks=True)
    per_address = dataclasses.replace(common, prefix_v4=32, prefix_v6=128)
    hosts: list[Address] = [
        ipaddress.ip_address(address)
        for address in (
            "10.0.0.1", "10.200.3.4", "10.1.2.3", "10.1.2.15", "10.1.2.16", "10.1.2.17", "10.1.2.31", "10.1.2.32",
            "198.51.103.9", "198.51.104.9", "192.0.2.1", "192.0.2.200", "2001:db8:1:2::7", "2001:db8:1:2::8",
            "2001:db8:1:3::7", "2001:db8:1::", "2001:db8:2::1", "2001:db9::1", "2001:db9:0:5::1",
        )
    ]  # fmt: skip
    benches = Bench(with_names), Bench(per_address)
    benches[0].collector.change_networks(networks_of(names))
    clients = ipaddress.ip_address("172.16.0.1"), ipaddress.ip_address("2001:db8:1:2::ffff")
    for number in range(1500):
        host = rng.choice(hosts)
        client = clients[host.version == 6]
        at_ns, rtt_ns = START_NS + number * MS, int(rng.lognormvariate(16, 1))
        packets: list[tuple[str, bytes, int]] = [
            (EGRESS, echo(client, host, number), at_ns),
            (INGRESS, echo(host, client, number, reply=True), at_ns + rtt_ns),
        ]
        if number % 2:
            flow = Flow(benches[0], 1, str(client), str(host))
            flow.ports = 1024 + number, 443
            packets = [
                (EGRESS, flow.frame(0, "A", 1, 0, b""), at_ns),
                (EGRESS, flow.frame(0, "PA", 2, 0, b"data"), at_ns + 2 * MS),
                (INGRESS, flow.frame(1, "PA", 9, 2, b"data"), at_ns + 2 * MS + rtt_ns),
                (EGRESS, flow.frame(0, "A", 30, 9, b""), at_ns + 3 * MS + rtt_ns),
            ]
        for bench in benches:
            for entry, data, time_ns in packets:
                bench.feeders[entry].set(data)
                bench.feeders[entry].run(time_ns)
    oracle, owners = Oracle(names, with_names), Counts(benches[0])
    found = sums_of(benches[0], lambda slot: owners.owner(slot)[0])
    expected = sums_of(benches[1], lambda slot: oracle(benches[1].describe(slot)[0].network_address))
    assert found.keys() == expected.keys()
    assert {name for name, _ in found} > {"big", "branch", "host", "isp"}
    for key, counts in expected.items():
        np.testing.assert_array_equal(found[key], counts, str(key))
    assert sum(int(counts[:-1].sum()) for counts in found.values()) == 1500
    for bench in benches:
        bench.close()
