# SPDX-License-Identifier: Apache-2.0
"""Named networks for tests, a second implementation of the longest-prefix match with `ipaddress`, and packets between
any two addresses."""

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import FAMILY_NAMED, Reading
from otel_epping.networks.network import PREFIX, Network, Networks
from tests.support.prog_test_run import EXTERNAL, Bench

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV4_MAPPED = bytes(10) + b"\xff\xff"


def networks_of(names: Mapping[Prefix, str]) -> Networks:
    """Return named networks from the name of each prefix."""
    numbers: dict[str, int] = {}
    prefixes = np.zeros(len(names), PREFIX)
    for row, (prefix, name) in enumerate(names.items()):
        packed, length = prefix.network_address.packed, prefix.prefixlen
        if prefix.version == 4:
            packed, length = _IPV4_MAPPED + packed, 96 + length
        prefixes[row] = (np.frombuffer(packed, np.uint8), length, numbers.setdefault(name, len(numbers)))
    return Networks(tuple(Network(name) for name in numbers), prefixes)


class Oracle:
    """Finds the name or the subnet for which an address counts."""

    def __init__(self, names: Mapping[Prefix, str], config: EppingConfig) -> None:
        self._names, self._lengths = names, {4: config.prefix_v4, 6: config.prefix_v6}
        self._present = {
            version: sorted({prefix.prefixlen for prefix in names if prefix.version == version}, reverse=True)
            for version in (4, 6)
        }

    def __call__(self, address: Address) -> str:
        for length in self._present[address.version]:
            name = self._names.get(ipaddress.ip_network((address, length), strict=False))
            if name is not None:
                return name
        return str(ipaddress.ip_network((address, self._lengths[address.version]), strict=False))


def frame(source: Address, destination: Address, tcp: bool = False) -> bytes:
    """Return a UDP packet, or a TCP segment that creates a flow: an ACK without options."""
    if tcp:
        rest = struct.pack("!HHIIBBHHH", 1024, 443, 1, 1, 5 << 4, 0x10, 1000, 0, 0)
    else:
        rest = struct.pack("!HHHH", 1024, 443, 8 + 12, 0) + bytes(12)
    protocol, addresses = 6 if tcp else 17, source.packed + destination.packed
    if source.version == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), 0, 0, 64, protocol, 0) + addresses
    else:
        header = struct.pack("!IHBB", 6 << 28, len(rest), protocol, 64) + addresses
    return bytes(12) + (b"\x08\x00" if source.version == 4 else b"\x86\xdd") + header + rest


class Counts:
    """The packets that a bench has counted for each name and each subnet."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._before = self._now()

    def owner(self, slot: int) -> tuple[str, int]:
        """Return the name or the subnet to which a slot belongs, and its side."""
        key = self._bench.slots["key"][slot]
        if key["family"] == FAMILY_NAMED:
            assert key["prefix"]["half"][1] == 0
            return self._bench.collector._networks.by_number[int(key["prefix"]["half"][0])].name, int(key["side"])
        subnet, side, _ = self._bench.describe(slot)
        return str(subnet), side

    def _now(self) -> Counter[tuple[str, int, str]]:
        classes = self._bench.traffic["classes"]
        found: Counter[tuple[str, int, str]] = Counter()
        for way in ("from", "to"):
            packets = classes[way]["packets"].sum(axis=(1, 2))
            for slot in np.flatnonzero(packets).tolist():
                owner = self.owner(slot) if slot > 1 else (f"slot {slot}", 0)
                found[(*owner, way)] += int(packets[slot])
        return found

    def new(self) -> Counter[tuple[str, int, str]]:
        """Return the packets since the previous call, by (name or subnet, side, "from" or "to")."""
        now = self._now()
        new, self._before = now - self._before, now
        return new


def feed(bench: Bench, packets: Iterable[tuple[Address, Address, bool]], at_ns: int, entry: str) -> None:
    """Feed packets: (source, destination, whether the packet is a TCP segment)."""
    feeder = bench.feeders[entry]
    for source, destination, tcp in packets:
        feeder.set(frame(source, destination, tcp))
        feeder.run(at_ns)


def echo(source: Address, destination: Address, number: int, reply: bool = False) -> bytes:
    """Return an echo request, or the reply to the request with this number."""
    is_v4 = source.version == 4
    kind = (0 if reply else 8) if is_v4 else (129 if reply else 128)
    plain = frame(source, destination)
    at = 14 + (9 if is_v4 else 6)  # protocol of IPv4, next header of IPv6
    body = struct.pack("!BBHHH", kind, 0, 0, number >> 16, number & 0xFFFF)
    return plain[:at] + bytes([1 if is_v4 else 58]) + plain[at + 1 : -20] + body + bytes(12)


class Totals:
    """Adds up what one reader reads: the packets from each external owner, and its RTTs."""

    def __init__(self, bench: Bench) -> None:
        self.reader = bench.collector.reader()
        self.rows: dict[str, set[tuple[int, int]]] = {}
        self._counts: dict[tuple[str, int, int], tuple[int, int]] = {}
        self._lengths = {4: bench.config.prefix_v4, 6: bench.config.prefix_v6}

    def read(self) -> Reading:
        reading = self.reader.read()
        used = reading.rtts.generation & 1 == 1
        rtts = np.bincount(reading.rtts.rows[used], reading.rtts.buckets.totals()[used], len(reading.slots))
        packets = reading.counters["classes"]["from"]["packets"].sum(axis=1)
        keys = reading.slots["key"]
        for row in np.flatnonzero((reading.generation & 1 == 1) & (keys["side"] == EXTERNAL)).tolist():
            key, generation = keys[row], int(reading.generation[row])
            if key["family"] == FAMILY_NAMED:
                name = reading.networks[int(key["prefix"]["half"][0])].name
            else:
                packed = key["prefix"].tobytes()
                address = ipaddress.ip_address(packed[12:] if key["family"] == 4 else packed)
                name = str(ipaddress.ip_network((address, self._lengths[address.version])))
            self.rows.setdefault(name, set()).add((row, generation))
            self._counts[name, row, generation] = int(packets[row]), int(rtts[row])
        return reading

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return the packets and the RTTs of each name and each subnet, in all its slots."""
        found: dict[str, tuple[int, int]] = {}
        for (name, _, _), (packets, rtts) in self._counts.items():
            before = found.get(name, (0, 0))
            found[name] = before[0] + packets, before[1] + rtts
        return found
