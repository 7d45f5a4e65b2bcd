# SPDX-License-Identifier: Apache-2.0
"""Tests changes of the named networks while packets are counted."""

import ipaddress
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import capabilities
from otel_epping.kernel.prefix_table import PrefixTable, kernel_bytes
from otel_epping.kernel.read import named_networks, slots
from otel_epping.networks.network import PREFIX, Network, Networks
from tests.support.named import Address, Oracle, Prefix, Totals, echo, networks_of
from tests.support.prog_test_run import EGRESS, INGRESS, MS, SECOND, START_NS, Bench, Feeder

pytestmark = pytest.mark.parallel

CONFIG = EppingConfig(
    packet_clock=True, max_subnets=1024, max_flows=64, sample_interval_ns=0, methods=("icmp_echo",), named_networks=True
)
CLIENT = ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv6Address("2001:db8:ffff::1")
GRACE_NS = 30 * MS


@pytest.fixture(autouse=True)
def short_grace_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_networks, "GRACE_NS", GRACE_NS)
    monkeypatch.setattr(slots, "GRACE_NS", GRACE_NS)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench(CONFIG)) as bench:
        yield bench


def named(names: dict[str, str]) -> Networks:
    return networks_of({ipaddress.ip_network(prefix): name for prefix, name in names.items()})


class Pinger:
    """Sends echo requests to hosts, and their replies. Counts the packets from each host."""

    def __init__(self, bench: Bench) -> None:
        self._out, self._back = (Feeder(bench.collector.program.entry_points[name]) for name in (EGRESS, INGRESS))
        self._number = 0
        self.replies: Counter[Address] = Counter()

    def ping(self, host: Address | str, rtt_ns: int = MS) -> None:
        host = ipaddress.ip_address(host)
        client = CLIENT[host.version == 6]
        self._number += 1
        at_ns = START_NS + self._number * MS
        self._out.set(echo(client, host, self._number))
        self._out.run(at_ns)
        self._back.set(echo(host, client, self._number, reply=True))
        self._back.run(at_ns + rtt_ns)
        self.replies[host] += 1

    def expected(self, oracle: Oracle) -> dict[str, tuple[int, int]]:
        found: Counter[str] = Counter()
        for host, count in self.replies.items():
            found[oracle(host)] += count
        return {name: (count, count) for name, count in found.items()}


def settle(*totals: Totals) -> None:
    """Make two readings of each reader after the grace time, so that all reclaimed slots are free."""
    for _ in range(2):
        time.sleep(2 * GRACE_NS / SECOND)
        for each in totals:
            each.read()


def oracle(names: dict[str, str]) -> Oracle:
    return Oracle({ipaddress.ip_network(prefix): name for prefix, name in names.items()}, CONFIG)


def test_networks_that_do_not_change_keep_their_slots(bench: Bench) -> None:
    """Network `a` gets another prefix, `b` is renamed, `c` loses its prefix, and a subnet is now inside of `d`."""
    old = {"10.1.0.0/16": "a", "2001:db8:1::/48": "a", "10.2.0.0/16": "b", "10.3.0.0/24": "c"}
    new = {"10.1.0.0/16": "a", "10.9.0.0/28": "a", "10.2.0.0/16": "B", "10.4.0.0/15": "d"}
    hosts = ["10.1.0.1", "2001:db8:1::1", "10.2.0.1", "10.3.0.1", "10.4.7.1", "10.6.0.1", "10.9.0.1", "10.9.0.17"]
    bench.collector.change_networks(named(old))
    pinger, first, second = Pinger(bench), Totals(bench), Totals(bench)
    for host in hosts:
        pinger.ping(host)
    first.read(), second.read()
    assert first.totals() == pinger.expected(oracle(old))
    kept = {name: first.rows[name] for name in ("a", "10.6.0.0/24", "10.9.0.0/24")}
    bench.collector.change_networks(named(new))
    numbers = {network.name: number for number, network in first.read().networks.items()}
    assert set(numbers) == {"a", "b", "B", "c", "d"}
    before = first.totals()
    pinger.replies.clear()
    for host in hosts:
        pinger.ping(host)
    settle(first)  # the slots are not free before the second reader has read the final counts, too
    assert set(first.read().networks) == set(numbers.values())
    settle(second, first)
    assert {network.name for network in first.read().networks.values()} == {"a", "B", "d"}
    expected = pinger.expected(oracle(new))
    found = first.totals()
    assert {name: (found[name][0] - before.get(name, (0, 0))[0]) for name in found} == {
        name: expected.get(name, (0, 0))[0] for name in found
    }
    assert second.totals() == found
    assert {name: first.rows[name] for name in kept} == kept
    owners = {str(network.name) for network in first.read().networks.values()}
    assert owners == {"a", "B", "d"}
    keys = bench.slots["key"][bench.slots_in_use()]
    assert not np.isin(keys["prefix"]["half"][keys["family"] == 0, 0], [numbers["b"], numbers["c"]]).any()


