# SPDX-License-Identifier: Apache-2.0
"""Tests mirror ports and links in one direction.

A mirror port receives both directions of a conversation. Mirror ports are detected. RTTs are measured on an interface
that is configured as a mirror port. A link may also carry only one direction of a conversation. The kernel's mirred
action copies the traffic between a client and a server to `span0`, as a switch copies traffic to a SPAN port. The peer
of `span0` is `mon0`, which is on the monitoring host.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scapy.layers.dns import DNS, DNSQR

from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.methods import METHODS
from otel_epping.kernel.read.directions import Directions, Flows, Traffic, count, pick, share
from otel_epping.kernel.read.reader import Reader
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.support.command import Agent
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S
from tests.support.probes import PROBED, ask

pytestmark = pytest.mark.parallel


CONFIG = EppingConfig(max_subnets=256, max_flows=1024, sample_interval_ns=0)
REQUESTS = 12
BOTH = ("ingress", "egress")


@dataclass
class Lab:
    """A client, a server, and a monitoring host.

    The monitoring host gets copies of the packets on the client's interface.
    """

    client: Namespace
    server: Namespace
    monitor: Namespace

    def mirror(self, *directions: str) -> None:
        """Copy the packets of the client's interface to `span0`. The directions are "ingress", "egress" or both."""
        self.client.run("tc", "qdisc", "replace", "dev", "a0", "clsact")
        for direction in directions:
            match = "protocol all u32 match u32 0 0"
            self.client.run(*f"tc filter add dev a0 {direction} {match} action mirred egress mirror dev span0".split())

    def resolve(self, address: str, queries: int) -> None:
        """Send DNS queries to an address of the server. Wait for the response to each query."""
        with self.server.entered():
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((address, 53))
        with self.client.entered():
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, client:
            for number in range(queries):
                question = DNSQR(qname="example.net")
                client.sendto(bytes(DNS(id=number, qd=question)), (address, 53))
                _, asker = server.recvfrom(512)
                server.sendto(bytes(DNS(id=number, qr=1, qd=question)), asker)
                client.recv(512)

    @contextmanager
    def talking(self, conversations: int = 1) -> Iterator[None]:
        """Open TCP connections, each with REQUESTS requests and responses.

        The connections stay open while the body of the `with` statement runs.
        """
        with self.server.entered():
            listener = socket.create_server(("10.7.0.2", 5000))
        with closing(listener):
            ends = []
            for _ in range(conversations):
                with self.client.entered():
                    ends.append((socket.create_connection(("10.7.0.2", 5000), PATIENCE_S), listener.accept()[0]))
                for _ in range(REQUESTS):
                    time.sleep(0.005)  # meanwhile, the clocks of the TCP timestamps advance
                    for sender, receiver in (ends[-1], ends[-1][::-1]):
                        sender.sendall(b"data")
                        assert receiver.recv(4) == b"data"
            try:
                yield
            finally:
                for each in (end for pair in ends for end in pair):
                    each.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Namespace("client") as client, Namespace("server") as server, Namespace("monitor") as monitor:
        client.ip(
            f"link add a0 type veth peer name b0 netns {server.path}",
            f"link add span0 type veth peer name mon0 netns {monitor.path}",
            "address add 10.7.0.1/24 dev a0",
            "link set a0 up",
            "link set span0 up",
        )
        server.ip("address add 10.7.0.2/24 dev b0", "link set b0 up")
        monitor.ip("link set mon0 up promisc on", "link set lo up")
        yield Lab(client, server, monitor)


@pytest.fixture
def collector() -> Iterator[EppingCollector]:
    with EppingCollector(CONFIG) as collector:
        yield collector


def rtts(reader: Reader) -> set[tuple[str, int]]:
    """Return the pairs (method, side) for which RTTs were measured."""
    reading = reader.read()
    rtts = reading.rtts
    found = np.flatnonzero(rtts.buckets.totals())
    sides = reading.slots["key"]["side"][rtts.rows[found]]
    return {(METHODS[method].name, side) for method, side in zip(rtts.methods[found], sides.tolist(), strict=True)}


def flows_of(collector: EppingCollector, name: str) -> Flows | None:
    """Return the unidirectional flows that the latest check found on an interface, or None if there were none."""
    found = [
        flows for number, flows in collector.directions.flows.items() if collector.attachments.names[number] == name
    ]
    return found[0] if found else None


