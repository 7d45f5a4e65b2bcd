# SPDX-License-Identifier: Apache-2.0
"""Sends packets with arbitrary external addresses to two internal hosts, one for each IP version, in a fast loop.

Forger counts all packets by subnet, side and class, as the program must count them.
"""

import random
import struct
from collections import Counter
from ipaddress import ip_address, ip_network

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Packet

from tests.support.packets import ETHER
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, INTERNAL, START_NS, Bench, Feeder, Network

HERE = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
KINDS = ("syn", "udp", "echo")
_CLASS = {"syn": "tcp_other", "udp": "udp", "echo": "icmp", "reply": "icmp", "request": "icmp"}
# Offsets in a frame: the source address, the destination address, and the identifier of an ICMP echo message.
_SOURCE, _DESTINATION, _ECHO_ID = {4: 26, 6: 22}, {4: 30, 6: 38}, {4: 38, 6: 58}

_PREFIX = {4: 3, 6: 6}  # bytes: the default prefix lengths

Key = tuple[bytes, int]  # the prefix of a subnet, and the side
Tallies = dict[str, tuple[int, int]]  # the format of Bench.traffic_of(): (packets, bytes)


def _transport(kind: str, version: int) -> Packet:
    if kind == "syn":
        return TCP(sport=40_000, dport=443, flags="S", seq=1000)
    if kind == "udp":
        return UDP(sport=40_000, dport=5_000) / b"twelve bytes"
    if version == 4:
        return ICMP(type=0 if kind == "reply" else 8, id=7, seq=0)
    return (ICMPv6EchoReply if kind == "reply" else ICMPv6EchoRequest)(id=7, seq=0)


def random_address(version: int, chance: random.Random) -> bytes:
    """Returns a random IPv4 address, or a random address in 2000::/3."""
    if version == 4:
        return chance.randbytes(4)
    return bytes([0x20 | chance.randrange(32)]) + chance.randbytes(15)


class Forger:
    """Sends packets, and counts the packets by external prefix and kind."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._sent: Counter[tuple[bytes, str]] = Counter()
        self._feeders: dict[tuple[str, int], tuple[Feeder, int]] = {}
        self._echoes = 0
        for version, here in HERE.items():
            for kind in _CLASS:
                entry = EGRESS if kind == "request" else INGRESS
                network = (IP if version == 4 else IPv6)(src=str(here), dst=str(here))
                frame = bytes(ETHER / network / _transport(kind, version))
                feeder = Feeder(bench.collector.program.entry_points[entry])
                feeder.set(frame)
                self._feeders[kind, version] = feeder, len(frame)

    def send(self, kind: str, remote: bytes, at_ns: int = START_NS) -> None:
        """Sends a packet from `remote` to the internal host, or an echo request from the internal host to `remote`."""
        version = 4 if len(remote) == 4 else 6
        feeder, _ = self._feeders[kind, version]
        offset = (_DESTINATION if kind == "request" else _SOURCE)[version]
        feeder.data[offset : offset + len(remote)] = remote  # type: ignore[call-overload]
        feeder.run(at_ns)
        self._sent[remote[: _PREFIX[version]], kind] += 1

    def answer(self, remote: bytes, rtt_ns: int, at_ns: int = START_NS) -> None:
        """Sends an echo request to `remote`, and the reply after `rtt_ns`."""
        version = 4 if len(remote) == 4 else 6
        self._echoes = (self._echoes + 1) % 2**32
        for kind, time_ns in (("request", at_ns), ("reply", at_ns + rtt_ns)):
            struct.pack_into("!I", self._feeders[kind, version][0].data, _ECHO_ID[version], self._echoes)
            self.send(kind, remote, time_ns)

    def flood(self, packets: int, seed: int, at_ns: int = START_NS) -> None:
        """Sends packets of all kinds and both IP versions from random addresses."""
        chance = random.Random(seed)
        for number in range(packets):
            self.send(KINDS[number % 3], random_address(chance.choice((4, 6)), chance), at_ns)

    def counted(self) -> dict[Key, Tallies]:
        """Returns the packets and bytes that the program must count for each key. The keys are in the order of their
        first packets."""
        counted: dict[Key, Tallies] = {}
        for (prefix, kind), packets in self._sent.items():
            version = 4 if len(prefix) == _PREFIX[4] else 6
            size = packets * self._feeders[kind, version][1]
            remote, here = (prefix, EXTERNAL), (HERE[version].packed[: _PREFIX[version]], INTERNAL)
            ways = ((here, "from"), (remote, "to")) if kind == "request" else ((remote, "from"), (here, "to"))
            for key, way in ways:
                merge(counted.setdefault(key, {}), {f"{way} {_CLASS[kind]}": (packets, size)})
        return counted


def merge(total: Tallies, tallies: Tallies) -> None:
    """Adds packets and bytes to a total."""
    for name, (packets, size) in tallies.items():
        before = total.get(name, (0, 0))
        total[name] = before[0] + packets, before[1] + size


def subnet_of(address: bytes) -> Network:
    """Returns the subnet of an address."""
    return ip_network((address, 8 * _PREFIX[4 if len(address) == 4 else 6]), strict=False)


def keys_with_slots(bench: Bench) -> dict[Key, int]:
    """Returns the slots of all subnets, by key."""
    found = {}
    for slot in bench.slots_in_use():
        subnet, side, _ = bench.describe(slot)
        found[subnet.network_address.packed[: _PREFIX[subnet.version]], side] = slot
    return found
