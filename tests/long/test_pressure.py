# SPDX-License-Identifier: Apache-2.0
"""Tests that established flows are still measured when there are many new flows and SYNs, and that metrics show this
load.

`make pressure` runs a million new flows and a million SYNs, and prints how many RTTs are still measured if the flow
table is too small.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from otel_epping.otel import semconv
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.long.flood import Scenario
from tests.long.flood import run as run_flood
from tests.long.pressure import Load, run
from tests.support.command import epping
from tests.support.many_subnets import emptied
from tests.support.prog_test_run import Bench

pytestmark = pytest.mark.parallel


TABLE = 4096  # max_flows of the bench
PERIODS = 4
ENOUGH = 0.95
# All hosts are in one subnet. If each host were in its own subnet, the hosts would use all slots. Later tests need free
# slots.
LOAD = Load(flows=200, period_ms=500, duration_ms=500 * PERIODS, hosts=250)
POSSIBLE = LOAD.flows * (PERIODS - 1)  # the first segment of a flow may be a retransmission, so it is not timed

PRESSURE = {
    "per period, one new flow for every two table entries": replace(
        LOAD, strangers=TABLE * PERIODS // 2, packets_of_each=2
    ),
    "per period, four new flows of one packet for each table entry": replace(LOAD, strangers=4 * TABLE * PERIODS),
    "per period, four SYNs for each table entry": replace(LOAD, syns=4 * TABLE * PERIODS),
    "per period, two new flows and two SYNs for each table entry": replace(
        LOAD, strangers=2 * TABLE * PERIODS, syns=2 * TABLE * PERIODS
    ),
}


def test_without_new_flows_each_segment_gives_an_rtt(every: Bench) -> None:
    assert run(every, LOAD).samples == POSSIBLE


@pytest.mark.parametrize("pressure", PRESSURE)
def test_established_flows_are_still_measured(every: Bench, pressure: str) -> None:
    load = PRESSURE[pressure]
    outcome = run(every, load)
    assert ENOUGH * POSSIBLE <= outcome.samples <= POSSIBLE
    # Each new flow has an entry in the flow table. No flow was rejected.
    assert load.strangers <= outcome.counted["flows_created"]
    assert outcome.counted["flow_insert_failed"] == 0


def test_handshakes_are_measured_with_syns_for_half_of_the_table(every: Bench) -> None:
    load = Load(flows=0, rtt_ms=100, duration_ms=1000, handshakes=200, hosts=250)
    assert run(every, load).handshakes == 200
    assert run(every, replace(load, syns=TABLE // 2 * 10)).handshakes >= ENOUGH * 200


def exported(producer: EppingMetricProducer) -> dict[tuple[str, str], int]:
    """Return the exported counts, summed over all subnets.

    A key consists of the metric and the value of one attribute, such as the outcome of a measurement.
    """
    found: dict[tuple[str, str], int] = {}
    for metric in producer.produce().metrics:
        for point in metric.data.data_points:
            attributes = point.attributes or {}
            which = (semconv.OUTCOME, semconv.FLOW_CLOSING, semconv.FLOW_OPENING, semconv.METHOD)
            kind = next((str(attributes[name]) for name in which if name in attributes), "")
            number: Any = point.count if hasattr(point, "count") else point.value
            found[metric.name, kind] = found.get((metric.name, kind), 0) + number
    return found


def test_exported_metrics_show_the_pressure(every: Bench) -> None:
    producer = EppingMetricProducer(every.collector)
    before = exported(producer)
    load = replace(LOAD, strangers=4 * TABLE, syns=4 * TABLE)
    outcome = run(every, load)
    after = exported(producer)

    def more(metric: str, kind: str = "") -> int:
        return after.get((metric, kind), 0) - before.get((metric, kind), 0)

    assert more("epping.flow.count") == outcome.counted["flows_created"] >= load.strangers
    # An evicted flow is counted as closed by silence, once for the subnet of each host. The new flows belong to subnets
    # that never answered. The points of these subnets do not tell how a flow began or ended.
    assert more("epping.flow.opened.count") >= 2 * load.strangers
    assert after["epping.flow.active", ""] <= 2 * TABLE
    assert more("epping.flow.closed.count") >= 2 * (load.strangers - TABLE)
    # Each SYN without a reply starts an RTT sample that is never completed.
    outcomes = ("expired", "superseded", "repeated")
    spoiled = sum(more("epping.agent.measurement.count", kind) for kind in outcomes)
    measured = sum(more(metric, kind) for metric, kind in after if metric == "epping.rtt.duration")
    assert more("epping.agent.measurement.count", "begun") - measured - spoiled >= load.syns


@pytest.fixture(scope="module")
def small() -> Iterator[Bench]:
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=512, max_flows=4096, sample_interval_ns=0))
    yield bench
    bench.close()


FLOODS = {
    "60,000 forged sources": Scenario(forged=60_000, real=200, flood_s=30),
    "4,096 answering subnets of one covering prefix": Scenario(forged=0, attackers=4096, real=200, flood_s=30),
    # A slot that is reclaimed at a reading is free after the next reading. So in 10 s, half of the 64 slots of the
    # reserve can get a new owner.
    "1,300 networks that come and go": Scenario(forged=0, real=1300, start_s=0, flood_s=420, after_s=20, stay_s=5),
}


@pytest.mark.parametrize("scenario", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_subnets_hides_no_real_network(small: Bench, scenario: Scenario) -> None:
    limits = Limits(max_series=400, roll_up=True)
    emptied(small)
    run_flood(small, limits, scenario).check(scenario, small.config, limits)


def flood_capture(real: int, forged: int) -> list[Any]:
    """Return packets of a capture: echo requests to real networks, the replies of these networks, and packets from
    forged sources.

    We answer the SYNs, but no forged source answers.
    """
    chance, us = random.Random(1), "192.0.2.1"
    packets: list[Any] = []
    for number in range(forged):
        source = str(IPv4Address(chance.randrange(1 << 24, 224 << 24)))
        kind = number % 4
        if kind == 0:
            packets.append(IP(src=source, dst=us) / TCP(sport=1024 + number, dport=443, seq=1, flags="S"))
            answer = TCP(sport=443, dport=1024 + number, seq=7, ack=2, flags="SA")
            packets.append(IP(src=us, dst=source) / answer)
        elif kind == 1:
            packets.append(IP(src=source, dst=us) / UDP(sport=1024 + number, dport=53) / b"forged")
        elif kind == 2:
            packets.append(IP(src=source, dst=us) / ICMP(id=number))
        else:
            source_v6 = str(IPv6Address(chance.randrange(0x2A << 120, 0x2B << 120)))
            packets.append(IPv6(src=source_v6, dst="2001:db8::1") / UDP(sport=1024 + number, dport=53) / b"forged")
        if number % (forged // real) == 0:
            network = f"198.18.{number // (forged // real)}.1"
            packets += [IP(src=us, dst=network) / ICMP(id=number, seq=9)]
            packets += [IP(src=network, dst=us) / ICMP(type="echo-reply", id=number, seq=9)]
    frames = [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet for packet in packets]
    for number, frame in enumerate(frames):
        frame.time = 1_700_000_000 + number / 1000
    return frames


def test_replay_shows_the_real_networks_of_a_capture_with_a_flood(ns: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "flood.pcap"
    wrpcap(str(file), flood_capture(50, 4000))
    result = epping(ns, "replay", "--max-subnets", "500", "--max-flows", "1000", str(file))
    assert (result.returncode, result.stderr) == (0, "")
    table = result.stdout.partition("\n\n")[0].splitlines()[1:]
    real = [line for line in table if line.startswith("198.18.")]
    assert len(real) == 50
    assert all(line.split()[1:3] == ["icmp_echo", "1"] for line in real)
    (unanswered,) = [line for line in table if line.startswith("never answered")]
    found = re.match(r"never answered \(([\d,]+) subnets\) +- +0 +([\d,]+) +[\d,]+$", unanswered)
    assert found
    subnets, counted = (int(number.replace(",", "")) for number in found.groups())
    assert 0.9 * 4000 <= subnets <= 1.1 * 4000
    assert counted >= 4000
    # Our own network has answered SYNs.
    (ours,) = [line for line in table if line not in (unanswered, *real)]
    assert ours.startswith("192.0.2.0/24")
