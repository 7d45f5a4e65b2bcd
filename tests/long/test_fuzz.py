# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzzer (tests/long/fuzz) for a short time. Also proves that the fuzzer finds faults. Some tests change a
rule of the model, and some tests inject a fault into the source code of the kernel program.
"""

import random
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import scapy.contrib.mpls  # noqa: F401 (has Ether find labels)
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import loader
from tests.long.fuzz import command, episodes, flows, links, meaning, methods, rules
from tests.long.fuzz.rules import Step
from tests.long.fuzz.trial import Trial, shrink

pytestmark = pytest.mark.parallel


SEED = 3
MOST_EPISODES = 60
ECHOES = {(8, 0), (0, 0), (128, 0), (129, 0)}  # the type and code of echo requests and replies, RFC 792 and RFC 4443


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    trial = Trial(command.CONFIGS["every"])
    yield trial
    trial.close()


def first_fault(trial: Trial) -> tuple[episodes.Episode, list[str]]:
    """Return the first episode in which the program and the model disagree, and a list of the disagreements."""
    for number in range(MOST_EPISODES):
        episode = episodes.make(f"{SEED}", number, trial.config)
        if found := trial.run(episode):
            return episode, found
    raise AssertionError(f"the fault was not found in {MOST_EPISODES} episodes")


def check_agreement(trial: Trial, config: str, packets: int) -> None:
    outcome = command.feed(command.Task(config, SEED, packets), trial)
    assert outcome.fault == ""
    assert outcome.mutated >= packets
    assert outcome.rtts > packets / 25


def test_program_and_model_agree(trial: Trial) -> None:
    check_agreement(trial, "every", 16_000)


def test_program_and_model_agree_about_tunnels() -> None:
    trial = Trial(command.CONFIGS["tunnels"])
    try:
        check_agreement(trial, "tunnels", 5_000)
    finally:
        trial.close()


def test_an_episode_depends_only_on_its_number_and_the_seed() -> None:
    for number in (0, 7, 15, 23, 31):
        assert episodes.make("1", number, EppingConfig()) == episodes.make("1", number, EppingConfig())
        assert episodes.make("1", number, EppingConfig()).steps != episodes.make("2", number, EppingConfig()).steps


# Wrong rules for the model. Each row has the module, the name in the module, the wrong value, and a part of the text of
# the expected disagreement.
WRONG_RULES: list[tuple[Any, str, Any, str]] = [
    (meaning, "MOST_LINK_HEADERS", 7, "non_ip"),
    (links, "FIXED", links.FIXED | {0x8909: 4}, "tcp"),
    (links, "PPP", {0x0021: 0x0800, 0x0057: 0x86DD}, "non_ip"),
    (meaning, "MOST_EXTENSIONS", 7, "malformed"),
    (meaning, "FRAGMENT", 59, "udp"),
    (methods, "ACK", 0, "rtt"),
    (rules, "SIDES", {role: sides[::-1] for role, sides in rules.SIDES.items()}, "traffic"),
    (methods, "later", lambda a, b: a > b, "rtt"),
    (rules, "prefix", lambda address, bits: address, "the model has this subnet"),
    (rules, "RTT_MIN_NS", 2_000, "RTTs of"),
    (methods, "FIN", 0, "rtt_begun"),
    (methods.QuicHandshake, "FLIGHT_NS", 0, "rtt_repeated"),
    (flows, "OVERTAKEN_NS", 4_000_000, "out_of_order"),
    (flows, "IDLE_NS", 2 * flows.IDLE_NS, "opened 1"),
]


@pytest.mark.parametrize(("where", "name", "value", "about"), WRONG_RULES, ids=[rule[1] for rule in WRONG_RULES])
def test_a_wrong_rule_in_the_model_is_found(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any, about: str
) -> None:
    monkeypatch.setattr(where, name, value)
    _, found = first_fault(trial)
    assert any(about in line for line in found), found


# Faults to inject into the program. Each row has the file, the correct text, the faulty text, the maximum number of
# packets in the reduced episode, and the configuration in which the fault causes a disagreement.
FAULTS = {
    "a pure ACK starts a sample": (
        "tcp_timestamp.h",
        "return packet->payload || flags & TCP_FIN;",
        "return true;",
        3,
        "tcp_timestamp",
    ),
    "a TCP option is read beyond its end": (
        "tcp_options.h",
        "i + TCPOLEN_TIMESTAMP > length ||",
        "",
        2,
        "tcp_timestamp",
    ),
    "the length of a link header is too small": (
        "link_headers.h",
        "ROW(0x8909, 8)",
        "ROW(0x8909, 6)",
        2,
        "tcp_timestamp",
    ),
    "a fragmented segment counts as whole": ("parse.h", "packet->tcp_flags |= TCP_IS_CUT;", "", 9, "tcp_sequence"),
    "an IP length that exceeds the packet is accepted": (
        "fast_path.h",
        "total + ETH_HLEN > wire_length(skb)",
        "false",
        3,
        "tcp_timestamp",
    ),
    "a keep-alive counts as retransmitted": (
        "tcp_retransmission.h",
        "packet->payload <= 1 &&",
        "false &&",
        3,
        "tcp_timestamp",
    ),
    "newcomers take all slots": (
        "subnet.h",
        "in_use(newcomers) * FREE_PER_NEWCOMER",
        "in_use(newcomers)",
        9,
        "overflow",
    ),
    "an answered subnet stays a newcomer": (
        "rtt.h",
        "__sync_fetch_and_add(&newcomers->claimed, -1);",
        ";",
        3,
        "overflow",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_injected_fault_of_the_program_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, right, wrong, most, config = FAULTS[fault]
    sources = Path(shutil.copytree(loader.source_folder(), tmp_path / "bpf"))
    text = (sources / file).read_text()
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong))
    monkeypatch.setattr(loader, "source_folder", lambda: sources)
    trial = Trial(command.CONFIGS[config])
    try:
        episode, _ = first_fault(trial)
        steps = shrink(trial, episode, lambda text: None)
        # The remaining packets are sufficient to cause the disagreement. If one of the remaining packets is removed,
        # the program and the model agree.
        assert trial.run(episode, steps)
        assert 1 <= len(steps) <= most
    finally:
        trial.close()


def whole_packets(count: int) -> Iterator[tuple[Step, int]]:
    """Yield packets without mutations, alternately without and with a link header."""
    chance = random.Random(SEED)
    for place in range(count):
        link_header = meaning.ETHERNET * (place % 2)
        yield episodes.any_packet(chance, link_header), link_header


def as_scapy_reads(packet: Packet) -> tuple[Any, ...]:
    """Return the source, destination and ECN field, and the TCP, UDP and ICMP echo fields that the methods use."""
    ends = ip_address(packet.src).packed, ip_address(packet.dst).packed
    ecn = (packet.tos if packet.version == 4 else packet.tc) & 3
    upper = packet.payload
    if isinstance(upper, TCP):
        numbers = int(upper.flags), upper.seq, upper.ack, upper.window, len(upper.payload)
        return "tcp", *ends, ecn, upper.sport, upper.dport, *numbers, dict(upper.options).get("Timestamp")
    if isinstance(upper, UDP):
        return "udp", *ends, ecn, upper.sport, upper.dport, bytes(upper.payload)[:8]
    if isinstance(upper, (ICMP, ICMPv6EchoRequest, ICMPv6EchoReply)) and (upper.type, upper.code) in ECHOES:
        return "icmp", *ends, ecn, upper.type, struct.pack(">HH", upper.id, upper.seq)
    return "", *ends, ecn


def as_the_model_reads(read: meaning.Meaning) -> tuple[Any, ...]:
    ends, ports = (read.source[0], read.destination[0]), (read.source[1], read.destination[1])
    if read.kind == "tcp":
        numbers = read.flags, read.sequence, read.acknowledged, read.window, read.payload
        return "tcp", *ends, read.ecn, *ports, *numbers, read.timestamp
    if read.kind == "udp":
        return "udp", *ends, read.ecn, *ports, read.head
    if read.echo and (read.echo[0], 0) in ECHOES:
        return "icmp", *ends, read.ecn, *read.echo
    return "", *ends, read.ecn


def test_the_model_reads_whole_packets_as_scapy_does() -> None:
    seen: Counter[tuple[int, str]] = Counter()
    for step, link_header in whole_packets(1000):
        read = meaning.read(step.frame, link_header, len(step.frame))
        assert read.kind != "malformed"
        if not read.version:
            continue
        packet = (IP if read.version == 4 else IPv6)(step.frame[read.network_at :])
        ours, theirs = as_the_model_reads(read), as_scapy_reads(packet)
        # scapy returns the whole payload. The model returns the first 8 bytes, or nothing if the payload has fewer than
        # 8 bytes.
        assert ours == theirs or (ours[0] == "udp" and ours[:-1] == theirs[:-1] and len(theirs[-1]) < 8), step
        seen[read.version, ours[0]] += 1
    assert {(version, kind) for version in (4, 6) for kind in ("tcp", "udp", "icmp", "")} == set(seen)


def test_scapy_finds_ip_after_the_same_link_headers() -> None:
    found = 0
    for step, link_header in whole_packets(1000):
        read = meaning.read(step.frame, link_header, len(step.frame))
        if link_header and read.version:
            packet = Ether(step.frame).getlayer(IP if read.version == 4 else IPv6)
            # scapy does not support MPLS labels after PPP, or the VLAN tags that were used before 802.1ad.
            if packet is not None:
                assert bytes(packet) == step.frame[read.network_at :]
                found += 1
    assert found > 300
