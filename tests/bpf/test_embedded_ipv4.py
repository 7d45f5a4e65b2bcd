# SPDX-License-Identifier: Apache-2.0
"""Tests which IPv6 addresses count for the IPv4 address inside them."""

import ipaddress
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otel_epping.errors import EppingError
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.embedded_ipv4 import NAT64_LENGTHS
from otel_epping.replay.capture import Capture
from otel_epping.replay.replayer import Replayer
from tests.support.named import Address, Counts, feed, networks_of
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, MS, START_NS, Bench

pytestmark = pytest.mark.parallel

HOST = IPv4Address("192.0.2.33")
# The examples of RFC 6052, section 2.4: all addresses contain HOST.
RFC_6052 = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
    "64:ff9b::/96": "64:ff9b::192.0.2.33",
}
ALL = ("nat64", "6to4", "teredo", "mapped", *list(RFC_6052)[:-1])
CLIENT = IPv6Address("fd00:1::1")
CAPTURE = Path(__file__).parents[3] / "shared/pcaps/reddit.pcap"


@pytest.fixture(scope="module")
def loaded() -> Iterator[Callable[..., Bench]]:
    """Returns a function that returns a program with the given kinds of embedded addresses."""
    benches: dict[tuple[str, ...], Bench] = {}

    def loaded(*kinds: str) -> Bench:
        if kinds not in benches:
            benches[kinds] = Bench(EppingConfig(packet_clock=True, max_subnets=8192, embedded_ipv4=kinds))
        return benches[kinds]

    yield loaded
    for bench in benches.values():
        bench.close()


def counted_for(bench: Bench, address: Address, peer: Address = CLIENT) -> str:
    """Return the subnet for which an address counts: as source and destination, with and without a flow."""
    counts, found = Counts(bench), set()
    for tcp in (False, True):
        for _ in range(2):
            feed(bench, [(address, peer, tcp)], START_NS, INGRESS)
            feed(bench, [(peer, address, tcp)], START_NS, EGRESS)
    new = counts.new()
    for way in ("from", "to"):
        found |= {owner for owner, side, counted in new if counted == way and side == EXTERNAL}
        assert sum(number for (_, side, counted), number in new.items() if (side, counted) == (EXTERNAL, way)) == 4
    (subnet,) = found
    return subnet


@pytest.mark.parametrize("prefix", RFC_6052)
def test_examples_of_the_rfc(loaded: Callable[..., Bench], prefix: str) -> None:
    address = IPv6Address(RFC_6052[prefix])
    assert address in IPv6Network(prefix)
    for kinds in ((prefix,), ALL):
        assert counted_for(loaded(*kinds), address) == "192.0.2.0/24"
    assert counted_for(loaded("none"), address) == str(ipaddress.ip_network((address, 48), strict=False))
    default = counted_for(loaded(*EppingConfig().embedded_ipv4), address)
    assert (default == "192.0.2.0/24") == (prefix == "64:ff9b::/96")


def embed(prefix: IPv6Network, host: IPv4Address, suffix: int) -> IPv6Address:
    """Return the address of RFC 6052, section 2.2, as text of bits: prefix, IPv4 address, suffix, and bits 64 to 71."""
    head, bits = f"{int(prefix.network_address):0128b}"[: prefix.prefixlen], f"{int(host):032b}"
    if prefix.prefixlen == 96:
        return IPv6Address(int(head + bits, 2))
    text = head + bits + f"{suffix:0128b}"
    return IPv6Address(int((text[:64] + "0" * 8 + text[64:])[:128], 2))


@given(host=st.integers(0, 2**32 - 1).map(IPv4Address), suffix=st.integers(0, 2**24 - 1), data=st.data())
@settings(deadline=None, max_examples=200)
def test_nat64_of_every_length(
    loaded: Callable[..., Bench], host: IPv4Address, suffix: int, data: st.DataObject
) -> None:
    prefix = IPv6Network(data.draw(st.sampled_from(list(RFC_6052)[:-1])))
    assert prefix.prefixlen in NAT64_LENGTHS
    bench = loaded(str(prefix))
    address = embed(prefix, host, suffix)
    assert counted_for(bench, address) == str(ipaddress.ip_network((host, 24), strict=False))
    if prefix.prefixlen < 96:
        octet = IPv6Address(int(address) ^ data.draw(st.integers(1, 255)) << 56)
        assert counted_for(bench, octet) == str(ipaddress.ip_network((octet, 48), strict=False))


def embedded_by(address: IPv6Address, kinds: tuple[str, ...]) -> IPv4Address | None:
    """Return the embedded address according to `ipaddress`."""
    teredo = address.teredo
    found = {"6to4": address.sixtofour, "teredo": teredo and teredo[1], "mapped": address.ipv4_mapped}
    return next((found[kind] for kind in kinds if found.get(kind) is not None), None)


