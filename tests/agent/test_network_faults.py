# SPDX-License-Identifier: Apache-2.0
"""Runs the agent in three situations: interface removal, other programs, full maps."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from bench.programs import load, run_times
from otel_epping.kernel import libbpf
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.long.fuzz import builders
from tests.support.command import Agent
from tests.support.handshake import exchange, packet_socket
from tests.support.hosts import Hosts, dropping, latest_total, runs, udp_socket
from tests.support.other_programs import BPF_F_AFTER

PACKETS = metric_table.SUBNET_PACKETS.name
HOOKS = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
INTERFACE_PACKETS = "epping.interface.packet.count"


def test_an_interface_that_is_removed_under_load(hosts: Hosts, start: Callable[..., Agent]) -> None:
    """Two threads send at full speed, one in each direction. One of two interfaces is removed.

    The agent counts every packet of the interface that is not removed.
    """
    kept, gone = hosts.join(0), hosts.join(1)
    sent = dict.fromkeys(("10.77.1.1", "10.77.1.2"), 0)

    def flood(one: socket.socket, here: str, there: str) -> None:
        with suppress(OSError):  # the interface was removed, so the network is unreachable
            while True:
                one.sendto(b"flood", (there, 9))
                sent[here] += 1

    with Sink(namespace=hosts.here) as sink, ExitStack() as undo:
        agent = start(
            *("-i", kept, "-i", gone, "--interval", "100ms"),
            namespace=hosts.here,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
        )
        ends = [undo.enter_context(udp_socket(hosts.here, "10.77.1.1", 9))]
        ends.append(undo.enter_context(udp_socket(hosts.there, "10.77.1.2", 9)))
        threads = [
            threading.Thread(target=flood, args=(end, *addresses))
            for end, addresses in zip(ends, (list(sent), list(sent)[::-1]), strict=True)
        ]
        for number, name in enumerate((kept, gone)):
            raw = []
            for namespace in (hosts.here, hosts.there):
                with namespace.entered():
                    raw.append(undo.enter_context(packet_socket(name)))
            exchange(raw[0], raw[1], f"10.77.{number}.1", f"10.77.{number}.2")
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        before = sum(sent.values())
        hosts.here.ip(f"link delete {gone}")
        for thread in threads:
            thread.join()
        with udp_socket(hosts.there, "10.77.0.2", 9) as end:
            for _ in range(100):
                end.sendto(b"still here", ("10.77.0.1", 9))
        assert agent.stop() == 0
        assert latest_total(sink, INTERFACE_PACKETS, kept) >= 100
        assert latest_total(sink, PACKETS, kept) == 2 * latest_total(sink, INTERFACE_PACKETS, kept)
        counted = latest_total(sink, INTERFACE_PACKETS, gone)
        assert latest_total(sink, PACKETS, gone) == 2 * counted
        # The kernel answers each of the three segments of the handshake with a RST.
        assert before <= counted <= sum(sent.values()) + len(sent) + 2 * 3
    assert before > 1000


def test_programs_before_and_after_see_all_packets_and_decide(hosts: Hosts, start: Callable[..., Agent]) -> None:
    """The agent runs before other programs, and sees packets that the other programs drop.

    A program that was attached before the agent drops packets of 101 bytes. A program that was attached after the agent
    drops packets of 102 bytes. The agent runs first and sees all packets.
    """
    name = hosts.join(0)
    with Sink(namespace=hosts.here) as sink, ExitStack() as undo:
        undo.enter_context(run_times())
        before, after = load("before", dropping(101)), load("after", dropping(102))
        with hosts.here.entered():
            ifindex = socket.if_nametoindex(name)
        for fd in (before, after):
            undo.callback(os.close, fd)

        def attach(fd: int) -> None:
            with hosts.here.entered():
                for hook in HOOKS:
                    undo.callback(os.close, libbpf.link_create(fd, ifindex, hook, BPF_F_AFTER))

        attach(before)
        agent = start("-i", name, namespace=hosts.here, OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        attach(after)
        here = undo.enter_context(udp_socket(hosts.here, "10.77.0.1", 9))
        there = undo.enter_context(udp_socket(hosts.there, "10.77.0.2", 9))
        for one, other in ((here, "10.77.0.2"), (there, "10.77.0.1")):
            for length in (100, 101, 102) * 20:
                with suppress(OSError):  # send() fails if an egress program drops the packet
                    one.sendto(bytes(length - 14 - 20 - 8), (other, 9))
        for one in (here, there):
            one.settimeout(1)
            assert {len(one.recv(2000)) for _ in range(20)} == {100 - 42}
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(2000)
        assert (runs(before), runs(after)) == (120, 80)
        assert agent.stop() == 0
        assert latest_total(sink, INTERFACE_PACKETS) == 120
        with hosts.here.entered():
            assert [libbpf.attached_count(ifindex, hook) for hook in HOOKS] == [2, 2]


def test_full_maps_lose_no_packet(hosts: Hosts, start: Callable[..., Agent]) -> None:
    """Ten subnets that answer share nine slots, and 3000 flows share 1024 entries of the flow table."""
    name = hosts.join(0)
    with Sink(namespace=hosts.here) as sink, ExitStack() as undo:
        ends = []
        for namespace in (hosts.here, hosts.there):
            with namespace.entered():
                ends.append(undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)))
            ends[-1].bind((name, 0))
        agent = start(
            *("-i", name, "--max-subnets", "4", "--max-flows", "1024"),
            namespace=hosts.here,
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
        )
        for flow in range(3000):
            # During a handshake, the program measures an RTT for both subnets. Each subnet has its own covering
            # prefix (bpf/subnet.h).
            ports, addresses = (1024 + flow, 443), (bytes((10 + flow % 5, 1, 1, 1)), bytes((20 + flow % 5, 1, 1, 1)))
            for sender, numbers, flags in ((0, (1, 0), 0x02), (1, (1, 2), 0x12), (0, (2, 2), 0x10)):
                segment = builders.tcp((ports[sender], ports[1 - sender]), *numbers, flags)
                packet = builders.ip(addresses[sender], addresses[1 - sender], 6, segment)
                ends[sender].send(builders.link((), 4) + packet)
        assert agent.stop() == 0
        assert latest_total(sink, INTERFACE_PACKETS) == 9000
        assert latest_total(sink, PACKETS) == 18_000
        points = sink.points(PACKETS)
        named = {one.attributes[semconv.SUBNET] for one in points if semconv.SUBNET in one.attributes}
        assert len(named) == 9
        shared = sum(one.point.as_int for one in points if semconv.SUBNET not in one.attributes)
        assert 1800 <= shared <= 1800 + 9 * 3, "packets of one subnet, and packets before the first RTTs"
        assert {"otel.metric.overflow": True} in [one.attributes for one in points]
