# SPDX-License-Identifier: Apache-2.0
"""Tests which subnets get a slot. Packets with forged source addresses must not take the slots of real subnets."""

import itertools
import random
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest
from scapy.layers.inet import IP, TCP, UDP

from otel_epping.kernel import methods
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT
from tests.support.claims import ANSWERED, NEWCOMER, checked, overflow_rtts
from tests.support.exchanges import EXCHANGES, Exchange, Hosts
from tests.support.forged import HERE, Forger, Tallies, keys_with_slots, merge, random_address, subnet_of
from tests.support.packets import ETHER
from tests.support.prog_test_run import (
    CLASSES,
    EGRESS,
    EXTERNAL,
    INGRESS,
    INTERNAL,
    MS,
    SECOND,
    START_NS,
    Bench,
    Network,
    Rtt,
)

pytestmark = pytest.mark.parallel


CONFIG = EppingConfig(packet_clock=True, max_subnets=2048, max_flows=1024, sample_interval_ns=0)
NEWCOMER_NS = 10 * SECOND
GRACE_NS = SECOND


@pytest.fixture
def own() -> Iterator[Callable[..., Bench]]:
    """Returns a function that loads a program for this test only. Its arguments are settings."""
    benches: list[Bench] = []

    def own(**settings: int) -> Bench:
        benches.append(Bench(EppingConfig(packet_clock=True, sample_interval_ns=0, **settings)))  # type: ignore[arg-type]
        return benches[-1]

    yield own
    for bench in benches:
        bench.close()


@pytest.fixture(scope="module")
def every() -> Iterator[Bench]:
    """A program with all methods. Its tables are recounted, so no other file may change them."""
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=1024, max_flows=4096, sample_interval_ns=0))
    yield bench
    bench.close()


def state(bench: Bench, subnet: Network, side: int = EXTERNAL) -> int:
    """Returns the state of a subnet: NEWCOMER, ANSWERED, or 0 if the subnet has no slot."""
    bits = int(bench.slots["state"][bench.slot_of(subnet, side) or 0]) & 0xFF
    return min(bits, ANSWERED)


# ---- newcomers answer


def network(address: object) -> Network:
    return ip_network(f"{address}/24", strict=False)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.method)
def test_a_reply_answers_for_its_subnet(every: Bench, exchange: Exchange, version: int) -> None:
    hosts = Hosts(every, version)
    near, far = (ip_network((end, 24 if version == 4 else 48), strict=False) for end in hosts.ends)
    assert hosts.out(0, exchange.ask(version, 1)) is None
    assert (state(every, near, INTERNAL), state(every, far)) == (NEWCOMER, NEWCOMER)
    assert hosts.back(MS, exchange.answer(version, 1)) is not None
    assert (state(every, near, INTERNAL), state(every, far)) == (NEWCOMER, ANSWERED)
    method = methods.ALL.index(exchange.method)
    assert [
        every.histogram_of(every.slot_of(far, EXTERNAL) or 0, number) != 0 for number in range(len(methods.ALL))
    ] == [number == method for number in range(len(methods.ALL))]
    checked(every)