KINDS = [("6to4",), ("teredo",), ("mapped",), ("6to4", "teredo", "mapped"), ("none",)]
HEADS = [0x2002 << 112, 0x20010000 << 96, 0xFFFF << 32, 0x20010001 << 96, 0x2003 << 112, 0xFFFE << 32, 1 << 64]


@pytest.mark.parametrize("kinds", KINDS, ids=",".join)
@given(head=st.sampled_from(HEADS), tail=st.integers(0, 2**32 - 1), middle=st.integers(0, 2**32 - 1))
@example(head=HEADS[0], tail=1, middle=int(HOST))
@settings(deadline=None)
def test_6to4_teredo_and_mapped(
    loaded: Callable[..., Bench], kinds: tuple[str, ...], head: int, tail: int, middle: int
) -> None:
    bench = loaded(*kinds)
    address = IPv6Address(head | tail | (middle << 80 if head >> 112 in (0x2002, 0x2003) else 0))
    host = embedded_by(address, kinds)
    expected = ipaddress.ip_network((host, 24) if host else (address, 48), strict=False)
    assert counted_for(bench, address) == str(expected)


def test_an_rtt_through_a_nat64_counts_for_the_ipv4_subnet(loaded: Callable[..., Bench]) -> None:
    """The keys of flows have the original addresses: a flow to the same IPv4 address through another prefix is another
    flow."""
    bench = loaded(*ALL)
    flows = [bench.flow(client=str(CLIENT), server=address) for address in list(RFC_6052.values())[:2]]
    for flow in flows:
        flow.begun()
        bench.feed(flow.frame(0, "PA", 1001, 0, b"data"), START_NS + 200 * MS, EGRESS)
    for number, flow in enumerate(flows):
        rtt = bench.feed(flow.frame(1, "PA", 9, 1001, b"data"), START_NS + (210 + number) * MS)
        assert rtt == ((10 + number) * MS, ipaddress.ip_network("192.0.2.0/24"), EXTERNAL, bench.row)


def test_a_named_network_contains_embedded_addresses() -> None:
    """Pairs whose subnet is split by a name, too."""
    config = EppingConfig(packet_clock=True, embedded_ipv4=ALL, named_networks=True)
    bench = Bench(config)
    names = {"192.0.2.32/28": "shop", "198.51.100.0/23": "office", "64:ff9b::/96": "never", "2001:db8::/31": "v6"}
    bench.collector.change_networks(networks_of({ipaddress.ip_network(prefix): name for prefix, name in names.items()}))
    for address in (
        *RFC_6052.values(),
        "2002:c000:0221::",
        "::ffff:192.0.2.33",
        "2001:0:4136:e378:8000:63bf:3fff:fdde",
    ):
        assert counted_for(bench, IPv6Address(address)) == "shop"
    assert counted_for(bench, IPv6Address("64:ff9b::192.0.2.48")) == "192.0.2.0/24"
    assert counted_for(bench, HOST, IPv4Address("10.0.0.1")) == "shop"
    assert counted_for(bench, IPv6Address("64:ff9b::198.51.101.7")) == "office"
    assert counted_for(bench, IPv6Address("2001:db9::1")) == "v6"
    bench.close()


@pytest.mark.skipif(not CAPTURE.exists(), reason="needs ../shared/pcaps")
def test_a_capture_of_a_mobile_network() -> None:
    """Each packet of the NAT64 /48 counts for an IPv4 subnet, and no other count changes."""
    totals = []
    for kinds in (("none",), ("nat64",)):
        replayer = Replayer(EppingConfig(embedded_ipv4=kinds))
        with replayer, Capture(str(CAPTURE)) as capture:
            for batch in capture.ethernet_batches():
                replayer.feed(batch)
            reading = replayer.reader().read()
            keys = reading.slots["key"]
            is_v4 = (keys["family"] == 4) & (reading.created_ns != 0)
            in_nat64 = (keys["family"] == 6) & (keys["prefix"]["half"][:, 0].byteswap() == 0x64FF9B00000000)
            counts = reading.counts.counters
            totals.append((is_v4.sum(), counts[is_v4].sum(axis=0), in_nat64.sum(), counts[in_nat64].sum(axis=0)))
    (no_subnets, _, one, before), (subnets, after, none, _) = totals
    assert (no_subnets, one, none) == (0, 1, 0)
    assert subnets > 10
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (("nat46",), "'nat46'"),
        (("2001:db8::/33",), "the length of a NAT64 prefix is one of 32, 40, 48, 56, 64, 96"),
        (("2001:db8::1/96",), "has host bits set"),
        (("2001:db8:0:0:100::/96",), "bits 64 to 71"),
        (("10.0.0.0/8",), "'10.0.0.0/8'"),
        (("none", "nat64"), "none must be the only value"),
        (tuple(f"2001:db8:{number}::/48" for number in range(9)), "at most 8"),
    ],
)
def test_bad_values(kinds: tuple[str, ...], text: str) -> None:
    with pytest.raises(EppingError) as caught:
        EppingConfig(embedded_ipv4=kinds)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