def test_a_network_that_returns_has_the_same_number_until_its_slots_are_free(bench: Bench) -> None:
    one, other = named({"10.1.0.0/16": "a"}), named({"10.2.0.0/16": "b"})
    bench.collector.change_networks(one)
    pinger, totals = Pinger(bench), Totals(bench)
    pinger.ping("10.1.0.1")
    (number,) = totals.read().networks
    bench.collector.change_networks(other)
    bench.collector.change_networks(one)
    pinger.ping("10.1.0.1")
    reading = totals.read()
    assert reading.networks[number].name == "a"
    assert len(totals.rows["a"]) == 1
    bench.collector.change_networks(other)
    settle(totals)
    settle(totals)
    bench.collector.change_networks(one)
    (new,) = [key for key, network in totals.read().networks.items() if network.name == "a"]
    assert new > number
    assert totals.totals()["a"] == (2, 2)


def test_tags_identify_a_network(bench: Bench) -> None:
    prefixes = named({"10.1.0.0/16": "a"}).prefixes
    totals = Totals(bench)
    for tags in ((("plan", "gold"),), (("plan", "silver"),)):
        bench.collector.change_networks(Networks((Network("a", tags),), prefixes, ("plan",)))
    assert {network.tags[0][1] for network in totals.read().networks.values()} == {"gold", "silver"}


def test_without_names_the_subnets_are_counted_again(bench: Bench) -> None:
    """The clients never answer, so they are newcomers. Their slots are freed, too."""
    bench.collector.slots.now_ns = lambda: time.monotonic_ns() + START_NS + slots.NEWCOMER_NS
    bench.collector.change_networks(named({"0.0.0.0/0": "all4", "::/0": "all6"}))
    pinger, totals = Pinger(bench), Totals(bench)
    hosts = ["10.1.0.1", "10.2.0.1", "2001:db8:1::1"]
    for names in ({"0.0.0.0/0": "all4", "::/0": "all6"}, {}):
        bench.collector.change_networks(named(names))
        for host in hosts:
            pinger.ping(host)
        settle(totals)
    assert totals.totals() == {
        "all4": (2, 2), "all6": (1, 1), "10.1.0.0/24": (1, 1), "10.2.0.0/24": (1, 1), "2001:db8:1::/48": (1, 1)
    }  # fmt: skip
    settle(totals)
    assert totals.read().networks == {}


