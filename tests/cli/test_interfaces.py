# SPDX-License-Identifier: Apache-2.0
"""Tests interfaces that are unknown, down, removed, of an unsupported type, or without link header.

Also tests two interfaces at once.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from otel_epping.errors import EppingError
from otel_epping.kernel.attach import interfaces
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.support.command import Agent, converse, epping, said
from tests.support.handshake import shake_hands
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S


def test_the_error_for_an_unknown_interface_lists_the_known_ones(ns: Namespace) -> None:
    line = "there is no interface 'eth7': choose one of down0, down1, lo, up0, up1"
    assert said(epping(ns, "run", "-i", "lo", "-i", "eth7")) == line


@pytest.mark.parametrize("name", ["", "x" * 40, "\udcff", "a\nb"], ids=ascii)
def test_names_that_no_interface_can_have(ns: Namespace, name: str) -> None:
    assert "there is no interface" in said(epping(ns, "run", "-i", name))


def test_interface_that_is_down(ns: Namespace) -> None:
    assert said(epping(ns, "run", "-i", "down0")) == "interface down0 is down: ip link set down0 up"


@pytest.fixture
def tun(ns: Namespace) -> Iterator[Callable[[int], None]]:
    """Return a function that creates the interface tun0 with a given hardware type (linux/if_arp.h), and sets it up."""
    fds: list[int] = []

    def tun(hardware: int) -> None:
        with ns.entered():
            fds.append(os.open("/dev/net/tun", os.O_RDWR))
            fcntl.ioctl(fds[-1], 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
        fcntl.ioctl(fds[-1], 0x400454CD, hardware)  # TUNSETLINK
        ns.ip("link set tun0 up")

    yield tun
    for fd in fds:
        os.close(fd)


def test_ethernet_and_loopback_have_a_link_header(ns: Namespace) -> None:
    with ns.entered():
        assert [interfaces.find(name).link_header for name in ("lo", "up0")] == [14, 14]


@pytest.mark.parametrize(
    "hardware", [24, 32, 256, 257, 258, 259, 512, 513, 519, 768, 769, 774, 776, 778, 823, 825, 65534]
)
def test_other_types_with_ip_have_no_ethernet_header(ns: Namespace, tun: Callable[[int], None], hardware: int) -> None:
    tun(hardware)
    with ns.entered():
        assert interfaces.find("tun0").link_header == 0


@pytest.mark.parametrize("hardware", [280, 801, 804], ids=["CAN", "Wi-Fi monitor", "IEEE 802.15.4"])
def test_link_types_without_ip_are_rejected(ns: Namespace, tun: Callable[[int], None], hardware: int) -> None:
    tun(hardware)
    with ns.entered(), pytest.raises(EppingError, match=f"ARPHRD {hardware}.*does not carry IP"):
        interfaces.find("tun0")


def test_counts_of_a_removed_interface_are_exported(ns: Namespace, start: Callable[..., Agent]) -> None:
    ns.ip("link add gone0 type veth peer name gone1", "address add 10.8.0.1/24 dev gone0")
    ns.ip("link set gone0 up", "link set gone1 up")
    with Sink(namespace=ns) as sink:
        agent = start(
            *("--lan", "gone0", "--interval", "200ms", "--metrics", "all"),
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
        )
        with ns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.bind(("10.8.0.1", 0))
            shake_hands("gone0", "gone1", "10.8.0.1", "10.8.0.2")
            for _ in range(7):
                sender.sendto(b"to nobody", ("10.8.0.255", 9))
        sink.wait_for(lambda received: received.requests, PATIENCE_S)
        ns.ip("link delete gone0")
        sink.clear()
        sink.wait_for(lambda received: len(received.requests) >= 2, PATIENCE_S)
        sink.clear()
        assert agent.stop() == 0
        points = sink.points(metric_table.SUBNET_PACKETS.name)
        udp = [point for point in points if point.attributes.get(semconv.TRAFFIC_CLASS) == "udp"]
        assert sum(point.point.as_int for point in udp) >= 7
        # On an interface to the LAN, a transmitted packet comes from an external subnet.
        sides = {(point.attributes[semconv.SUBNET_DIRECTION], point.attributes[semconv.SIDE]) for point in udp}
        assert sides == {("from", "external"), ("to", "internal")}


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_series_of_a_removed_interface_end(ns: Namespace, start: Callable[..., Agent], temporality: str) -> None:
    def named() -> set[str]:
        """Return the names of the interfaces for which the next export contains points."""
        sink.clear()
        sink.wait_for(lambda received: len(received.requests) >= 2, PATIENCE_S)
        return {str(point.attributes[semconv.INTERFACE]) for point in sink.points(metric_table.INTERFACE_ATTACHED.name)}

    def wait_for(*names: str) -> None:
        eventually(lambda: named() == set(names), PATIENCE_S, f"the agent exports points of {names} only")

    with Sink(namespace=ns) as sink:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
        }
        agent = start("-i", "lo", "-i", "gone*", "--interval", "200ms", **settings)
        for turn in range(2):
            ns.ip(f"link add gone{turn} type veth peer name peer{turn}", f"link set gone{turn} up")
            wait_for("lo", f"gone{turn}")
            ns.ip(f"link delete gone{turn}")
            wait_for("lo")
        assert agent.stop() == 0


def test_two_agents_count_the_same_with_their_own_options(ns: Namespace, start: Callable[..., Agent]) -> None:
    settings = {
        "OTEL_EPPING_INTERFACE": "lo",
        "OTEL_EPPING_LAN": "up0",
        "OTEL_EPPING_SCALE": "2",
        "OTEL_EPPING_PREFIX_V4": "8",
    }
    settings |= {"OTEL_EPPING_SAMPLE_INTERVAL": "0", "OTEL_EPPING_INTERVAL": "1m"}
    twice = ["-i", "lo", "-i", "lo", "--prefix-v4", "24"]
    with Sink(namespace=ns) as first, Sink(namespace=ns) as second:
        agents = [
            start(OTEL_EXPORTER_OTLP_ENDPOINT=first.grpc_endpoint, **settings),
            start(*twice, "--scale", "3", OTEL_EXPORTER_OTLP_ENDPOINT=second.grpc_endpoint, **settings),
        ]
        converse(ns)
        assert [agent.stop() for agent in agents] == [0, 0]
        assert "watching lo, up0:" in agents[0].log.read_text()
        assert "watching lo, up0:" in agents[1].log.read_text()  # lo is selected twice, but listed once
        for sink, subnet, scale in ((first, "127.0.0.0/8", 2), (second, "127.0.0.0/24", 3)):
            rtts = sink.points(metric_table.RTT.name)
            assert {point.attributes[semconv.SUBNET] for point in rtts} == {subnet}
            assert {point.point.scale for point in rtts} == {scale}
            assert sum(point.point.count for point in rtts) >= 20
