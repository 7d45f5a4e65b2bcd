# SPDX-License-Identifier: Apache-2.0
"""Tests the lab itself, which the live tests use. The tests use plain sockets and the clock of this process."""

import json
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

import dpkt
import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_epping.lab import traffic
from otel_epping.lab.collectors import collector
from otel_epping.lab.namespaces import LabError, Namespace, start
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import DEFAULT_NETWORKS, WAN_INTERFACE, DelayedNetwork, Lab, server_address
from tests.support.patience import PATIENCE_S

MS = 1_000_000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve()
        yield lab


# ---- the link and the topology


def connect(lab: Lab, address: str) -> socket.socket:
    with lab.client.entered():
        connection = socket.create_connection((address, traffic.PORT), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@pytest.mark.parametrize("network", DEFAULT_NETWORKS, ids=lambda network: str(network.subnet))
def test_round_trips_take_the_delay_of_their_subnet(lab: Lab, network: DelayedNetwork) -> None:
    address = server_address(network)
    connect(lab, address).close()  # this connection makes the hosts resolve the addresses of their neighbours
    started_ns = time.monotonic_ns()
    connection = connect(lab, address)
    rtts_ns = [time.monotonic_ns() - started_ns]
    with connection:
        for _ in range(6):
            started_ns = time.monotonic_ns()
            connection.sendall(traffic.request(100, 100))
            assert len(connection.recv(100, socket.MSG_WAITALL)) == 100
            rtts_ns.append(time.monotonic_ns() - started_ns)
    assert min(rtts_ns) >= network.delay_ns
    assert statistics.median(rtts_ns) <= network.delay_ns + max(0.15 * network.delay_ns, 3 * MS)


def test_the_longest_prefix_decides_and_other_addresses_have_no_delay() -> None:
    networks = [
        DelayedNetwork(ip_network("198.18.0.0/15"), 40 * MS),
        DelayedNetwork(ip_network("198.18.7.0/24"), 10 * MS),
    ]
    with Lab(networks) as lab:
        lab.servers.ip("address add 192.0.2.77 dev lo")
        lab.serve()
        for address, delay_ns in ((lab.addresses[0], 40 * MS), (lab.addresses[1], 10 * MS), ("192.0.2.77", 0)):
            connect(lab, address).close()
            started_ns = time.monotonic_ns()
            connect(lab, address).close()
            assert delay_ns <= time.monotonic_ns() - started_ns < delay_ns + 8 * MS, address


def test_packets_of_a_subnet_keep_their_order(lab: Lab) -> None:
    address = server_address(DEFAULT_NETWORKS[2])
    with lab.servers.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab.client.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((address, 6000))
        receiver.settimeout(5)
        for number in range(150):
            sender.sendto(struct.pack("!I", number), (address, 6000))
        assert [struct.unpack("!I", receiver.recv(4))[0] for _ in range(150)] == list(range(150))


def test_a_limited_rate_fills_a_queue_of_150_ms_and_drops_more_packets() -> None:
    size, sent = 1400, 200
    slow = DelayedNetwork(ip_network("192.0.2.0/24"), 10 * MS, bits_per_s=4_000_000)
    frame_s = (14 + 20 + 8 + size) * 8 / 4_000_000
    with Lab([slow]) as lab:
        lab.serve()
        handshakes_ns = []
        for _ in range(4):
            started_ns = time.monotonic_ns()
            connection = connect(lab, lab.addresses[0])
            handshakes_ns.append(time.monotonic_ns() - started_ns)
            # Waits for the end of the connection. A late TCP packet would share the queue with the UDP packets below.
            with connection:
                connection.shutdown(socket.SHUT_WR)
                assert not connection.recv(1)
        # The limited rate adds 0.15 ms in each direction.
        assert slow.delay_ns <= min(handshakes_ns) < slow.delay_ns + 8 * MS
        with lab.servers.entered():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lab.client.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, sender:
            receiver.bind((lab.addresses[0], 6000))
            receiver.settimeout(0.5)
            for _ in range(sent):
                sender.sendto(bytes(size), (lab.addresses[0], 6000))
            arrivals_s = []
            with suppress(TimeoutError):
                while receiver.recv(size):
                    arrivals_s.append(time.monotonic())
    assert lab.statistics is not None
    assert lab.statistics.dropped_at_rate == sent - len(arrivals_s) > 0
    assert len(arrivals_s) >= 0.15 / frame_s
    assert arrivals_s[-1] - arrivals_s[0] == pytest.approx((len(arrivals_s) - 1) * frame_s, abs=0.03)


def test_a_download_ends_after_its_bytes() -> None:
    with Lab(DEFAULT_NETWORKS[:1]) as lab:
        lab.serve()
        download = lab.download(lab.client, lab.addresses[0], 1_000_000)
        assert download.wait(PATIENCE_S) == 0
        counters = json.loads(lab.client.run("ip", "-statistics", "-json", "link", "show", "eth0"))[0]["stats64"]
    assert counters["rx"]["bytes"] > 1_000_000


def test_only_the_legacy_host_sends_no_timestamps(lab: Lab) -> None:
    with lab.router.entered():
        # 3 is ETH_P_ALL of linux/if_ether.h
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        capture.bind((WAN_INTERFACE, 0))
    with_timestamps: dict[bytes, set[bool]] = {}
    with capture:
        capture.settimeout(0.3)
        for host in (lab.client, lab.legacy):
            totals = traffic.result(lab.talk(host, "--duration", "0.6", "--connections", "1"))
            assert not totals.errors
            assert set(totals.requests) == set(lab.addresses)
        try:
            while True:
                packet = dpkt.ethernet.Ethernet(capture.recv(2000)).data
                # The kernel sends a RST segment without TCP timestamps, as RFC 7323 section 3.2 permits.
                if isinstance(packet.data, dpkt.tcp.TCP) and not packet.data.flags & dpkt.tcp.TH_RST:
                    options = dict(dpkt.tcp.parse_opts(packet.data.opts))
                    with_timestamps.setdefault(packet.src, set()).add(dpkt.tcp.TCP_OPT_TIMESTAMP in options)
        except TimeoutError:
            pass
    for family, net in ((socket.AF_INET, "10.{}.0.2"), (socket.AF_INET6, "fd00:{}::2")):
        assert with_timestamps[socket.inet_pton(family, net.format(1))] == {True}
        assert with_timestamps[socket.inet_pton(family, net.format(2))] == {False}


def test_the_link_forwards_3000_packets_a_second_in_time() -> None:
    with Lab() as lab:
        lab.serve()
        started = time.monotonic()
        totals = traffic.result(
            lab.talk(lab.client, "--duration", "3", "--connections", "10", "--pause", "0.01", "0.03")
        )
        elapsed_s = time.monotonic() - started
    assert not totals.errors
    assert lab.statistics is not None
    assert lab.statistics.forwarded / elapsed_s > 3000
    assert lab.statistics.late_median_ns < 1 * MS
    assert lab.statistics.dropped_queue_full == lab.statistics.dropped_write_failed == 0


def test_a_full_queue_is_counted() -> None:
    with Lab([DelayedNetwork(ip_network("192.0.2.0/24"), 60_000 * MS)]) as lab:
        with lab.client.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for number in range(24_000):
                sender.sendto(b"", ("192.0.2.10", 6000))
                if number % 100 == 0:
                    time.sleep(0.008)  # the device's own queue holds only 1000 packets
    assert lab.statistics is not None
    assert 0 < lab.statistics.dropped_queue_full <= 4_000


# ---- clean-up


def namespace_inodes(lab: Lab) -> set[str]:
    return {str(Path(namespace.path).readlink()) for namespace in (lab.client, lab.legacy, lab.router, lab.servers)}


def traces_of(inodes: set[str]) -> list[str]:
    """Return each process, open descriptor and mount on this machine that keeps one of the namespaces alive."""
    found = []
    for link in [*Path("/proc").glob("[0-9]*/task/[0-9]*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")]:
        try:
            target = str(link.readlink())
        except OSError:  # the process or the descriptor has gone since it was listed
            continue
        if target in inodes:
            found.append(str(link))
    mounts = Path("/proc/self/mountinfo").read_text()
    return found + [inode for inode in inodes if inode in mounts]


def open_descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def temporary_files() -> set[Path]:
    return set(Path(tempfile.gettempdir()).iterdir())


def wait_until(condition: Callable[[], bool], timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


def test_nothing_is_left_after_exit() -> None:
    descriptors, interfaces = open_descriptors(), socket.if_nameindex()
    with Lab() as lab:
        lab.serve()
        talking = lab.talk(lab.client)
        inodes = namespace_inodes(lab)
        assert traces_of(inodes)
    assert talking.poll() is not None
    assert traces_of(inodes) == []
    assert open_descriptors() <= descriptors, "no descriptor is left open"
    assert socket.if_nameindex() == interfaces


PARENT = """
import json, os, sys, time
from otel_epping.lab.collectors import collector
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import Lab
with Lab() as lab, Sink(namespace=lab.router) as sink, collector(sink, namespace=lab.router) as forwarder:
    lab.serve()
    lab.talk(lab.client)
    namespaces = [lab.client, lab.legacy, lab.router, lab.servers]
    print(json.dumps([os.readlink(namespace.path) for namespace in namespaces]), flush=True)
    time.sleep(60)
"""


def test_nothing_is_left_after_the_parent_was_killed() -> None:
    files, interfaces = temporary_files(), socket.if_nameindex()
    parent = start([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        inodes = set(json.loads(parent.stdout.readline()))
        processes = {trace.split("/")[2] for trace in traces_of(inodes)} - {str(parent.pid)}
        assert len(processes) == 4, "the processes are the link, the server, the client and the collector"
        parent.kill()
    assert wait_until(lambda: not traces_of(inodes)), traces_of(inodes)
    assert wait_until(lambda: not [process for process in processes if Path("/proc", process).exists()])
    assert socket.if_nameindex() == interfaces
    assert not [file for file in temporary_files() - files if "epping" in file.name]


def test_the_error_of_a_failing_command_names_its_cause() -> None:
    with Namespace("example") as namespace:
        with pytest.raises(LabError, match=r"in namespace example: `ip -batch -` failed .*no-such-device"):
            namespace.ip("link set no-such-device up")
        with pytest.raises(LabError, match=r"cannot set net\.ipv4\.no_such=1: No such file"):
            namespace.sysctl("net.ipv4.no_such", 1)


# ---- the sink and the collector


def exporter_for(protocol: str, endpoint: str, compress: bool) -> MetricExporter:
    if protocol == "grpc":
        compression = grpc.Compression.Gzip if compress else grpc.Compression.NoCompression
        return GrpcExporter(endpoint, insecure=True, compression=compression, headers={"x-test": "yes"})
    http_compression = HttpCompression.Gzip if compress else HttpCompression.NoCompression
    return HttpExporter(endpoint, compression=http_compression, headers={"x-test": "yes"})


def export_once(exporter: MetricExporter) -> None:
    """Export two instruments with the official SDK: a counter `apples` with the value 3, and a histogram `sizes`."""
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], resource=Resource({"service.name": "test"}))
    meter = provider.get_meter("test")
    meter.create_counter("apples").add(3, {"kind": "red", "ripe": True})
    meter.create_histogram("sizes").record(1.5)
    provider.shutdown()


def assert_apples_arrived(sink: Sink) -> None:
    [apples] = sink.wait_for(lambda sink: sink.points("apples"), PATIENCE_S)
    assert apples.resource["service.name"] == "test"
    assert apples.attributes == {"kind": "red", "ripe": True}
    assert apples.point.as_int == 3
    assert apples.temporality == 2
    [sizes] = sink.points("sizes")
    assert (sizes.point.count, sizes.point.sum) == (1, 1.5)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_sink_receives_from_the_official_exporters(protocol: str, compress: bool) -> None:
    with Sink() as sink:
        endpoint = sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint
        export_once(exporter_for(protocol, endpoint, compress))
        assert_apples_arrived(sink)
        [received] = sink.received
    assert received.protocol == protocol
    assert received.size == received.request.ByteSize()
    assert received.headers["x-test"] == "yes"
    if protocol == "http":
        assert (received.headers.get("content-encoding") == "gzip") is compress


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_sink_fails_on_request_and_recovers(protocol: str) -> None:
    with Sink() as sink:
        sink.fail_with(503)
        endpoint = sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint
        exporting = threading.Thread(target=export_once, args=[exporter_for(protocol, endpoint, False)])
        exporting.start()
        sink.wait_for(lambda sink: sink.rejected == 1, PATIENCE_S)
        assert sink.requests == []
        sink.recover()
        assert_apples_arrived(sink)  # the exporters send the request again after 503 and UNAVAILABLE
        exporting.join()


def test_the_timeout_of_wait_for_lists_the_received_requests() -> None:
    with Sink() as sink, pytest.raises(TimeoutError, match="0 requests accepted, 0 rejected"):
        sink.wait_for(lambda sink: sink.requests, 0.05)


EXPORT = """
import sys
from tests.lab.test_lab import export_once, exporter_for
export_once(exporter_for(sys.argv[1], sys.argv[2], True))
"""


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_collector_forwards_to_the_sink(protocol: str) -> None:
    forward: Literal["grpc", "http"] = "http" if protocol == "grpc" else "grpc"
    with Sink() as sink, collector(sink, forward=forward) as forwarder:
        export_once(
            exporter_for(
                protocol, forwarder.grpc_endpoint if protocol == "grpc" else forwarder.http_endpoint, compress=True
            )
        )
        assert_apples_arrived(sink)
        assert [received.protocol for received in sink.received] == [forward]


def test_sink_and_collector_work_inside_a_namespace() -> None:
    with Namespace("inside") as inside, Sink(namespace=inside) as sink, collector(sink, namespace=inside) as forwarder:
        for port in (sink.grpc_port, sink.http_port, forwarder.grpc_port, forwarder.http_port):
            with socket.socket() as outside:
                assert outside.connect_ex(("127.0.0.1", port)) != 0
        inside.run(sys.executable, "-c", EXPORT, "http", sink.http_endpoint)
        assert_apples_arrived(sink)
        sink.clear()
        inside.run(sys.executable, "-c", EXPORT, "grpc", forwarder.grpc_endpoint)
        assert_apples_arrived(sink)