@pytest.mark.parametrize("method", ["tcp_timestamp", "tcp_sequence"])
def test_an_acknowledgement_answers_for_its_subnet(bench_of: Callable[[EppingConfig], Bench], method: str) -> None:
    bench = bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, max_subnets=64, methods=(method,)))
    flow = bench.flow()
    near, far = (network(address) for address in flow.addresses)
    times = itertools.count()

    def send(sender: int, flags: str, seq: int, ack: int, payload: bytes = b"") -> Rtt | None:
        """Sends a segment one millisecond after the previous segment. The TSval is the time in ms."""
        ends, ports, at_ms = flow.addresses, flow.ports, next(times)
        stamps = [("NOP", None), ("NOP", None), ("Timestamp", (1000 + at_ms, 999 + at_ms if ack else 0))]
        network = IP(src=str(ends[sender]), dst=str(ends[1 - sender]))
        options = stamps if method == "tcp_timestamp" else []
        segment = TCP(sport=ports[sender], dport=ports[1 - sender], flags=flags, seq=seq, ack=ack, options=options)
        return bench.feed(ETHER / network / segment / payload, START_NS + at_ms * MS, (EGRESS, INGRESS)[sender])

    if method == "tcp_sequence":  # with this method, a handshake gives no RTT
        assert send(0, "S", 99, 0) is None
        assert send(1, "SA", 499, 100) is None
    assert send(0, "A", 100, 500) is None
    assert send(0, "PA", 100, 500, b"data") is None
    assert (state(bench, near, INTERNAL), state(bench, far)) == (NEWCOMER, NEWCOMER)
    assert send(1, "A", 500, 104) == (MS, far, EXTERNAL, bench.row)
    assert (state(bench, near, INTERNAL), state(bench, far)) == (NEWCOMER, ANSWERED)
    checked(bench)


def test_packets_without_rtts_do_not_answer(every: Bench) -> None:
    """A subnet that sends packets of all kinds, but no reply in time, stays a newcomer."""
    hosts = Hosts(every)
    near, far = (network(end) for end in hosts.ends)
    for at_ns, exchange in enumerate(EXCHANGES):
        hosts.back(at_ns, exchange.answer(4, 1))
        hosts.back(at_ns, exchange.ask(4, 2))
        hosts.out(at_ns, exchange.ask(4, 3))
        with every.counting() as counted:
            assert hosts.back(every.config.max_age_ns + 1 + at_ns, exchange.answer(4, 3)) is None
        assert counted["rtt_expired"] == 1
    assert (state(every, near, INTERNAL), state(every, far)) == (NEWCOMER, NEWCOMER)
    checked(every)


# ---- forged sources


def check_traffic(forger: Forger) -> None:
    """Checks that each packet is counted in the slot of its subnet, or in UNANSWERED_SLOT if the subnet has no slot."""
    bench, slots, counted = forger.bench, keys_with_slots(forger.bench), forger.counted()
    wrong = [key for key, slot in slots.items() if bench.traffic_of(slot) != counted[key]]
    assert not wrong, f"{len(wrong)} of {len(slots)} subnets have wrong counts"
    rest: Tallies = {}
    for key in counted.keys() - slots.keys():
        merge(rest, counted[key])
    assert bench.traffic_of(UNANSWERED_SLOT) == rest
    assert bench.traffic_of(OVERFLOW_SLOT) == {}


@pytest.fixture(scope="module")
def flooded() -> Iterator[Forger]:
    """A program after 60,000 packets from random addresses."""
    bench = Bench(CONFIG)
    forger = Forger(bench)
    forger.flood(60_000, seed=1)
    yield forger
    bench.close()


def test_newcomers_have_a_quarter_of_all_slots(flooded: Forger) -> None:
    used = checked(flooded.bench)
    assert used.newcomers == used.slots == CONFIG.max_slots // 4
    assert len(flooded.counted()) > 40_000
    check_traffic(flooded)
    assert flooded.bench.counters()["subnet_insert_failed"] == 0
    assert not flooded.bench.histograms["ended"].any()
    # The subnets that sent the first packets have the slots.
    assert keys_with_slots(flooded.bench).keys() == set(list(flooded.counted())[: used.slots])


def test_the_number_of_newcomers_adapts_to_the_number_of_free_slots(own: Callable[..., Bench]) -> None:
    """During a flood, subnets that answer take slots. Newcomers never take another slot if the number of their slots is
    already a third of the number of free slots."""
    forger, chance = Forger(own(max_subnets=512, max_flows=64)), random.Random(2)
    most = 0
    for turn in range(100):
        before = checked(forger.bench)
        forger.flood(50, seed=turn)
        used = checked(forger.bench)
        free = forger.bench.config.max_slots - used.slots
        if used.newcomers > before.newcomers:
            assert 3 * (used.newcomers - 1) < free + 1
        else:
            assert 3 * before.newcomers >= free
        most = max(most, used.newcomers)
        for _ in range(10):
            forger.answer(random_address(6, chance), MS)
    used = checked(forger.bench)
    assert used.slots == forger.bench.config.max_slots
    assert overflow_rtts(forger.bench) == 100 * 10 - used.answered
    assert 200 < most <= forger.bench.config.max_slots // 4


