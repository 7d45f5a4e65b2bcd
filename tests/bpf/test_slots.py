# SPDX-License-Identifier: Apache-2.0
"""Tests how the program finds the slot of an address. Each subnet has its own slot. If the slot that is cached in a
flow now belongs to another subnet, the program notices the change."""

import itertools
import random
import struct
from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from otel_epping.kernel import libbpf
from otel_epping.kernel.config import EppingConfig
from tests.support.packets import ETHER
from tests.support.prog_test_run import EXTERNAL, INTERNAL, MS, Bench, delete_element

pytestmark = pytest.mark.parallel


V4_LENGTHS = (0, 1, 8, 15, 16, 17, 24, 31, 32)
V6_LENGTHS = (0, 1, 32, 48, 56, 63, 64, 65, 96, 127, 128)
# Each IPv4 prefix length is tested with only one IPv6 prefix length, because the program must be compiled again for
# each pair of prefix lengths.
LENGTHS = list(itertools.zip_longest(V4_LENGTHS, V6_LENGTHS, fillvalue=24))


@pytest.mark.parametrize(("v4_length", "v6_length"), LENGTHS)
def test_a_slot_has_the_subnet_of_the_address(v4_length: int, v6_length: int) -> None:
    chance = random.Random(v6_length)
    bench = Bench(
        EppingConfig(packet_clock=True, prefix_v4=v4_length, prefix_v6=v6_length, max_subnets=256, max_flows=64)
    )
    expected: dict[tuple[str, int], int] = {}
    for _ in range(25):
        base = chance.randbytes(16)
        # Feed an address twice. Then feed two similar addresses: one differs in the last bit of the prefix, the other
        # in the first bit after the prefix.
        for bits in ((), (v4_length, v6_length), (v4_length - 1, v6_length - 1)):
            for version, width, length in ((4, 32, v4_length), (6, 128, v6_length)):
                number = int.from_bytes(base[: width // 8], "big")
                bit = bits[version == 6] if bits else -1
                if 0 <= bit < width:
                    number ^= 1 << (width - 1 - bit)
                address = ip_address(number) if version == 4 else IPv6Address(number)
                here = "192.0.2.1" if version == 4 else "2001:db8::1"
                layer = IP if version == 4 else IPv6
                bench.feed(ETHER / layer(src=str(address), dst=here) / UDP())
                for end, side in ((str(address), EXTERNAL), (here, INTERNAL)):
                    key = str(ip_network(f"{end}/{length}", strict=False)), side
                    expected[key] = expected.get(key, 0) + 1
    found: dict[tuple[str, int], int] = {}
    for slot in bench.slots_in_use():
        subnet, side, row = bench.describe(slot)
        assert row == bench.row
        assert bench.slot_of(subnet, side) == slot
        found[str(subnet), side] = sum(packets for packets, _ in bench.traffic_of(slot).values())
    assert found == expected
    bench.close()


def test_an_ipv4_mapped_address_on_the_wire_is_ipv6() -> None:
    bench = Bench(EppingConfig(packet_clock=True, prefix_v4=32, prefix_v6=128, max_subnets=64, sample_interval_ns=0))
    v4 = bench.flow(client="10.1.2.3", server="10.4.5.6").begun(1000)
    v6 = bench.flow(6, client="::ffff:10.1.2.3", server="::ffff:10.4.5.6")
    v4.client(1 * MS, 1001)
    with bench.counting() as counted:
        assert v6.server(2 * MS, 5, tsecr=1001) is None
    assert counted["flows_created"] == 1
    assert v4.server(3 * MS, 5, tsecr=1001) == 2 * MS
    slots = [bench.slot_of(ip_network(server), EXTERNAL) for server in ("10.4.5.6/32", "::ffff:10.4.5.6/128")]
    assert None not in slots
    assert slots[0] != slots[1]
    bench.close()


def test_a_flow_does_not_count_into_a_slot_of_another_subnet() -> None:
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=64, sample_interval_ns=0))
    maps = bench.collector.program.maps
    flow = bench.flow().begun(1000)
    subnet = ip_network(f"{flow.addresses[1]}/24", strict=False)
    flow.client(1 * MS, 1001)
    assert flow.server(2 * MS, 5000, tsecr=1001) == 1 * MS
    slot = bench.slot_of(subnet, EXTERNAL)
    assert slot
    was = bench.traffic_of(slot)

    # User space reclaims the slot and assigns it to another subnet.
    key = bench.slots["key"][slot].tobytes()
    other = bytearray(key)
    other[14] ^= 1
    assert libbpf.map_lookup(maps["subnets"].fd, key, 4) == slot.to_bytes(4, "little")
    delete_element(maps["subnets"].fd, key)
    libbpf.map_update(maps["subnets"].fd, bytes(other), slot.to_bytes(4, "little"))
    assert bench.slot_of(subnet, EXTERNAL) is None
    # At first, the program still uses the slot that is cached in the flow.
    flow.server(3 * MS, 5001, tsecr=1001)
    assert bench.traffic_of(slot)["from tcp_timestamp"][0] == was["from tcp_timestamp"][0] + 1
    was = bench.traffic_of(slot)
    # The program looks up the slot again after the epoch has been raised.
    epoch, interval = struct.unpack("=II", libbpf.map_lookup(maps["control"].fd, bytes(4), 8) or b"")
    libbpf.map_update(maps["control"].fd, bytes(4), struct.pack("=II", epoch + 1, interval))
    flow.client(4 * MS, 1004)
    frame = flow.frame(1, "PA", 5002, 1004, b"data")
    rtt = bench.feed(frame, flow.start_ns + 6 * MS)
    assert rtt == (2 * MS, subnet, EXTERNAL, bench.row)
    assert bench.traffic_of(slot) == was
    new = bench.slot_of(subnet, EXTERNAL)
    assert new not in (None, slot)
    assert bench.traffic_of(new or 0)["from tcp_timestamp"] == (1, len(frame))
    bench.close()