@pytest.mark.parametrize("count", [1000, 100_000])
def test_packets_during_changes_are_counted_once(count: int) -> None:
    """A thread sends packets while half of the names change. Two readers read all the time."""
    config = EppingConfig(
        packet_clock=True, max_subnets=16_384, sample_interval_ns=0, methods=("icmp_echo",), named_networks=True
    )
    kept: dict[Prefix, str] = {}
    halves: list[dict[Prefix, str]] = [{}, {}]
    for number in range(count):
        prefix = ipaddress.IPv4Network((10 << 24 | number << 5, 27))
        if number % 2:
            kept[prefix] = f"kept {number}"
        else:
            for turn in (0, 1):
                halves[turn][prefix] = f"{turn} {number}"
    hosts = [ipaddress.IPv4Address((10 << 24 | number << 5) + 7) for number in range(0, count, count // 50)]
    hosts += [ipaddress.IPv4Address((10 << 24 | number << 5) + 7) for number in range(1, count, count // 50)]
    turns = [networks_of(kept | half) for half in halves]
    with closing(Bench(config)) as bench:
        bench.collector.change_networks(turns[0])
        pinger, readers = Pinger(bench), (Totals(bench), Totals(bench))
        done = threading.Event()

        def send() -> None:
            while not done.is_set():
                for host in hosts:
                    pinger.ping(host)

        sender = threading.Thread(target=send)
        sender.start()
        for turn in range(1, 7):
            began = time.monotonic()
            bench.collector.change_networks(turns[turn % 2])
            assert time.monotonic() - began < 20
            for totals in readers[turn % 2 :]:
                totals.read()
            time.sleep(GRACE_NS / SECOND)
        done.set()
        sender.join()
        settle(*readers)
        settle(*readers)
    for totals in readers:
        found = totals.totals()
        for host in hosts:
            number = (int(host) - 7 - (10 << 24)) >> 5
            names = [f"kept {number}"] if number % 2 else [f"{turn} {number}" for turn in (0, 1)]
            counts = np.array([found.get(name, (0, 0)) for name in names]).sum(axis=0).tolist()
            assert counts == [pinger.replies[host]] * 2, names
            if number % 2:
                assert len(totals.rows[names[0]]) == 1
            else:
                assert all(found[name][0] > 0 for name in names)
        assert set(found) == {name for name in found if name.startswith(("kept", "0", "1"))}


def test_a_failed_change_leaves_the_old_networks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.collector.change_networks(named({"10.1.0.0/16": "a"}))
    pinger, totals = Pinger(bench), Totals(bench)
    pinger.ping("10.1.0.1")

    def fail(fd: int, keys: object, values: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(libbpf, "map_update_all", fail)
        with pytest.raises(EppingError) as caught:
            bench.collector.change_networks(named({"10.1.0.0/16": "b"}))
    assert str(caught.value) == (
        "the kernel cannot store 1 prefixes of named networks (Cannot allocate memory): use fewer prefixes, or give "
        "the agent more memory"
    )
    pinger.ping("10.1.0.1")
    assert {network.name for network in totals.read().networks.values()} == {"a"}
    assert totals.totals() == {"a": (2, 2)}
    bench.collector.change_networks(named({"10.1.0.0/16": "c"}))
    pinger.ping("10.1.0.1")
    settle(totals)
    assert totals.totals() == {"a": (2, 2), "c": (1, 1)}


def test_the_old_trie_is_emptied(bench: Bench) -> None:
    totals = Totals(bench)
    fds = [bench.collector.program.maps[f"networks_{trie}"].fd for trie in (0, 1)]
    for count in (300, 200, 100):
        names: dict[Prefix, str] = {
            ipaddress.IPv4Network((10 << 24 | number << 6, 26)): f"{number}" for number in range(count)
        }
        networks = networks_of(names)
        bench.collector.change_networks(networks)
        settle(totals)
        used = [map_array.map_info(fd)["memlock"] for fd in fds]
        assert min(used) == 0
        assert 0 < max(used) <= kernel_bytes(networks, CONFIG) / 2


def test_a_program_without_names_refuses_networks() -> None:
    with (
        EppingCollector(EppingConfig(max_subnets=64, max_flows=64)) as collector,
        pytest.raises(EppingError, match="named_networks"),
    ):
        collector.change_networks(Networks())
    with EppingCollector(EppingConfig(max_subnets=64, max_flows=64), networks=Networks()) as collector:
        collector.change_networks(named({"10.0.0.0/8": "a"}))
        assert list(collector.reader().read().networks.values()) == [Network("a")]


def test_changes_need_no_capabilities(bench: Bench) -> None:
    """The batch operations of the kernel, too: the change must not fall back to one system call per prefix."""

    def change() -> int:
        capabilities.drop()
        updates = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(libbpf, "map_update", lambda *arguments: updates.append(arguments))
            libbpf.map_update_all(fd, *trie)
        assert not updates
        bench.collector.change_networks(named({"10.1.0.0/16": "b"}))
        return len(libbpf.map_lookup(fd, trie.keys[0].tobytes(), 8) or b"")

    networks = named({"10.1.0.0/16": "a", "2001:db8::/49": "b"})
    trie = PrefixTable(networks.prefixes, np.array([1, 2], np.uint32)).entries(CONFIG)
    fd = bench.collector.program.maps["networks_0"].fd
    with ThreadPoolExecutor(1) as unprivileged:
        assert unprivileged.submit(change).result() == 8
    pinger, totals = Pinger(bench), Totals(bench)
    pinger.ping("10.1.0.1")
    assert totals.read().networks
    assert totals.totals() == {"b": (1, 1)}


def test_too_many_prefixes() -> None:
    with pytest.raises(EppingError, match="100,001 prefixes"):
        Networks((Network("a"),), np.zeros(100_001, PREFIX))