def test_a_reply_to_a_forged_packet_does_not_count_for_the_forged_source(flooded: Forger) -> None:
    bench, before = flooded.bench, checked(flooded.bench)
    sources = [f"{20 + number}.1.2.3" for number in range(len(EXCHANGES))]
    for source, exchange in zip(sources, EXCHANGES, strict=True):
        there, back = IP(src=source, dst=str(HERE[4])), IP(src=str(HERE[4]), dst=source)
        assert bench.feed(ETHER / there / exchange.ask(4, 1), START_NS) is None
        rtt = bench.feed(ETHER / back / exchange.answer(4, 1), START_NS + 3 * MS, EGRESS)
        assert rtt == (3 * MS, network(HERE[4]), INTERNAL, bench.row)
        assert state(bench, network(source)) in (0, NEWCOMER)
    assert state(bench, network(HERE[4]), INTERNAL) == ANSWERED
    used = checked(bench)
    # The subnet of the internal host was a newcomer. So another newcomer may have a slot now.
    assert (used.answered, used.newcomers, used.histograms) == (1, before.newcomers, len(EXCHANGES))


def test_a_real_subnet_gets_its_slot_with_its_first_rtt(own: Callable[..., Bench]) -> None:
    forger = Forger(own(max_subnets=512, max_flows=64))
    forger.flood(5000, seed=3)
    for version in (4, 6):
        real = random_address(version, random.Random(4))
        forger.send("udp", real)
        forger.answer(real, 5 * MS)
        slot = forger.bench.slot_of(subnet_of(real), EXTERNAL)
        assert slot
        assert state(forger.bench, subnet_of(real)) == ANSWERED
        # The packets until the first RTT are counted in UNANSWERED_SLOT, and all later packets in the subnet's slot.
        assert forger.bench.traffic_of(slot) == {}
        size = len(bytes(ETHER / IP() / UDP() / b"twelve bytes")) + (20 if version == 6 else 0)
        forger.flood(1000, seed=version)
        forger.send("udp", real)
        assert forger.bench.traffic_of(slot) == {"from udp": (1, size)}
        histogram = forger.bench.histograms[forger.bench.histogram_of(slot, methods.ALL.index("icmp_echo"))]
        assert (histogram["ended"], histogram["sum_ns"], histogram["slot"]) == (1, 5 * MS, slot)
    assert overflow_rtts(forger.bench) == 0
    used = checked(forger.bench)
    # Newcomers may have a third of the number of free slots. If subnets that answer take three more slots, newcomers
    # may have one slot less.
    assert used.answered == 2
    assert abs(used.newcomers - forger.bench.config.max_slots // 4) <= 1


def test_slots_of_newcomers_are_used_again(own: Callable[..., Bench]) -> None:
    """User space takes back the slots of newcomers. The counts of these slots are in the row of unanswered subnets."""
    bench = own(max_subnets=512, max_flows=64)
    forger, reader, now_ns = Forger(bench), bench.collector.reader(), START_NS
    bench.collector.slots.now_ns = lambda: now_ns
    most = bench.config.max_slots // 4
    for turn in range(3):
        forger.flood(2000, turn, now_ns)
        assert checked(bench).newcomers == most
        now_ns += NEWCOMER_NS
        bench.collector.fold_newcomers()
        assert len(bench.slots_in_use()) == most
        now_ns += GRACE_NS
        bench.collector.fold_newcomers()
        assert checked(bench).slots == 0
        total: Tallies = {}
        for tallies in forger.counted().values():
            merge(total, tallies)
        classes = reader.read().counters[UNANSWERED_SLOT]["classes"]
        found = {
            f"{way} {name}": (int(classes[way]["packets"][place]), int(classes[way]["bytes"][place]))
            for way in ("from", "to")
            for place, name in enumerate(CLASSES)
        }
        assert {name: tally for name, tally in found.items() if any(tally)} == total


# ---- covering prefixes


@pytest.mark.parametrize("version", [4, 6])
def test_a_covering_prefix_leaves_slots_for_other_networks(own: Callable[..., Bench], version: int) -> None:
    """An attacker answers from all subnets of a /32 or a /8. Other networks still get slots."""
    bench = own(max_subnets=512, max_flows=64)
    forger, chance = Forger(bench), random.Random(version)
    for number in range(1, 5001):
        low = number.to_bytes(2, "big")
        forger.answer(b"\x09" + low + b"\x01" if version == 4 else b"\x2a\x01\x02\x03" + low + bytes(10), MS)
        if number % 100 == 0:
            used = checked(bench)
            free = bench.config.max_slots - used.slots
            assert used.covering[-1] <= 24 * (free + 1)
    assert free == pytest.approx(bench.config.max_slots / 25, abs=3)
    assert overflow_rtts(bench) == 5000 - used.covering[-1]
    assert bench.counters()["subnet_insert_failed"] == overflow_rtts(bench)
    for other in (random_address(10 - version, chance) for _ in range(30)):
        forger.answer(other, MS)
        assert state(bench, subnet_of(other)) == ANSWERED
    checked(bench)


# ---- cached slots


@pytest.fixture
def crowded(own: Callable[..., Bench]) -> Bench:
    """A program in which newcomers do not get slots any more."""
    bench = own(max_subnets=64, max_flows=64)
    Forger(bench).flood(1000, seed=5)
    return bench


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_follows_when_its_subnet_answers(crowded: Bench, version: int) -> None:
    flow = crowded.flow(version).begun(1000)
    far = ip_network((flow.addresses[1], 24 if version == 4 else 48), strict=False)
    flow.client(MS, 1001)
    before = crowded.traffic_of(UNANSWERED_SLOT)
    assert flow.server(2 * MS, 5000, tsecr=1001) == MS
    slot = crowded.slot_of(far, EXTERNAL)
    assert slot
    assert crowded.traffic_of(slot) == {}
    # The reply itself was counted in UNANSWERED_SLOT.
    counted = crowded.traffic_of(UNANSWERED_SLOT)
    assert counted["from tcp_timestamp"][0] == before["from tcp_timestamp"][0] + 1
    flow.server(3 * MS, 5001, tsecr=1001)
    flow.client(4 * MS, 1002)
    assert flow.server(6 * MS, 5002, tsecr=1002) == 2 * MS
    found = crowded.traffic_of(slot)
    assert (found["from tcp_timestamp"][0], found["to tcp_timestamp"][0]) == (2, 1)
    assert crowded.histograms["ended"][crowded.histogram_of(slot)] == 2
    checked(crowded)


def test_other_flows_of_the_subnet_follow_at_the_next_epoch_or_rtt(crowded: Bench) -> None:
    flow = crowded.flow().begun(1000)
    others = []
    for port in (40_001, 40_002):
        other = crowded.flow(client=str(flow.addresses[0]), server=str(flow.addresses[1]))
        other.ports = port, 443
        others.append(other.begun(1000))
    flow.client(MS, 1001)
    assert flow.server(2 * MS, 5000, tsecr=1001) == MS
    slot = crowded.slot_of(network(flow.addresses[1]), EXTERNAL)
    assert slot
    one, other = others
    one.client(3 * MS, 1001)
    assert crowded.traffic_of(slot) == {}
    assert one.server(4 * MS, 6000, tsecr=1001) == MS
    one.server(5 * MS, 6001, tsecr=1001)
    assert crowded.traffic_of(slot)["from tcp_timestamp"][0] == 1
    other.client(6 * MS, 1001)
    assert "to tcp_timestamp" not in crowded.traffic_of(slot)
    crowded.collector._control.epoch += 1
    crowded.collector._control.write()
    other.client(7 * MS, 1002)
    assert crowded.traffic_of(slot)["to tcp_timestamp"][0] == 1
    assert crowded.histograms["ended"][crowded.histogram_of(slot)] == 2
    checked(crowded)


def test_the_slot_cache_follows_when_a_subnet_answers(crowded: Bench) -> None:
    """A pair of subnets is not cached before both subnets have slots."""
    forger, remote = Forger(crowded), bytes((77, 1, 2, 3))
    forger.answer(bytes((78, 1, 2, 3)), MS)
    for _ in range(3):
        forger.send("udp", remote)
    assert crowded.slot_of(subnet_of(remote), EXTERNAL) is None
    forger.answer(remote, MS)
    slot = crowded.slot_of(subnet_of(remote), EXTERNAL)
    assert slot
    for number in range(1, 4):
        forger.send("udp", remote)
        assert crowded.traffic_of(slot)["from udp"][0] == number
    checked(crowded)


# ---- the number of subnets


def adjacent(number: int) -> list[bytes]:
    """Returns `number` addresses: half are in consecutive /24s, and half are in consecutive /48s."""
    half = number // 2
    v4 = [(0x0B000001 + (place << 8)).to_bytes(4, "big") for place in range(half)]
    return v4 + [(0x2A010203 << 96 | place << 80).to_bytes(16, "big") for place in range(number - half)]


@pytest.mark.parametrize("kind", ["random", "adjacent"])
@pytest.mark.parametrize(("number", "standard_error"), [(100, 0.011), (10_000, 0.016), (100_000, 0.016)])
def test_the_number_of_unanswered_subnets(
    own: Callable[..., Bench], number: int, standard_error: float, kind: str
) -> None:
    """HASH_KEY is random, so the tolerance is four standard errors."""
    bench = own(max_subnets=1, max_flows=64)
    forger, reader, chance = Forger(bench), bench.collector.reader(), random.Random(number)
    reader.read()
    remotes = adjacent(number) if kind == "adjacent" else [random_address(6, chance) for _ in range(number)]
    for _ in range(2 if number < 50_000 else 1):  # repeated packets do not change the number
        for remote in remotes:
            forger.send("udp", remote)
    assert reader.read().unanswered == pytest.approx(number, rel=4 * standard_error, abs=6)
    checked(bench)
    assert reader.read().unanswered <= 2  # the internal hosts, which have slots


# ---- the smallest table


def test_a_table_for_one_subnet(own: Callable[..., Bench]) -> None:
    bench = own(max_subnets=1, max_flows=64)
    forger = Forger(bench)
    forger.flood(1000, seed=6)
    check_traffic(forger)
    assert checked(bench)[:3] == (1, 1, 0)
    chance = random.Random(7)
    for turn in range(200):
        forger.answer(random_address(chance.choice((4, 6)), chance), (turn % 30 + 1) * MS)
    used = checked(bench)
    assert used[:3] == (3, 1, 2)
    assert overflow_rtts(bench) == 198
    for exchange in EXCHANGES:
        there, back = IP(src="10.1.1.1", dst="11.1.1.1"), IP(src="11.1.1.1", dst="10.1.1.1")
        for entry, at_ns, frame in (
            (EGRESS, START_NS, ETHER / there / exchange.ask(4, 1)),
            (INGRESS, START_NS + MS, ETHER / back / exchange.answer(4, 1)),
        ):
            bench.feeders[entry].set(bytes(frame))
            bench.feeders[entry].run(at_ns)
    assert overflow_rtts(bench) == 198 + len(EXCHANGES)
    assert checked(bench) == used
    reading = bench.collector.reader().read()
    assert int(reading.rtts.buckets.counts.sum()) == bench.counters()["rtt_measured"] == 200 + len(EXCHANGES)
    totals = [reading.counters["classes"][way]["packets"].sum() for way in ("from", "to")]
    seen = sum(int(bench.interface_counters[way]["packets"].sum()) for way in ("received", "transmitted"))
    assert totals == [seen, seen]