@pytest.mark.parametrize("role", [Role.WAN, Role.LAN])
@pytest.mark.parametrize(("where", "interface"), [("monitor", "mon0"), ("client", "span0")], ids=["ingress", "egress"])
def test_a_mirror_port_is_detected(
    lab: Lab, collector: EppingCollector, caplog: pytest.LogCaptureFixture, role: Role, where: str, interface: str
) -> None:
    lab.mirror(*BOTH)
    reader = collector.reader()
    with getattr(lab, where).entered():
        collector.attachments.attach(interface, role)
    reader.read()
    for _ in range(2):  # the second time, the warning is not logged again
        with lab.talking(3):
            assert rtts(reader) == set()
            eventually(
                lambda: bool(reader.read() and collector.directions.mirrors), PATIENCE_S, "the flows are reported"
            )
    assert collector.directions.mirrors == {interface}
    flows = flows_of(collector, interface)
    assert flows
    assert flows.same_way >= 6
    assert not flows.both_ways
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line.startswith(f"{interface}: both directions of TCP flows (3) arrive the same way, so no RTT is measured")
    assert line.endswith("select it with --mirror instead")

    with getattr(lab, where).entered():
        collector.attachments.attach(interface, Role.MIRROR)
    with lab.talking():
        assert rtts(reader) >= {("tcp_timestamp", 2), ("tcp_handshake", 2)}
    collector.reader().read()  # a new reader makes a check at once
    assert not collector.directions.mirrors


def test_an_ordinary_interface_is_not_a_mirror_port(
    lab: Lab, collector: EppingCollector, caplog: pytest.LogCaptureFixture
) -> None:
    reader = collector.reader()
    with lab.client.entered():
        collector.attachments.attach("a0")
    with lab.talking(3):
        assert {side for _, side in rtts(reader)} == {0, 1}
    collector.directions.now_ns = lambda: 10**18
    reader.read()
    assert (collector.directions.mirrors, flows_of(collector, "a0")) == (frozenset(), None)
    assert not caplog.records


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("direction", BOTH)
def test_a_missing_direction_is_reported(
    lab: Lab, collector: EppingCollector, caplog: pytest.LogCaptureFixture, role: Role, direction: str
) -> None:
    lab.mirror(direction)
    reader = collector.reader()
    with lab.monitor.entered():
        collector.attachments.attach("mon0", role)
    now_ns = 0
    collector.directions.now_ns = lambda: now_ns
    with lab.talking(4):
        eventually(lambda: bool(reader.read() and flows_of(collector, "mon0")), PATIENCE_S, "the flows are reported")
        assert flows_of(collector, "mon0") == Flows(0, 0, 4)
        assert not caplog.records, "flows may lack a direction shortly after their first packet"
        now_ns = 20_000_000_000
        for _ in range(2):
            collector.reader().read()
    assert not collector.directions.mirrors
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("mon0: only one direction of TCP flows (4) is seen, so their RTTs are not measured: ")


@pytest.mark.parametrize(
    ("directions", "address", "expected"),
    [
        (BOTH, "10.9.0.2", {"mon0"}),
        (("egress",), "10.9.0.2", set()),
        (("ingress",), "10.9.0.2", set()),
        (BOTH, "10.7.0.2", set()),
    ],
    ids=["both", "there", "back", "same_subnet"],
)
def test_a_mirror_port_without_tcp(
    lab: Lab,
    collector: EppingCollector,
    caplog: pytest.LogCaptureFixture,
    directions: tuple[str, ...],
    address: str,
    expected: set[str],
) -> None:
    """A mirror port is also detected by traffic without TCP, if the traffic is between subnets.

    Traffic within one subnet has no known direction.
    """
    lab.server.ip("address add 10.9.0.2/24 dev b0")
    lab.client.ip("route add 10.9.0.0/24 dev a0")
    lab.mirror(*directions)
    reader = collector.reader()
    with lab.monitor.entered():
        collector.attachments.attach("mon0")
    lab.resolve(address, 20)
    reader.read()
    assert collector.directions.mirrors == expected
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "mon0: both directions between subnets" for _ in expected
    ]
    with lab.monitor.entered():
        collector.attachments.attach("mon0", Role.MIRROR)
    lab.resolve(address, 2)
    assert rtts(reader) == ({("dns", 2)} if len(directions) == 2 else set())
    assert not collector.directions.mirrors


def test_an_agent_at_a_mirror_port(lab: Lab, start: Callable[..., Agent]) -> None:
    lab.mirror(*BOTH)
    with Sink(namespace=lab.monitor) as sink:
        arguments = ["--interval", "200ms", *PROBED]
        where = {"namespace": lab.monitor, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        agent = start("-i", "mon0", *arguments, **where)
        assert ask(lab.monitor, "/readyz")[0] == 200
        with lab.talking():
            agent.wait_for("mon0: both directions of TCP flows (1) arrive the same way")
            eventually(lambda: ask(lab.monitor, "/readyz")[0] == 503, PATIENCE_S, "the agent is not ready")
        text = "both directions of TCP flows are incoming on mon0: use --mirror for mirror ports"
        assert ask(lab.monitor, "/readyz")[1]["measured"] == {"ok": False, "text": text}
        sink.clear()
        sink.wait_for(lambda received: received.requests, PATIENCE_S)
        found = {
            point.attributes[semconv.FLOW_REVERSE]: point.point.as_int
            for point in sink.points(metric_table.UNIDIRECTIONAL.name)
        }
        assert found == {"same_way": 2, "missing": 0}
        assert not sink.points(metric_table.RTT.name)
        assert agent.stop() == 0

        agent = start("--mirror", "mon*", *arguments, **where)
        sink.clear()
        with lab.talking():
            sink.wait_for(lambda received: received.points(metric_table.RTT.name), PATIENCE_S)
        assert {point.attributes[semconv.SIDE] for point in sink.points(metric_table.RTT.name)} == {"unknown"}
        assert ask(lab.monitor, "/readyz")[0] == 200
        assert agent.stop() == 0
        assert "WARNING" not in agent.log.read_text()


KEY = np.dtype(
    [
        ("internal", [("half", np.uint64, (2,))]),
        ("external", [("half", np.uint64, (2,))]),
        ("internal_port", np.uint16),
        ("external_port", np.uint16),
        ("interface", np.uint16),
        ("family", np.uint8),
    ]
)


def keys_of(*flows: tuple[int, int, int, int, int]) -> np.typing.NDArray[Any]:
    """Return the keys of flows.

    A flow is given as (interface, internal address, internal port, external address, external port).
    """
    keys = np.zeros(len(flows), KEY)
    for key, (interface, inside, inside_port, outside, outside_port) in zip(keys, flows, strict=True):
        key["interface"], key["internal_port"], key["external_port"] = interface, inside_port, outside_port
        key["internal"]["half"], key["external"]["half"] = (0, inside), (0, outside)
    return keys


def test_flows_are_counted_by_interface() -> None:
    there, back = (1, 7, 70, 8, 80), (1, 8, 80, 7, 70)
    keys = keys_of(there, back, (1, 7, 71, 8, 80), (1, 8, 80, 7, 72), (2, 8, 80, 7, 71), (2, 7, 70, 9, 80))
    assert count(np.array([3, 3, 1], np.uint16), keys, 1) == {1: Flows(1, 2, 2), 2: Flows(0, 0, 2), 3: Flows(2, 0, 0)}
    assert count(np.zeros(0, np.uint16), keys_of(), 1) == {}


def test_of_many_flows_a_sample_is_checked() -> None:
    flows = [(1, 7, 1024 + port % 60_000, 8, 80 + port // 60_000) for port in range(100_000)]
    keys = keys_of(*flows, *((1, *flow[3:], *flow[1:3]) for flow in flows))
    one_in = share(len(keys))
    picked = keys[pick(keys, one_in)]
    assert one_in > 1
    assert len(picked) < 2 * 4096
    found = count(np.zeros(0, np.uint16), picked, one_in)[1]
    assert (found.both_ways, found.one_way) == (0, 0)
    assert found.same_way == pytest.approx(200_000, rel=0.2)


def test_which_traffic_is_checked() -> None:
    def tcp(*segments: int) -> Traffic:
        return Traffic((segments[0], segments[1]), (1000, 0))

    directions = Directions()
    assert not directions.suspects({1: tcp(9, 0), 2: tcp(1000, 200)})
    assert directions.suspects({1: tcp(10, 0)})
    assert directions.suspects({1: tcp(9, 0), 2: tcp(0, 20)})
    directions.update({1: Flows(0, 4, 0)}, {1: "mon0"}, {1: Role.WAN}, {1: tcp(10, 0)})
    assert directions.mirrors == {"mon0"}
    assert not directions.suspects({1: tcp(30, 0)}), "the interface is already known to be a mirror port"
    directions.update({}, {2: "eth0"}, {}, {2: tcp(1000, 1000)})
    assert (directions.mirrors, directions.flows) == (frozenset(), {})
    assert not directions.suspects({2: tcp(1005, 1000)})
    assert directions.suspects({2: tcp(1100, 1001)})
